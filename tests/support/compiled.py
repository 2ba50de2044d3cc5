"""Programs in C that speak for one file of src/os, built when a test needs them."""

import os
import shutil
import subprocess
import sys

import pytest

from support.scripts import PROGRAMS, TESTS

SOURCES = TESTS.parent / "src"
FLAGS = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]


def build(folder, name, *files):
    """Compile tests/programs/NAME.c with these files of src/os; return the path.

    The test is skipped where there is no compiler, or no such system.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    if sys.platform != "linux":
        pytest.skip("what is spoken for is Linux's")
    program = folder / name
    sources = [PROGRAMS / f"{name}.c", *(SOURCES / "os" / file for file in files)]
    # A library that a sanitizer has preloaded for Python is not for the compiler.
    environment = {**os.environ, "LD_PRELOAD": ""}
    subprocess.run(
        [
            compiler,
            *FLAGS,
            f"-I{SOURCES}",
            "-o",
            program,
            *sources,
            "-lpthread",
            "-ldl",
        ],
        check=True,
        timeout=100,
        env=environment,
    )
    return program


def run(program, *arguments, prefix=(), **options):
    """Run it; return {first word of a line: the rest}. Status 3 skips the test."""
    done = subprocess.run(
        [*prefix, program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "LD_PRELOAD": ""},
        **options,
    )
    if done.returncode == 3:
        pytest.skip(done.stdout.strip() or "the system does not have it")
    lines = [line.partition(" ") for line in done.stdout.splitlines()]
    return {"status": done.returncode} | {key: rest for key, _, rest in lines}
