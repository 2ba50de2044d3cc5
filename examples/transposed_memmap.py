"""scikit-learn on a transposed memmap: the score must not depend on n_jobs.

Samples are often recorded one column after the other, so that `memmap.T` is what an
estimator wants. Stock joblib drops the strides on the way to its workers, which are
then fitted on other values, without an error. With samemap they read the same elements
of the same file.

Output::

    R2 of Ridge() on memmap.T, mean of 5 folds
    n_jobs=1                 0.999
    n_jobs=2, stock joblib  -0.007
    n_jobs=2, with samemap   0.999
"""

import tempfile
from pathlib import Path

import numpy as np
import samemap
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score


def main(folder: str) -> None:
    rng = np.random.default_rng(0)
    recorded = np.memmap(Path(folder, "recorded"), float, "w+", shape=(8, 2000))
    recorded[:] = rng.normal(size=recorded.shape)

    samples = recorded.T
    target = samples @ np.arange(1.0, 9.0) + 0.5 * rng.normal(size=len(samples))

    def score(n_jobs: int) -> float:
        return float(cross_val_score(Ridge(), samples, target, n_jobs=n_jobs).mean())

    print("R2 of Ridge() on memmap.T, mean of 5 folds")
    print(f"n_jobs=1                {score(1):6.3f}")
    with samemap.disabled():
        print(f"n_jobs=2, stock joblib  {score(2):6.3f}")
    print(f"n_jobs=2, with samemap  {score(2):6.3f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
