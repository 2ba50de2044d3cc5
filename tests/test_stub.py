"""The stub of the C half, its docstrings, and what messages hold: one grammar."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest
import samemap
from samemap import _core

STUB = ast.parse(Path(samemap.__file__).with_name("_core.pyi").read_text())
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
CONSTANTS = {node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign)}


def in_stub(function):
    """Names of the parameters, those with defaults marked."""
    arguments = function.args
    names = [a.arg for a in arguments.posonlyargs + arguments.args]
    optional = len(arguments.defaults)
    required = names[: len(names) - optional]
    rest = [arguments.vararg.arg] if arguments.vararg else []
    return required + [f"{name}=" for name in names[len(names) - optional :]] + rest


def in_docstring(function):
    """The same of the signature that begins the docstring."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name + ("" if p.default is p.empty else "=") for p in parameters]


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if not n.startswith("_")])
def test_stub_and_docstring(name):
    """The stub and the docstring give a function the same parameters."""
    assert in_stub(FUNCTIONS[name]) == in_docstring(getattr(_core, name))


def test_all_is_in_the_stub():
    """The stub has what the module has, no less and no more."""
    public = {name for name in dir(_core) if not name.startswith("__")}
    assert public == {*FUNCTIONS, *CLASSES, *CONSTANTS}
    for name, node in CLASSES.items():
        methods = {m.name for m in node.body if isinstance(m, ast.FunctionDef)}
        own = {*vars(getattr(_core, name))} - {"__doc__", "__module__"}
        assert methods == own, name


@pytest.mark.needs_maps
def test_messages_and_stub(memmap_path):
    """What a backing writes is what `attach` takes, by number and type."""
    reduction = _core.Reducer().reduce(np.memmap(memmap_path, np.float64, "r"))
    backing = reduction[1][0][0]
    assert type(backing) is _core.Backing
    message = _core.Outgoing()
    function, arguments = backing.__reduce__()
    del message
    assert function is _core.attach
    stub = FUNCTIONS["attach"].args.posonlyargs
    written = [type(argument).__name__ for argument in arguments]
    assert written == [parameter.annotation.id for parameter in stub]
