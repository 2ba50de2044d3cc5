"""The command line: ``python -m samemap {demo,check,doctor,run}``."""

import argparse
import platform
from collections.abc import Sequence

import joblib
import numpy as np

from .. import __version__
from . import check, demo, doctor, run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m samemap",
        description="Views of mapped arrays reach joblib's workers as they are.",
    )
    versions = (
        f"samemap {__version__} (joblib {joblib.__version__}, NumPy {np.__version__}, "
        f"{platform.python_implementation()} {platform.python_version()})"
    )
    parser.add_argument("--version", action="version", version=versions)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (demo, check, doctor, run):
        command.add_command(commands)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit status of the process."""
    arguments, own = list(argv), len(argv)
    if arguments[:1] == ["run"]:
        # What follows the program's name is the program's, "--" and "-h" too.
        own = 3 if arguments[1:2] == ["-m"] else 2
    options = _parser().parse_args(arguments[:own])
    options.rest = arguments[own:]
    status: int = options.function(options)
    return status
