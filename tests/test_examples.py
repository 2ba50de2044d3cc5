"""What is shown to users: the scripts of examples/, and the README's first example."""

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.scripts import run_script

PROJECT = Path(__file__).parents[1]
EXAMPLES = sorted((PROJECT / "examples").glob("*.py"))

# They show what samemap does where the system gives what it needs.
pytestmark = [pytest.mark.needs_maps, pytest.mark.needs_descriptors]


def imported(source):
    """Return the packages that a program imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return sorted({name.partition(".")[0] for name in names})


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


def without_what_varies(text):
    """Leave out the folder, the numbers of the file, the message's length."""
    text = re.sub(r"(?m)^(file +).*/", r"\1", text)
    text = re.sub(r"(?m)^(identity +).*", r"\1", text)
    return re.sub(r"(?m)^(message +)\d+", r"\1", text)


def test_first_example_of_the_readme(tmp_path, monkeypatch):
    """It prints what the README shows below it."""
    readme = (PROJECT / "README.md").read_text()
    program, between, output = re.search(
        r"```python\n(.*?)```\n(.*?)```text\n(.*?)```", readme, re.DOTALL
    ).groups()
    assert "```" not in between
    monkeypatch.chdir(tmp_path)
    printed = run_script(program)
    assert without_what_varies(printed) == without_what_varies(output)
