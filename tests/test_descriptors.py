"""Descriptors are this process's own: no program that it starts inherits them."""

import pytest
from support.scripts import run_script

pytestmark = pytest.mark.needs_descriptors


def test_started_programs_inherit_none(tmp_path):
    """Neither that of the map table nor those of files, kept or just opened."""
    source = """
        import mmap, os, subprocess, sys
        from pathlib import Path

        opened = []

        class Map(mmap.mmap):
            def __new__(cls, fd, *args, **kwargs):
                opened.append(os.get_inheritable(fd))
                return super().__new__(cls, fd, *args, **kwargs)

        mmap.mmap = Map
        import numpy as np
        import samemap
        from samemap import _core

        folder = sys.argv[1]
        array = np.memmap(folder + "/kept", np.float64, "w+", shape=(100,))
        attach, args = _core.Reducer().reduce(array)[1][0][0].__reduce__()
        del opened[:]
        attached = attach(b"elsewhere.......", *args[1:])
        assert opened == [False]
        links = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
        # A map needs no descriptor where mmap.mmap can do without.
        assert links.count(folder + "/kept") == 1 + (sys.version_info < (3, 13))

        with open(folder + "/unlinked", "w+b") as file:
            unlinked = np.memmap(file, np.float64, "r+", shape=(100,))
            os.unlink(folder + "/unlinked")
            assert samemap.explain(unlinked)["route"] == "descriptor"

        show = "import os; print(*map(os.path.realpath, map('/proc/self/fd/{}'.format,"
        show += " os.listdir('/proc/self/fd'))))"
        own = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
        assert any("unlinked" in path for path in own)
        assert f"/proc/{os.getpid()}/maps" in own
        command = [sys.executable, "-c", show]
        print(subprocess.run(command, close_fds=False, capture_output=True).stdout)
    """
    inherited = run_script(source, tmp_path)
    assert "pipe" in inherited
    assert str(tmp_path) not in inherited
    assert "/maps" not in inherited
