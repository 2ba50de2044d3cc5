"""The command line, each command a process of its own: what it prints and returns."""

import os
import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import joblib
import numpy as np
import pytest
import samemap
from samemap._cli import demo as demo_command
from samemap._cli import layouts

BACKENDS = ["loky", "multiprocessing"]


# What is shown of stock joblib needs one that gets as far as sending an array.
stock_sends = pytest.mark.skipif(
    joblib.__version__.startswith("1.3.") and int(np.__version__.split(".")[0]) >= 2,
    reason="joblib 1.3 by itself can't pickle an np.memmap with NumPy 2",
)


def python(*arguments, cwd, **environment):
    """Run the interpreter of the tests; return the finished process."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


def cli(*arguments, cwd, **environment):
    return python("-m", "samemap", *arguments, cwd=cwd, **environment)


def write_script(path, text):
    path.write_text(textwrap.dedent(text))
    return path


def test_version(tmp_path):
    """--version names the package and its version."""
    done = cli("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"samemap {samemap.__version__} (joblib ")


def test_no_command(tmp_path):
    """Without a command there is a usage message and status 2."""
    done = cli(cwd=tmp_path)
    assert done.returncode == 2
    assert "{demo,check,doctor,run}" in done.stderr


# demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = cli("demo", cwd=folder, TMPDIR=str(folder))
    return done, folder


def test_demo_is_right(demo):
    """The demo succeeds, and each of its cases is right through samemap."""
    done, _ = demo
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    right, cases = re.search(
        r"right with samemap: (\d+) of (\d+)", done.stdout
    ).groups()
    assert right == cases
    assert int(cases) >= 30


def test_demo_shows_the_seed_case(demo):
    """The seed case is printed: the values sent, and what both halves' workers got."""
    done, _ = demo
    for order, expression in [("C", "(5, 3)"), ("F", '((5, 3), order="F")')]:
        assert f"\nseed.reshape{expression}  stock joblib " in done.stdout
        rows = str(np.arange(15.0).reshape((5, 3), order=order)).splitlines()
        for row in map(re.escape, rows[1:-1]):
            # Sent, in the first column, and received through samemap, in the last.
            assert re.search(f"^{row} .* {row}$", done.stdout, re.MULTILINE)


@stock_sends
def test_demo_shows_stock_going_wrong(demo):
    """The stock column is stock: it has other bytes or crashes, which are survived."""
    done, _ = demo
    [line] = re.findall(r"^m\.T .*$", done.stdout, re.MULTILINE)
    stock, ours = re.findall(r"(?:same|other) bytes", line)
    assert (stock, ours) == ("other bytes", "same bytes")
    # The table goes on after the layouts that crash stock joblib's workers.
    assert re.search(r"^a TemporaryFile ", done.stdout, re.MULTILINE)


@pytest.mark.skipif(find_spec("sklearn") is None, reason="needs scikit-learn")
def test_demo_scores(demo):
    """Two jobs score as one with samemap, and otherwise with stock joblib."""
    done, _ = demo
    stock, ours = done.stdout.splitlines()[-2:]
    scores = {
        line.split()[0]: re.findall(r"-?\d\.\d{3}\b", line) for line in (stock, ours)
    }
    assert scores["samemap"][:5] == scores["samemap"][5:]
    assert scores["stock"][:5] != scores["stock"][5:]


def test_demo_leaves_nothing(demo):
    """The demo removes its files, core files of crashed workers included."""
    _, folder = demo
    left = [path.name for path in folder.iterdir()]
    assert [name for name in left if name.startswith(("samemap", "core"))] == []


# A half of the demo that starts one case and is killed, then does the next.
KILLED_ONCE = """
import os, signal, sys
task, folder, report, first = sys.argv[1:]
with open(report, "a") as lines:
    print('{"name": "case %s"}' % first, file=lines, flush=True)
    if first == "0":
        KILL
    print('{"outcome": "same bytes"}', file=lines)
"""


@pytest.mark.parametrize(
    "death", ["os.kill(os.getpid(), signal.SIGSEGV)", "signal.pause()"]
)
def test_demo_goes_on_after_a_crash(tmp_path, monkeypatch, death):
    """A half that dies or hangs is started again from the next case."""
    monkeypatch.setattr(demo_command, "START", KILLED_ONCE.replace("KILL", death))
    monkeypatch.setattr(demo_command, "TIMEOUT", 2)
    rows = demo_command.run_table("stock", tmp_path)
    assert [row["name"] for row in rows] == ["case 0", "case 1"]
    assert [row["outcome"] for row in rows] == ["crash of the caller", "same bytes"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('broken half')", "broken half"),
        ("import os; os.abort()", "ended before it sent anything"),
    ],
)
def test_demo_fails_with_its_half(tmp_path, monkeypatch, code, reason):
    """A half that can't do its work at all is an error, and not started for ever."""
    monkeypatch.setattr(demo_command, "START", code)
    with pytest.raises(demo_command.HalfError, match=reason):
        demo_command.run_table("samemap", tmp_path)


