"""The user's file for ``check``: mapped read-only, or the reason why it can't be."""

import argparse
import ast
import os
import re
import stat
from typing import Any, Literal

import numpy as np

from .layouts import Array

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"

Order = Literal["C", "F"]


class InputError(Exception):
    """The file or an option can't be used; the message says why in one line."""


def open_data(options: argparse.Namespace) -> Array:
    """Map the file that the options name, read-only."""
    path: str = options.file
    try:
        status = os.stat(path)
        # Before any open: a FIFO would wait, a device might act.
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            magic = file.read(len(NPY_MAGIC))
        if options.dtype is not None:
            return _open_raw(path, status.st_size, options)
        return _open_npy(path, magic, options)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def _open_npy(path: str, magic: bytes, options: argparse.Namespace) -> Array:
    if magic.startswith(ZIP_MAGIC):
        raise InputError(
            f"{path}: an .npz or zip archive can't be mapped; "
            "np.save its arrays one by one"
        )
    if magic != NPY_MAGIC:
        raise InputError(f"{path}: not a .npy file; a raw file needs --dtype")
    for name in ("shape", "order", "offset"):
        if getattr(options, name) is not None:
            raise InputError(f"--{name} is for raw files and needs --dtype")
    try:
        # A shape whose product overflows is told by the length of the map.
        with np.errstate(over="ignore"):
            return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:
        # Of a damaged header NumPy lets through what ast, tokenize and the
        # making of a dtype raise: there is no narrower base.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: can't be mapped: {reason}") from error


def _open_raw(path: str, file_size: int, options: argparse.Namespace) -> Array:
    dtype = _parse_dtype(options.dtype)
    offset = 0 if options.offset is None else parse_size("--offset", options.offset)
    order: Order = options.order or "C"
    if options.shape is not None:
        shape = _parse_shape(options.shape)
    elif file_size <= offset:
        raise InputError(f"{path}: nothing from offset {offset} on")
    elif (file_size - offset) % dtype.itemsize:
        raise InputError(
            f"{path}: the {file_size - offset} bytes from offset {offset} on are no "
            f"whole number of {dtype} items of {dtype.itemsize}"
        )
    else:
        shape = ((file_size - offset) // dtype.itemsize,)
    needed = offset + dtype.itemsize * _product(shape)
    if needed > file_size:
        raise InputError(
            f"{path}: shape {shape} of {dtype} at offset {offset} needs {needed} "
            f"bytes, the file has {file_size}"
        )
    if _product(shape) == 0:
        raise InputError(f"{path}: no items to send in shape {shape}")
    try:
        return np.memmap(path, dtype, "r", offset, shape, order)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _product(shape: tuple[int, ...]) -> int:
    # In Python's integers, which don't wrap.
    total = 1
    for length in shape:
        total *= length
    return total


def _parse_dtype(text: str) -> np.dtype[Any]:
    try:
        literal = ast.literal_eval(text) if text.startswith(("[", "{", "(")) else text
        dtype: np.dtype[Any] = np.dtype(literal)
    except (TypeError, ValueError, SyntaxError, KeyError) as error:
        raise InputError(f"--dtype {text}: not a dtype") from error
    if dtype.hasobject:
        raise InputError(f"--dtype {text}: objects can't be mapped")
    if dtype.subdtype is not None:
        raise InputError(f"--dtype {text}: put the inner shape into --shape")
    if dtype.itemsize == 0:
        raise InputError(f"--dtype {text}: items of no bytes")
    return dtype


def _parse_shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\(?\s*\d+(\s*,\s*\d+)*\s*,?\s*\)?", text, re.ASCII):
        raise InputError(f'--shape {text}: not a shape such as "1000,3"')
    return tuple(int(length) for length in re.findall(r"\d+", text))


def parse_size(option: str, text: str) -> int:
    """Return a number of bytes, written with or without K, M, G, T."""
    match = re.fullmatch(r"(\d+)([KMGT]?)(i?B)?", text, re.ASCII | re.IGNORECASE)
    if match is None:
        raise InputError(f'{option} {text}: not a number of bytes such as "64M"')
    return int(match[1]) * UNITS[match[2].upper()]
