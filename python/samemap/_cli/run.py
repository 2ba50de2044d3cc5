"""``python -m samemap run``: an unchanged program, with samemap on.

The program becomes ``__main__`` for good, as under ``python`` itself. runpy puts
the former ``__main__`` back when the last line is done, and then what threads and
exit handlers of the program still send to workers can't be pickled.
"""

import argparse
import os
import sys
from importlib.machinery import (
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from .. import install

if TYPE_CHECKING:
    from argparse import _SubParsersAction

# A directory or a zip file is a program of several modules, and this one starts.
MAIN = "__main__"


class ProgramError(Exception):
    """There is nothing to run; the status is the one that ``python`` gives."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def add_command(commands: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``run`` to the command line."""
    parser = commands.add_parser(
        "run",
        help="run a program with samemap on",
        usage="python -m samemap run [-h] (script.py | -m module) [arguments ...]",
        description="Run an unchanged program with samemap on.",
    )
    parser.add_argument(
        "-m", dest="as_module", action="store_true", help="the program is a module"
    )
    parser.add_argument(
        "program", help="a script, a folder or zip file with __main__.py, or a module"
    )
    parser.set_defaults(function=_main)


def _main(options: argparse.Namespace) -> int:
    try:
        run(options.program, options.rest, as_module=options.as_module)
    except ProgramError as error:
        print(f"python -m samemap run: {error}", file=sys.stderr)
        return error.status
    return 0


def run(program: str, arguments: list[str], *, as_module: bool = False) -> None:
    """Run `program` as ``__main__`` with samemap installed.

    Parameters
    ----------
    program : str
        A path, or with `as_module` the name of a module.
    arguments : list of str
        The program's ``sys.argv[1:]``.
    as_module : bool
        Find the program as ``python -m`` does.

    Raises
    ------
    ProgramError
        The program is not there. Whatever the program raises is passed on.
    """
    main = ModuleType(MAIN)
    if as_module:
        code = _from_spec(main, _module_spec(program))
        sys.argv[:] = [main.__file__ or program, *arguments]
    else:
        code = _from_path(main, program)
        sys.argv[:] = [program, *arguments]
    sys.modules[MAIN] = main
    # This command line is the later word, for the workers' own workers as well.
    os.environ.pop("SAMEMAP", None)
    install()
    exec(code, main.__dict__)


def _module_spec(name: str) -> ModuleSpec:
    """Return where ``python -m name`` would start."""
    try:
        spec = None if name.startswith(".") else find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = find_spec(f"{name}.{MAIN}")
    except ModuleNotFoundError as error:
        # Looking for a.b imports a. What a itself misses is the program's error.
        if f"{name}.".startswith(f"{error.name}."):
            raise ProgramError(str(error)) from error
        raise
    if spec is None:
        raise ProgramError(f"no module named {name}, or a package without {MAIN}")
    return spec


def _from_spec(main: ModuleType, spec: ModuleSpec) -> CodeType:
    """Give `main` the attributes of a module that was found; return its code."""
    loader = spec.loader
    # By name, as runpy does: zipimporter is no registered InspectLoader.
    get_code = getattr(loader, "get_code", None)
    code: CodeType | None = get_code and get_code(spec.name)
    if code is None:
        raise ProgramError(f"{spec.name} has no Python code")
    main.__spec__ = spec
    main.__loader__ = loader
    main.__package__ = spec.parent
    main.__file__ = spec.origin
    main.__dict__["__cached__"] = spec.cached
    return code


def _from_path(main: ModuleType, path: str) -> CodeType:
    """Give `main` the attributes of a script; return its code."""
    if not os.path.exists(path):
        raise ProgramError(f"can't open file {path!r}: no such file", status=2)
    full_path = os.path.abspath(path)
    spec = PathFinder.find_spec(MAIN, [full_path])
    if spec is not None:
        _put_first_on_path(full_path)
        return _from_spec(main, spec)
    if os.path.isdir(path):
        raise ProgramError(f"can't find {MAIN!r} module in {path!r}")
    _put_first_on_path(os.path.dirname(os.path.realpath(path)))
    main.__file__ = full_path
    main.__dict__["__cached__"] = None
    if path.endswith(".pyc"):
        compiled = SourcelessFileLoader(MAIN, full_path)
        main.__loader__ = compiled
        code = compiled.get_code(MAIN)
    else:
        source = SourceFileLoader(MAIN, full_path)
        main.__loader__ = source
        # Not get_code: it would leave a __pycache__ beside the script.
        code = source.source_to_code(source.get_data(full_path), full_path)
    assert code is not None
    return code


def _put_first_on_path(folder: str) -> None:
    # python -m has put the current directory there, unless told not to.
    if not sys.flags.safe_path:
        sys.path[0] = folder
