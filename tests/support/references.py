"""How a message names a map: what the sender writes, and its reader takes.

A reader elsewhere, which has no such map and whose sender is gone, is this process
with another token and nobody's process number. A file is opened when a view asks for
its bytes.
"""

from samemap import _core

from support import encoding

NAMES = "version", "token", "path", "identity", "offset", "length", "access", "pid"
ELSEWHERE = b"elsewhere......."
WRITABLE, PRIVATE = 1, 2  # what access is made of
NOBODY = 1 << 30  # no process has that number


def backing(array):
    """Return what the message of an array names the map by."""
    face = _core.Reducer().reduce(array)[1][0]
    # With an np.memmap, or memory of an owner of its own, more stands beside.
    return face[0] if isinstance(face, tuple) else face


def reference(array):
    """Return the arguments of `attach` for an array, by name."""
    return dict(zip(NAMES, backing(array).__reduce__()[1], strict=True))


def token(array):
    """Return by what this process knows the map again."""
    return reference(array)["token"]


def attach(arguments, **others):
    """Take a reference, some of its arguments exchanged; return the mapping.

    It is a private one if `access` says so, else the one that all messages share.
    """
    arguments = {**arguments, **others}
    source = _core.attach(*arguments.values())
    return mapping(source, arguments["length"], arguments["access"] & PRIVATE)


def elsewhere(arguments, **others):
    """Take it as a process does that has no such map, and a sender that is gone."""
    return attach(arguments, **{"token": ELSEWHERE, "pid": NOBODY, **others})


def mapping(source, nbytes, private=False):
    """Return the mmap.mmap that views of a source lie on."""
    flags = encoding.WRITEABLE | (encoding.PRIVATE if private else 0)
    layout = encoding.encode("u1", (nbytes,), (1,), flags=flags)
    return _core.rebuild(source, layout).base
