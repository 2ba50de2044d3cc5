"""scikit-learn on a transposed memmap: as many jobs as you like, the same numbers."""

import numpy as np
import pytest
from joblib import parallel_config

pytest.importorskip("sklearn")

from sklearn.ensemble import RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@pytest.fixture
def samples(tmp_path):
    """Samples in the columns of a file; float32, of which forests make no copy."""
    columns = np.memmap(tmp_path / "samples", np.float32, "w+", shape=(6, 120))
    columns[:] = np.random.default_rng(0).normal(size=columns.shape)
    return columns.T


@pytest.fixture
def target(samples):
    return np.asarray(samples @ np.arange(1.0, 7.0) + 0.1 * np.sin(samples[:, 0]))


@pytest.fixture
def labels(target):
    return (target > 0).astype(int)


@pytest.fixture
def both(backend):
    """Return a function that calls with n_jobs=1, then with n_jobs=2 in workers."""

    def both(function):
        alone = function(n_jobs=1)
        with parallel_config(backend=backend):
            return alone, function(n_jobs=2)

    return both


def test_cross_val_score(both, samples, target):
    """Scores of a linear model; those of other data are near zero."""

    def scores(n_jobs):
        return cross_val_score(Ridge(), samples, target, n_jobs=n_jobs)

    alone, together = both(scores)
    np.testing.assert_array_equal(together, alone)
    assert alone.min() > 0.99


def test_grid_search(both, samples, labels):
    """All scores of the search, and the choice."""

    def search(n_jobs):
        grid = {"C": [0.01, 1, 100]}
        found = GridSearchCV(LogisticRegression(), grid, cv=3, n_jobs=n_jobs)
        found.fit(samples, labels)
        return found.cv_results_["mean_test_score"], found.best_params_

    alone, together = both(search)
    np.testing.assert_array_equal(together[0], alone[0])
    assert together[1] == alone[1]


def test_pipeline(both, samples, target):
    """A pipeline inside a search."""

    def search(n_jobs):
        pipeline = make_pipeline(StandardScaler(), Ridge())
        grid = {"ridge__alpha": [0.1, 10]}
        found = GridSearchCV(pipeline, grid, cv=3, n_jobs=n_jobs).fit(samples, target)
        return found.cv_results_["mean_test_score"]

    alone, together = both(search)
    np.testing.assert_array_equal(together, alone)


def test_random_forest(both, samples, labels):
    """Trees grown in processes predict what trees grown here do."""

    def probabilities(n_jobs):
        forest = RandomForestClassifier(8, random_state=0, n_jobs=n_jobs)
        return forest.fit(samples, labels).predict_proba(samples)

    alone, together = both(probabilities)
    np.testing.assert_array_equal(together, alone)


def test_permutation_importance(both, samples, target):
    """Importances of a model that was fitted on the memmap."""
    model = Ridge().fit(samples, target)

    def importances(n_jobs):
        return permutation_importance(
            model, samples, target, n_repeats=3, random_state=0, n_jobs=n_jobs
        ).importances

    alone, together = both(importances)
    np.testing.assert_array_equal(together, alone)
