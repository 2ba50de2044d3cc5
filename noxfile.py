"""The supported versions: ``nox`` runs every combination, ``nox -s corners`` two.

Each session installs NumPy and joblib as named, then one wheel that was built once:
the same binary has to pass on every CPython. joblib's own tests, which take as long as
all others, run once with every joblib.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]
NUMPYS = ["1.26", "newest"]
JOBLIBS = ["1.3", "1.4", "1.5", "newest"]
CORNERS = [("3.11", "1.26", "1.3"), ("3.13", "newest", "newest")]
JOBLIB_SUITE = "tests/test_joblib_suite.py"
# About the wheel alone, whatever it is installed beside.
PACKAGE = "tests/test_package.py"

# No wheels of NumPy 1.26 are there for later ones.
NUMPY_1_PYTHONS = {"3.11", "3.12"}

nox.options.sessions = ["versions", "joblib_suite", "abi"]
nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "venv"

TOOLS = ["pytest>=8", "pytest-timeout", "hypothesis", "psutil", "threadpoolctl"]


if shutil.which("pyenv") and "PYENV_VERSION" not in os.environ:
    # Its commands python3.12 and so on answer only for versions that are selected.
    listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True)
    found = [v for v in listed.stdout.decode().split() if v.startswith("3.")]
    os.environ["PYENV_VERSION"] = ":".join(v for v in found if len(v.split(".")[1]) > 1)


def requirement(package: str, version: str) -> str:
    """Return what pip is asked for: "newest" has no bound."""
    return package if version == "newest" else f"{package}=={version}.*"


def source_digest() -> str:
    """Return a digest of the names and contents of all that a wheel is built of."""
    trees = [path for tree in ("src", "python") for path in Path(tree).rglob("*")]
    single = [Path("setup.py"), Path("pyproject.toml"), Path("MANIFEST.in")]
    digest = hashlib.sha256()
    for path in sorted(trees + single):
        # What a build or a run leaves there is no source.
        left = {"__pycache__"} & {*path.parts} or path.suffix == ".so"
        if path.is_file() and not left and ".egg-info" not in str(path):
            content = path.read_bytes()
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def built_wheel(session: nox.Session) -> Path:
    """Build the wheel once for a state of the sources, with the Python of nox."""
    folder = Path(session.cache_dir, "wheel")
    built_of = folder / "sources.sha256"
    digest = source_digest()
    if not built_of.exists() or built_of.read_text() != digest:
        shutil.rmtree(folder, ignore_errors=True)
        # What setuptools left of an earlier build gets into the wheel: modules that
        # are gone since, too.
        shutil.rmtree("build", ignore_errors=True)
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "."]
        session.run(*command, "-w", str(folder), external=True)
        built_of.write_text(digest)
    [wheel] = folder.glob("*.whl")
    return wheel


def run_tests(
    session: nox.Session,
    numpy: str,
    joblib: str,
    *tests: str,
    marked: str = "not engines",
) -> None:
    """Install this combination and run these tests, of those that are `marked` so.

    By default all but joblib's own, those of the package, and those of engines.
    """
    versions = [requirement("numpy", numpy), requirement("joblib", joblib)]
    session.install(*TOOLS, *versions, str(built_wheel(session)))
    session.run("pip", "check")
    arguments = tests or ("--ignore", JOBLIB_SUITE, "--ignore", PACKAGE)
    session.run(
        "python", "-m", "pytest", "-q", "-m", marked, *arguments, *session.posargs
    )


@nox.session(python=PYTHONS)
@nox.parametrize("joblib", JOBLIBS)
@nox.parametrize("numpy", NUMPYS)
def versions(session: nox.Session, numpy: str, joblib: str) -> None:
    """Run the tests on one combination."""
    if numpy == "1.26" and session.python not in NUMPY_1_PYTHONS:
        session.skip("no wheel of NumPy 1.26 for this CPython")
    run_tests(session, numpy, joblib)


@nox.session(python=PYTHONS[0])
@nox.parametrize("joblib", JOBLIBS)
def joblib_suite(session: nox.Session, joblib: str) -> None:
    """Run joblib's own tests with samemap imported first."""
    run_tests(session, "1.26" if joblib == "1.3" else "newest", joblib, JOBLIB_SUITE)


@nox.session(python=sorted({python for python, _, _ in CORNERS}))
def corners(session: nox.Session) -> None:
    """Run the oldest and the newest combination (part of CI).

    What is long on the oldest only: CI runs that with the newest packages as well.
    """
    for python, numpy, joblib in CORNERS:
        if python == session.python:
            oldest = (python, numpy, joblib) == CORNERS[0]
            marked = "not engines" if oldest else "not long and not engines"
            run_tests(session, numpy, joblib, marked=marked)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error, as is a name without a page."""
    session.install(f"{built_wheel(session)}[docs]")
    out = Path(session.cache_dir, "html")
    options = ["-E", "-W", "--keep-going", "-n", *session.posargs]
    session.run("python", "-m", "sphinx", "-b", "html", *options, "docs", str(out))
    session.log(f"the pages: {out / 'index.html'}")


@nox.session
def abi(session: nox.Session) -> None:
    """Ask abi3audit whether the wheel keeps to the limited API of its name."""
    session.install("abi3audit")
    session.run("abi3audit", "--strict", "--summary", str(built_wheel(session)))


@nox.session
def wheels(session: nox.Session) -> None:
    """Build, check and test the source distribution and the wheels to publish.

    A folder for them may be named (`-- FOLDER`).
    """
    session.install("build", "setuptools>=77", "wheel", "numpy>=2.0", "ziglang")
    session.install("auditwheel", "abi3audit", "twine")
    session.run(".ci/wheels", *session.posargs, external=True)
