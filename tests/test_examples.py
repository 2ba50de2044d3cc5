"""What is shown to users: the scripts of examples/."""

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.documents import imported

PROJECT = Path(__file__).parents[1]
EXAMPLES = sorted((PROJECT / "examples").glob("*.py"))

# They show what samemap does where the system gives what it needs.
pytestmark = [pytest.mark.needs_maps, pytest.mark.needs_descriptors]


def shown(source):
    """Return the block below "Output::" of a program's docstring."""
    docstring = ast.get_docstring(ast.parse(source))
    _, mark, block = docstring.partition("\nOutput::\n")
    assert mark, "no output is shown"
    return textwrap.dedent(block).strip("\n") + "\n"


def test_there_are_examples():
    """The folder is found, so that the next test has something to run."""
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    """It prints what its docstring shows, in any folder, and leaves no file behind."""
    source = path.read_text()
    for name in imported(source):
        pytest.importorskip(name)
    done = subprocess.run(
        [sys.executable, path],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown(source)
    assert list(tmp_path.iterdir()) == []
