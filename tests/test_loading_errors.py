"""What fails while a message is loaded reaches the caller, and nothing hangs."""

import pytest
from support.fresh_interpreter import run_function

PROGRAMS = "support.loading_programs"

LOOKING = ["Checked", "Asserting", "Inverting", "Keyed"]

ERRORS = {
    "truncate": "BackingTruncatedError",
    "remove": "BackingNotFoundError",
    "replace": "BackingReplacedError",
}

NEXT = "[4095, 4095]"

TIMEOUT = 40  # seconds; each takes one or two


def run(program, *arguments, **options):
    found = run_function(PROGRAMS, program, *arguments, timeout=TIMEOUT, **options)
    return found.splitlines()


@pytest.mark.needs_maps
@pytest.mark.parametrize("cls", LOOKING)
def test_argument_that_is_looked_at(backend, tmp_path, cls):
    """An object that dislikes the stand-in of a lost array hides no typed error."""
    error = ERRORS["truncate"]
    assert run("argument", backend, tmp_path, cls, "truncate") == [error, NEXT]


@pytest.mark.needs_maps
@pytest.mark.parametrize("fate", ["remove", "replace"])
def test_other_fates_of_an_argument(backend, tmp_path, fate):
    """Whatever befell the file, the error says so."""
    assert run("argument", backend, tmp_path, "Checked", fate) == [ERRORS[fate], NEXT]


@pytest.mark.needs_maps
def test_argument_within_containers(backend, tmp_path):
    """So it is in a batch of several tasks, one of which has the object deep within."""
    found = run("argument_within", backend, tmp_path, "Checked", "truncate")
    assert found == [ERRORS["truncate"], NEXT]


@pytest.mark.needs_maps
@pytest.mark.parametrize("cls", LOOKING)
def test_result_that_is_looked_at(backend, tmp_path, cls):
    """The same for results, which a thread of the caller's pool loads."""
    error = ERRORS["truncate"]
    assert run("result", backend, tmp_path, cls, "truncate") == [error, NEXT]


@pytest.mark.needs_maps
@pytest.mark.parametrize("fate", ["remove", "replace"])
def test_other_fates_of_a_result(backend, tmp_path, fate):
    """Whatever befell the file of a result, the error says so."""
    assert run("result", backend, tmp_path, "Checked", fate) == [ERRORS[fate], NEXT]


# joblib alone hangs here in multiprocessing: samemap has no less to lose.
REFUSED = {
    "loky": {"BrokenProcessPool", "ValueError"},
    "multiprocessing": {"ValueError"},
}


@pytest.mark.parametrize("program", ["refused_argument", "refused_argument_with_map"])
def test_own_exception_of_an_argument(backend, tmp_path, program):
    """An exception that a class itself raises while loaded ends the call."""
    error, following = run(program, backend, tmp_path, "Refusing")
    assert error in REFUSED[backend]
    assert following == NEXT


def test_own_exception_of_a_result(backend, tmp_path):
    """So does one that is raised while a result is loaded."""
    error, following = run("refused_result", backend, tmp_path, "Refusing")
    assert error in REFUSED[backend]
    assert following == NEXT


@pytest.mark.parametrize("program", ["refused_argument", "refused_result"])
def test_joblib_alone(tmp_path, program):
    """What is compared with: loky says that its pool is broken, and makes a new one."""
    found = run(program, "loky", tmp_path, "Refusing", stock=True)
    assert found == ["BrokenProcessPool", NEXT]