# check


def arrays():
    """Arrays of many kinds, as np.save takes them."""
    values = np.random.default_rng(0).standard_normal(60)
    packed = np.dtype([("id", "u1"), ("x", "<f8"), ("name", "S3")])
    padded = np.dtype([("id", "u1"), ("x", "<f8"), ("y", ">i2")], align=True)
    yield "1d", values
    yield "c_order", values.reshape(12, 5)
    yield "f_order", np.asfortranarray(values.reshape(4, 5, 3))
    yield "big_endian", values.astype(">f4").reshape(10, 6)
    yield "complex", (values + 1j).reshape(6, 10)
    yield "dates", np.arange(60).astype("M8[s]").reshape(5, 12)
    yield "strings", values.astype("U7").reshape(6, 10)
    yield "packed", np.ones(17, packed)
    yield "padded", np.ones((4, 4), padded)
    yield "prime", np.arange(7, dtype="u1")
    yield "one_item", np.float32(3)
    yield "no_item", np.ones((0, 3))


@pytest.mark.parametrize(
    "array", [pytest.param(array, id=name) for name, array in arrays()]
)
def test_check_npy(tmp_path, array):
    """Every layout of an .npy file arrives in both pools; the file stays as it is."""
    path = tmp_path / "data.npy"
    np.save(path, array)
    before = path.read_bytes(), path.stat().st_mtime_ns
    done = cli("check", path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    count = sum(1 for _ in layouts.views_of(np.load(path, mmap_mode="r")))
    assert done.stdout.count("same bytes\n") == 2 * count
    assert f"{2 * count} of {2 * count} arrived" in done.stdout
    assert all(f"\n{backend}, 2 workers\n" in done.stdout for backend in BACKENDS)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("options", "header"),
    [
        (["--dtype", "f8"], "float64 (60,)"),
        (["--dtype", "<i2", "--offset", "30"], "int16 (225,)"),
        (["--dtype", "f4", "--shape", "11,5", "--order", "F"], "float32 (11, 5)"),
        (["--dtype", "f4", "--shape", "(3, 2)", "--offset", "6"], "float32 (3, 2)"),
        (["--dtype", "u1,f8", "--shape", "40,"], "(40,)"),
        (["--dtype", "[('a', 'c8'), ('b', '>u2')]", "--shape", "40"], "(40,)"),
    ],
)
def test_check_raw(tmp_path, options, header):
    """A raw file is mapped as the options say."""
    path = tmp_path / "data.bin"
    np.random.default_rng(0).standard_normal(60).tofile(path)
    done = cli("check", path, *options, "--backend", "loky", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert header in done.stdout
    assert "multiprocessing" not in done.stdout


def test_check_odd_name(tmp_path):
    """A file name need not be text."""
    path = tmp_path / os.fsdecode(b"odd \xff\n(deleted).npy")
    np.save(path, np.arange(60.0).reshape(12, 5))
    done = cli("check", path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_check_large(tmp_path):
    """Of a file larger than the limit a sample is compared, and said so."""
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(5 << 30)
    done = cli(
        *["check", path, "--dtype", "f8", "--shape", f"{5 << 17},1024"],
        *["--limit", "64K"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same bytes, sampled" in done.stdout
    assert "about 65,536 bytes were compared, in evenly spaced slices" in done.stdout
    assert path.stat().st_size == 5 << 30
    assert path.stat().st_blocks * 512 < 1 << 20


@stock_sends
def test_check_finds_other_bytes(tmp_path):
    """Through stock joblib, which goes wrong, the check says so: status 1."""
    path = tmp_path / "data.npy"
    np.save(path, np.arange(60.0).reshape(12, 5))
    stock = write_script(
        tmp_path / "stock.py",
        """
        import sys
        import samemap
        from samemap._cli import check
        from samemap._cli.main import main

        check.enabled = samemap.disabled
        sys.exit(main(["check", sys.argv[1], "--backend", "loky"]))
        """,
    )
    done = python(stock, path, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(
        r"^  m\.T .* other bytes, strides, flags;", done.stdout, re.MULTILINE
    )
    assert re.search(r"^  m  .* same bytes$", done.stdout, re.MULTILINE)


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    np.save(folder / "good.npy", np.arange(60.0).reshape(12, 5))
    good = (folder / "good.npy").read_bytes()
    (folder / "short.npy").write_bytes(good[:-8])
    (folder / "cut.npy").write_bytes(good[:40])
    (folder / "damaged.npy").write_bytes(good.replace(b"{'descr", b"{{'desc"))
    (folder / "negative.npy").write_bytes(good.replace(b"(12, 5)", b"(-1, 5)"))
    np.save(folder / "objects.npy", np.array([1, None]), allow_pickle=True)
    np.savez(folder / "archive.npz", a=np.ones(3))
    (folder / "raw.bin").write_bytes(good[-480:])
    (folder / "empty.bin").touch()
    os.mkfifo(folder / "fifo")
    return folder


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("missing.npy", "No such file"),
        (".", "not a regular file"),
        ("fifo", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("fifo --dtype f8", "not a regular file"),
        ("short.npy", "greater than file size"),
        ("cut.npy", "reading array header"),
        ("damaged.npy", "can't be mapped"),
        ("negative.npy", "can't be mapped"),
        ("objects.npy", "Python objects"),
        ("archive.npz", "npz"),
        ("raw.bin", "needs --dtype"),
        ("empty.bin", "needs --dtype"),
        ("empty.bin --dtype f8", "nothing from offset 0 on"),
        ("raw.bin --dtype f8 --offset 480", "nothing from offset 480 on"),
        ("raw.bin --dtype f8 --offset 3", "no whole number"),
        ("raw.bin --dtype f8 --shape 12,6", "needs 576 bytes, the file has 480"),
        ("raw.bin --dtype f8 --shape 12,x", "not a shape"),
        ("raw.bin --dtype f8 --shape 0,5", "no items"),
        ("raw.bin --dtype float65", "not a dtype"),
        ("raw.bin --dtype O", "objects can't be mapped"),
        ("raw.bin --dtype [('a','O')]", "objects can't be mapped"),
        ("raw.bin --dtype V0", "items of no bytes"),
        ("good.npy --shape 60", "needs --dtype"),
        ("good.npy --limit lots", "not a number of bytes"),
    ],
)
def test_check_refuses(bad_files, arguments, reason):
    """What can't be mapped is refused in one line that says why: status 2."""
    done = cli("check", *arguments.split(), cwd=bad_files)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("python -m samemap check: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_check_refuses_the_unreadable(bad_files):
    """A file that may not be opened is refused as well."""
    path = bad_files / "secret.npy"
    path.write_bytes((bad_files / "good.npy").read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may open every file")
    done = cli("check", path, cwd=bad_files)
    assert done.returncode == 2
    assert "Permission denied" in done.stderr


# What check compares


def layouts_of(shape, order):
    items = np.arange(np.prod(shape), dtype="<u4")
    return list(layouts.views_of(items.reshape(shape, order=order)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(90,), (6, 15), (3, 30), (3, 5, 4), (2, 2, 5, 4)])
def test_blocks_cover_all(monkeypatch, shape, order):
    """Under the limit, the blocks hold every item exactly once."""
    monkeypatch.setattr(layouts, "BLOCK_NBYTES", 28)
    for name, view in layouts_of(shape, order):
        axes = layouts.reading_order(view)
        blocks = list(layouts._blocks(view, axes, view.nbytes))
        items = np.concatenate([block.ravel() for block in blocks])
        assert sorted(items) == sorted(view.ravel()), name
        assert max(block.nbytes for block in blocks) <= 28, name


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(900,), (6, 150), (300, 3), (30, 5, 4)])
def test_samples_are_bounded(shape, order):
    """Over the limit, first and last item are read and about `limit` bytes in all."""
    for name, view in layouts_of(shape, order):
        if view.nbytes <= 400:
            continue
        axes = layouts.reading_order(view)
        blocks = list(layouts._blocks(view, axes, 400))
        items = np.concatenate([block.ravel() for block in blocks])
        assert view.flat[0] in items, name
        assert view.flat[-1] in items, name
        assert items.nbytes <= 400, name


def test_digest_sees_padding():
    """Two records that differ in their padding alone have other bytes."""
    record = np.dtype([("id", "u1"), ("x", "f8")], align=True)
    one, two = np.zeros(3, record), np.zeros(3, record)
    two.view("u1")[3] = 1
    digests = {layouts.digest(array, (0,), 1000) for array in (one, two)}
    assert len(digests) == 2


# run

SENDS_A_TRANSPOSE = """
    import sys
    import numpy as np
    from joblib import Parallel, delayed

    def as_list(array):
        return array.tolist()

    if __name__ == "__main__":
        np.arange(12.0).tofile("data.bin")
        m = np.memmap("data.bin", dtype=float, mode="r", shape=(3, 4))
        for backend in ("loky", "multiprocessing"):
            call = Parallel(n_jobs=2, backend=backend)
            got = call(delayed(as_list)(m.T) for _ in range(2))
            print(backend, got == [m.T.tolist()] * 2)
        print(sys.argv[1:], sys.path[0], __name__, __file__, __spec__ is None)
        sys.exit(7)
    """


@stock_sends
def test_run_script(tmp_path):
    """An unchanged script gets right data in both pools, and its own exit status."""
    script = write_script(tmp_path / "script.py", SENDS_A_TRANSPOSE)
    plain = python(script, "-x", "--", "-h", cwd=tmp_path)
    assert "loky False" in plain.stdout
    done = cli("run", "script.py", "-x", "--", "-h", cwd=tmp_path)
    assert done.returncode == plain.returncode == 7, done.stderr
    assert done.stdout == plain.stdout.replace("False", "True", 2)


def test_run_elsewhere(tmp_path):
    """The script's folder is on the path, not the one it is started from."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "beside.py").write_text("value = 5")
    script = write_script(folder / "script.py", "import beside; print(beside.value)")
    done = cli("run", script, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr


@pytest.mark.parametrize("program", ["package", "package.module", "package.inner"])
def test_run_module(tmp_path, program):
    """-m finds modules and packages as python does."""
    inner = tmp_path / "package" / "inner"
    inner.mkdir(parents=True)
    for path in (inner.parent / "__init__.py", inner / "__init__.py"):
        path.touch()
    show = """
        import sys
        print(__name__, __package__, __spec__.name, sys.argv, sys.path[0], __file__)
        """
    for path in (inner.parent / "__main__.py", inner / "__main__.py"):
        write_script(path, show)
    write_script(inner.parent / "module.py", show)
    plain = python("-m", program, "-m", "3", cwd=tmp_path)
    done = cli("run", "-m", program, "-m", "3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, plain.stdout), done.stderr


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_run_folder_and_zip(tmp_path, form):
    """A folder or a zip file with a __main__.py runs."""
    folder = tmp_path / "program"
    folder.mkdir()
    write_script(folder / "__main__.py", "import sys; print(sys.argv, sys.path[0])")
    program = "program"
    if form == "zip":
        program = "program.zip"
        python("-m", "zipfile", "-c", program, folder / "__main__.py", cwd=tmp_path)
    plain = python(program, cwd=tmp_path)
    done = cli("run", program, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, plain.stdout), done.stderr


def test_run_stays_main(tmp_path):
    """Threads and exit handlers of the program still find it as __main__."""
    script = write_script(
        tmp_path / "script.py",
        """
        import atexit
        import pickle
        import threading

        def function():
            pass

        def late():
            threading.main_thread().join()
            print(pickle.loads(pickle.dumps(function)) is function)

        threading.Thread(target=late).start()
        atexit.register(lambda: print(pickle.loads(pickle.dumps(function)) is function))
        """,
    )
    done = cli("run", script, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "True\nTrue\n"), done.stderr


def test_run_spawned(tmp_path):
    """Processes that import the program again find its functions, and samemap."""
    script = write_script(tmp_path / "script.py", SENDS_A_TRANSPOSE)
    done = cli("run", script, cwd=tmp_path, JOBLIB_START_METHOD="spawn")
    assert done.returncode == 7, done.stderr
    assert "loky True\nmultiprocessing True\n" in done.stdout


def test_run_outranks_the_environment(tmp_path):
    """`run` installs samemap even where SAMEMAP=0 keeps imports from it."""
    write_script(tmp_path / "script.py", "import samemap; print(samemap.installed())")
    done = cli("run", "script.py", cwd=tmp_path, SAMEMAP="0")
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_run_passes_errors_on(tmp_path):
    """An error of the program is shown with the program's own lines."""
    script = write_script(tmp_path / "script.py", "\n1 / 0\n")
    done = cli("run", script, cwd=tmp_path)
    assert done.returncode == 1
    assert f'File "{script}", line 2, in <module>' in done.stderr
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["missing.py"], 2, "can't open file 'missing.py'"),
        (["-m", "missing_module"], 1, "no module named missing_module"),
        (["-m", "missing_package.module"], 1, "No module named 'missing_package'"),
        (["."], 1, "can't find '__main__' module in '.'"),
    ],
)
def test_run_without_program(tmp_path, arguments, status, reason):
    """A program that is not there: one line, and the status that python gives."""
    done = cli("run", *arguments, cwd=tmp_path)
    plain = python(*arguments, cwd=tmp_path)
    assert done.returncode == plain.returncode == status
    assert done.stderr.startswith("python -m samemap run: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_run_misses_what_the_package_misses(tmp_path):
    """A package that can't be imported shows its own error, not "no module"."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import not_there_at_all")
    done = cli("run", "-m", "package.module", cwd=tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'not_there_at_all'" in done.stderr
