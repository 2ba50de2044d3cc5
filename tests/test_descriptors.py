"""Descriptors are this process's own: not inherited, and not a user's by number."""

import os

import pytest
import samemap
from support import machine
from support.scripts import mounted, run_script


@pytest.mark.needs_descriptors
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
        from support.references import ELSEWHERE, attach, reference

        folder = sys.argv[1]
        array = np.memmap(folder + "/kept", np.float64, "w+", shape=(100,))
        arguments = reference(array)
        del opened[:]
        attached = attach(arguments, token=ELSEWHERE)
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


def test_closed_descriptors(tmp_path, map_table):
    """A daemon closes all it has; the table's number is a user's file then."""
    source = """
        import os, sys
        import numpy as np, samemap
        from samemap import _core
        _core.set_map_table(sys.argv[2])
        array = np.memmap(sys.argv[1] + "/a", "u1", "w+", shape=(100,))
        samemap.explain(array)
        os.closerange(3, 256)
        file = os.open(sys.argv[1] + "/user", os.O_RDWR | os.O_CREAT)
        os.write(file, b"0123456789")
        os.lseek(file, 4, 0)
        other = np.memmap(sys.argv[1] + "/b", "u1", "w+", shape=(100,))
        assert samemap.explain(other)["by_reference"]
        assert os.lseek(file, 0, os.SEEK_CUR) == 4
        child = os.fork()
        if child == 0:
            samemap.explain(np.memmap(sys.argv[1] + "/c", "u1", "w+", shape=(100,)))
            os._exit(os.write(file, b"ab") != 2)
        assert os.waitpid(child, 0)[1] == 0
        print(open(sys.argv[1] + "/user").read())
    """
    assert run_script(source, tmp_path, map_table) == "0123ab6789\n"


@pytest.mark.needs_maps
@pytest.mark.parametrize("asked", [True, False])
def test_closed_descriptor_of_a_file(tmp_path, asked):
    """Nor is that number taken for the file, or closed, once it is a user's."""
    source = """
        import gc, os, sys
        from pathlib import Path
        import samemap
        from support.foreign import array_at, map_at

        path = Path(sys.argv[1], "file")
        path.write_bytes(bytes([1]) * 4096)
        array = array_at(map_at(path, 4096), 4096)
        opened = os.open(path, os.O_RDWR)
        path.unlink()
        tell = lambda: samemap.explain(array)["route"] or "none"
        print(tell())
        kept = os.dup2(opened, 300)
        os.closerange(3, 256)
        users = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(10)]
        print(tell())
        os.closerange(3, 301)
        users = [os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(20)]
        if sys.argv[2] == "True":
            print(tell())
            assert samemap.loads(samemap.dumps(array)).tolist() == array.tolist()
        del array
        gc.collect()
        for number in users:
            os.fstat(number)
    """
    found = run_script(source, tmp_path, asked)
    routes = ["descriptor", "descriptor", "none"]
    if not machine.DESCRIPTORS:
        routes = ["none"] * 3
    assert found.split() == routes[: 2 + asked]


def test_descriptor_of_the_same_inode_on_another_device(tmp_path, map_table):
    """An open file is not taken for the unlinked one whose number it has."""
    source = """
        import sys
        from pathlib import Path
        import samemap
        from support.foreign import array_at, map_at
        from samemap import _core
        _core.set_map_table(sys.argv[2])
        paths = [Path(sys.argv[1], name, "file") for name in "ab"]
        for value, path in enumerate(paths, 1):
            path.write_bytes(bytes([value]) * 4096)
        assert paths[0].stat().st_ino == paths[1].stat().st_ino
        array = array_at(map_at(paths[0], 4096), 4096)
        paths[0].unlink()
        with paths[1].open("r+b"):
            print(samemap.explain(array)["reason"])
    """
    for name in "ab":
        (tmp_path / name).mkdir()
    mounts = " && ".join(f"mount -t tmpfs x {tmp_path / name}" for name in "ab")
    found = run_script(source, tmp_path, map_table, prefix=mounted(mounts))
    assert found == "unreachable\n"


def test_failed_import_closes_nothing():
    """Descriptor 0 stays open when the extension can't be initialised."""
    source = """
        import gc, os, sys, types
        package = types.ModuleType("samemap")
        package.__path__ = [sys.argv[1]]
        sys.modules["samemap"] = package
        sys.modules["samemap._errors"] = types.ModuleType("samemap._errors")
        try:
            import samemap._core
        except AttributeError:
            gc.collect()
            os.fstat(0)
            print("open")
    """
    assert run_script(source, os.path.dirname(samemap.__file__)) == "open\n"
