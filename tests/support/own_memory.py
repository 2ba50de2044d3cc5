"""Looking at a process's memory from within a task."""

import os
from pathlib import Path

import numpy as np


def maps_of(path):
    """Count the mappings of a file in this process."""
    table = Path("/proc/self/maps").read_bytes()
    return table.count(b" " + os.fsencode(path))


def number_of_maps():
    """Count all mappings of this process."""
    return Path("/proc/self/maps").read_bytes().count(b"\n")


def subtract_mean(window):
    """As a task: change an argument in place; return what it is then."""
    window -= window.mean()
    return np.array(window)
