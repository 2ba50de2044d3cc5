"""What is given away: the source distribution, and the wheel that is built of it.

And that what stands in two places there is the same in both.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import samemap
from support.scripts import run_script

PROJECT = Path(__file__).parents[1]
TREES = ["src", "python", "tests", "benchmarks", "examples", "docs", ".ci", ".github"]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with both, built anew, or that of SAMEMAP_DIST."""
    if "SAMEMAP_DIST" in os.environ:
        return Path(os.environ["SAMEMAP_DIST"])
    pytest.importorskip("build")
    # A copy: the build writes into its tree, and an *.egg-info that is there already
    # lists files that MANIFEST.in no longer does.
    copy = tmp_path_factory.mktemp("project")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for path in PROJECT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
        elif path.name in TREES:
            shutil.copytree(path, copy / path.name, ignore=unwanted)
    folder = tmp_path_factory.mktemp("dist")
    # Without a choice it builds the wheel from the source distribution.
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, copy],
        env={**os.environ, "CFLAGS": "-O0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def files(folder, *suffixes):
    """Return the names of the files below a folder, beginning with its own."""
    found = {
        str(path.relative_to(folder.parent))
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix in suffixes
        and path.parent.name != "__pycache__"
    }
    assert found
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
def test_source_distribution(dist):
    """It holds what the extension is built of, headers too, and all of the tests."""
    [path] = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files(PROJECT / "src", ".c", ".h") <= names
    assert files(PROJECT / "python", ".py", ".pyi", ".typed") <= names
    assert files(PROJECT / "tests", ".py", ".c", ".h", "") <= names
    assert files(PROJECT / "examples", ".py") <= names
    assert files(PROJECT / "docs", ".md", ".rst", ".py", ".css") <= names
    assert files(PROJECT / ".ci", "") <= names
    assert files(PROJECT / ".github", ".yml") <= names
    assert {path.name for path in PROJECT.glob("*.md")} <= names


@pytest.mark.long
@pytest.mark.timeout(600)
def test_wheel(dist):
    """It holds every module of every package, the stub and the mark of types."""
    [path] = dist.glob(f"samemap-{samemap.__version__}-*.whl")
    names = {*zipfile.ZipFile(path).namelist()}
    expected = files(PROJECT / "python" / "samemap", ".py", ".pyi", ".typed")
    assert expected <= names
    assert "samemap/_core.pyi" in expected
    assert "samemap/py.typed" in expected
    more = {name for name in names - expected if ".dist-info/" not in name}
    assert more == {"samemap/_core.abi3.so"}


def test_library_without_command_line():
    """`import samemap` imports nothing of the command line, nor what that needs."""
    source = """
        import sys
        import samemap
        print([name for name in sys.modules if name.startswith("samemap._cli")])
    """
    assert run_script(source) == "[]\n"


def test_changes_begin_with_this_version():
    """The newest list of changes is that of the version in _version.py."""
    heading = re.search(
        r"^## (\S+)", (PROJECT / "CHANGES.md").read_text(), re.MULTILINE
    )
    assert heading[1] == samemap.__version__


def test_workflow_has_the_steps():
    """The workflow of the public host runs what .ci/run runs without a name."""
    run = re.search(r"^STEPS=\((.*)\)", (PROJECT / ".ci/run").read_text(), re.MULTILINE)
    workflow = (PROJECT / ".github/workflows/ci.yml").read_text()
    matrix = re.search(r"^ +step: \[(.*)\]", workflow, re.MULTILINE)
    assert matrix[1].split(", ") == run[1].split()


def test_release_is_what_was_tested():
    """A release builds by the step of .ci/run, with no test left out, for its tag."""
    workflow = (PROJECT / ".github/workflows/release.yml").read_text()
    build, publish = workflow.split("  publish:")
    assert "WHEELS_TESTED=required .ci/run wheels" in build
    assert "python/samemap/_version.py" in build
    assert "needs: build" in publish
    # The right to publish is that of the one job that runs no code of the project.
    assert "id-token" not in build
    assert "run:" not in publish
    assert "step_wheels()" in (PROJECT / ".ci/run").read_text()
