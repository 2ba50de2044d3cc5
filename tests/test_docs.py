"""The documentation: what its pages and docstrings show is what the program prints."""

import re
from pathlib import Path

import pytest
import samemap
from support.documents import (
    END,
    blocks,
    imported,
    program,
    run_program,
    without_what_varies,
)
from support.scripts import run_script

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
PAGES = [PROJECT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Those that show programs, by the name that their tests have.
PROGRAMS = {
    str(path.relative_to(PROJECT)): found
    for path in PAGES
    if (found := blocks(path.read_text()))
}


def test_there_are_programs():
    """The folder is found, and each guide shows a program."""
    guides = {str(path.relative_to(PROJECT)) for path in DOCS.glob("guides/*.md")}
    assert guides
    assert guides | {"README.md"} <= PROGRAMS.keys()


# They show what samemap does where the system gives what it needs.
@pytest.mark.long
@pytest.mark.needs_maps
@pytest.mark.needs_pagemap
@pytest.mark.needs_descriptors
@pytest.mark.parametrize("name", PROGRAMS)
def test_page(name, tmp_path):
    """The blocks of a page, run as one program, print what stands below each."""
    page = PROGRAMS[name]
    source = program(page)
    for package in imported(source):
        pytest.importorskip(package)
    *printed, rest = run_program(source, tmp_path).split(f"{END}\n")
    assert rest == ""
    assert len(printed) == len(page)
    for output, block in zip(printed, page, strict=True):
        assert without_what_varies(output) == without_what_varies(block.output)


@pytest.mark.long
@pytest.mark.needs_maps
def test_docstrings():
    """The examples in docstrings print what they show."""
    source = """
        import doctest

        import samemap
        from support.documents import without_what_varies

        class Checker(doctest.OutputChecker):
            def check_output(self, want, got, flags):
                want, got = without_what_varies(want), without_what_varies(got)
                return super().check_output(want, got, flags)

        finder = doctest.DocTestFinder()
        runner = doctest.DocTestRunner(Checker())
        for name in samemap.__all__:
            found = getattr(samemap, name)
            for test in [] if isinstance(found, str) else finder.find(found, name):
                test.globs = {"__name__": "__main__"}  # workers get copies
                if test.examples:
                    print(name)
                runner.run(test)
        assert not runner.failures
    """
    shown = run_script(source).split()
    assert {"dumps", "empty", "explain", "install", "register"} <= {*shown}


def test_all_names_are_documented():
    """Each public name has its entry on the page of the API."""
    api = (DOCS / "api.rst").read_text()
    entries = re.findall(r"^\.\. (?:auto|py:)\w+:: ([\w.]+)", api, re.MULTILINE)
    engines = [
        f"samemap.{engine}.{name}"
        for engine in samemap._ENGINES
        for name in getattr(samemap, engine).__all__
    ]
    assert sorted(entries) == sorted(["samemap", *samemap.__all__, *engines])
