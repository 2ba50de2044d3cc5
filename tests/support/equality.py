"""What "the same array" means: everything of it that must arrive."""

import hashlib

import numpy as np


def fingerprint(array):
    """Describe an array as plain objects that any pickle keeps as they are.

    Equal fingerprints: the same bytes, dtype, shape, strides, flags and type, and
    for an np.memmap the same attributes.
    """
    flags = array.flags
    found = {
        "type": f"{type(array).__module__}.{type(array).__name__}",
        "dtype": dtype_fingerprint(array.dtype),
        "shape": array.shape,
        "strides": array.strides,
        "writeable": flags.writeable,
        "aligned": flags.aligned,
        "c_contiguous": flags.c_contiguous,
        "f_contiguous": flags.f_contiguous,
        "sha256": hashlib.sha256(exact_bytes(array)).hexdigest(),
    }
    if isinstance(array, np.memmap):
        found["filename"] = repr(array.filename)
        found["offset"] = array.offset
        # Opened with "w+" again, the file would be truncated.
        found["mode"] = "r+" if array.mode == "w+" else array.mode
        found["has_mmap"] = array._mmap is not None
    return found


def dtype_fingerprint(dtype):
    """Describe a dtype with what `==` of dtypes leaves out."""
    found = {
        "str": dtype.str,
        "kind": dtype.type.__name__,
        "itemsize": dtype.itemsize,
        "alignment": dtype.alignment,
        "isalignedstruct": dtype.isalignedstruct,
        "metadata": dict(dtype.metadata or {}),
    }
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        found["subdtype"] = dtype_fingerprint(base), shape
    if dtype.names is not None:
        found["fields"] = [
            (name, dtype_fingerprint(dtype.fields[name][0]), *dtype.fields[name][1:])
            for name in dtype.names
        ]
    return found


def exact_bytes(array):
    """Return the items in C order, padding included.

    Copies of records lose their padding; void items are copied whole.
    """
    if array.dtype.itemsize == 0:
        return b""
    return np.asarray(array).view(f"V{array.dtype.itemsize}").tobytes()


def differences(first, second):
    """Return {name: (in first, in second)} of what differs in two fingerprints."""
    return {
        name: (first.get(name), second.get(name))
        for name in first | second
        if first.get(name) != second.get(name)
    }


def same_place(first, second):
    """Tell whether two arrays of one layout lie in the same memory."""
    return first.ctypes.data == second.ctypes.data


def same_file(first, second):
    """Tell whether two arrays of one shape show the same bytes, each on its own map.

    What is written into the first is seen in the second. Its values are put back.
    """
    first, second = np.asarray(first), np.asarray(second)
    if np.shares_memory(first, second):
        return False
    before = first.copy()
    seen = True
    for value in (1, 0):
        first.fill(value)
        seen = seen and first.tobytes() == second.tobytes()
    first[...] = before
    return seen
