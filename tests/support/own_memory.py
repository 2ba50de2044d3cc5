"""Looking at a process's memory, from within a task too."""

import gc
import os
from pathlib import Path

import numpy as np
from samemap import _core


def maps_of(path):
    """Count the mappings of a file, or of files below a folder, in this process."""
    table = Path("/proc/self/maps").read_bytes()
    return table.count(b" " + os.fsencode(path))


def number_of_maps():
    """Count all mappings of this process."""
    return Path("/proc/self/maps").read_bytes().count(b"\n")


def holdings(path):
    """Count descriptors, mappings of a file or below a folder, and backings, here."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), maps_of(path), _core.known()


def subtract_mean(window):
    """As a task: change an argument in place; return what it is then."""
    window -= window.mean()
    return np.array(window)
