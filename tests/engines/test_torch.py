"""PyTorch: tensors on mapped memory in workers, and the sender's own left in place."""

import gc
import multiprocessing
import warnings

import numpy as np
import pytest
import samemap
from support import pool_tasks
from support.scripts import run_script

torch = pytest.importorskip("torch", reason="no torch")

import samemap.torch  # noqa: E402
from support import torch_tasks  # noqa: E402

ROWS, COLUMNS = 60, 100
METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(autouse=True)
def installed():
    samemap.torch.install()
    yield
    samemap.torch.uninstall()


@pytest.fixture
def array(memmap_path):
    return np.memmap(memmap_path, np.float64, "r+", shape=(ROWS, COLUMNS))


def tensor_of(array):
    with warnings.catch_warnings():
        # A read-only array's tensor must not be written to, which PyTorch can't know.
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_data_loader(memmap_path, method, mode):
    """Workers have tensor and array on the file, and write to pages of their own.

    Those that are forked inherit the tensor: there writes are what its map makes them,
    so that a read-only one can't be written to.
    """
    if (method, mode) == ("fork", "r"):
        pytest.skip("to write to it crashes, with stock as well")
    array = np.memmap(memmap_path, np.float64, mode, shape=(ROWS, COLUMNS))
    tensor = tensor_of(array)
    before = array.copy()
    loader = torch.utils.data.DataLoader(
        torch_tasks.Rows(tensor, array),
        batch_size=10,
        num_workers=2,
        multiprocessing_context=method,
    )
    found = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    np.testing.assert_array_equal(found[0], before[:, 0])
    assert found[2].all()
    assert torch_tasks.is_on(tensor, memmap_path)
    if method == "spawn":
        np.testing.assert_array_equal(found[1], before[:, 1])
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_queue(memmap_path, method, mode):
    """A tensor in a queue keeps its layout; the sender's stays on its file."""
    array = np.memmap(memmap_path, np.float64, mode, shape=(ROWS, COLUMNS))
    tensor, before = tensor_of(array), array.copy()
    context = torch.multiprocessing.get_context(method)
    inbox, outbox = context.Queue(), context.Queue()
    process = context.Process(target=torch_tasks.echo_tensors, args=(inbox, outbox))
    process.start()
    for sent in (tensor, tensor.T, tensor[3:9, ::7], tensor[0]):
        arrays = samemap.stats()["by reference"]["arrays"]
        inbox.put(sent)
        total, strides, dtype = outbox.get(timeout=60)
        assert total == float(sent.sum())
        assert strides == tuple(sent.stride())
        assert dtype == torch.float64
        assert samemap.stats()["by reference"]["arrays"] == arrays + 1
    inbox.put(None)
    process.join(60)
    np.testing.assert_array_equal(array, before)
    assert torch_tasks.is_on(tensor, memmap_path)
    if mode == "r+":
        array[0, 0] = 77
        assert tensor[0, 0] == 77


@pytest.mark.parametrize("method", METHODS)
def test_pool(memmap_path, array, method):
    """So does a task's argument, and what is left in a result."""
    tensor = tensor_of(array)
    with torch.multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(pool_tasks.echo, (5,)) == 5
        back = pool.apply(pool_tasks.echo, (tensor,))
        assert torch.equal(back, tensor)
        back += 1
        assert tensor[0, 0] == 0
        assert pool.apply(pool_tasks.is_installed) is False
        made = pool.apply(torch_tasks.make_tensor, (memmap_path,))
        assert torch.equal(made, tensor.reshape(-1)[::2])


@pytest.mark.parametrize("how", pool_tasks.ERRORS)
def test_argument_can_not_be_loaded(tmp_path, how):
    """The error is typed and the pool goes on; a name that is lost costs nothing."""
    path = tmp_path / "data"
    np.arange(6000.0).tofile(path)
    tensor = tensor_of(np.memmap(path, np.float64, "r+"))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        task = pool.apply_async(pool_tasks.echo, (pool_tasks.Change(how, path), tensor))
        if how == "truncated":
            with pytest.raises(samemap.BackingTruncatedError):
                task.get(60)
        else:
            assert torch.equal(task.get(60)[1], tensor)
        assert pool.apply_async(pool_tasks.echo, (5,)).get(60) == 5


LEFT = {
    "in memory": lambda tensor: torch.ones(100),
    "large, in memory": lambda tensor: torch.ones(1 << 18),
    "shared": lambda tensor: tensor.clone().share_memory_(),
    "gradient": lambda tensor: tensor.clone().requires_grad_(),
    "conjugated": lambda tensor: tensor.to(torch.complex128).conj(),
    "bfloat16": lambda tensor: tensor.to(torch.bfloat16),
    "sparse": lambda tensor: torch.eye(3).to_sparse(),
    "parameter": lambda tensor: torch.nn.Parameter(tensor),
    "empty": lambda tensor: tensor[:0],
}


@pytest.mark.parametrize("kind", LEFT)
def test_left_to_torch(array, kind):
    """What a path and a layout don't say all of goes as PyTorch sends it."""
    tensor = LEFT[kind](tensor_of(array.copy() if kind == "parameter" else array))
    arrays = samemap.stats()["by reference"]["arrays"]
    reader, writer = multiprocessing.Pipe(duplex=False)
    writer.send(tensor)
    back = reader.recv()
    assert type(back) is type(tensor)
    assert back.dtype == tensor.dtype
    assert back.requires_grad == tensor.requires_grad
    assert torch.equal(back.to_dense(), tensor.to_dense())
    if kind == "shared":
        back[0] = -5
        assert (tensor[0] == -5).all()
    sent = samemap.stats()["by reference"]["arrays"] - arrays
    assert sent <= (kind == "empty")


def test_without_a_path(tmp_path):
    """A file that no path leads to is left to PyTorch, which moves the tensor."""
    path = tmp_path / "data"
    np.arange(600.0).tofile(path)
    tensor = tensor_of(np.memmap(path, np.float64, "r+"))
    path.unlink()
    reader, writer = multiprocessing.Pipe(duplex=False)
    writer.send(tensor)
    assert torch.equal(reader.recv(), tensor)
    assert tensor.is_shared()


def test_files_of_torch_are_data(array, tmp_path):
    """`torch.save` and multiprocessing's own pickler write elements."""
    tensor = tensor_of(array)
    torch.save(tensor, tmp_path / "saved")
    assert b"samemap" not in (tmp_path / "saved").read_bytes()
    assert b"samemap" not in bytes(
        multiprocessing.reduction.ForkingPickler.dumps(tensor)
    )


def test_uninstall(memmap_path):
    """Stock is back, and what the pools have asked for stays."""
    samemap.pools.install()
    samemap.torch.uninstall()
    assert samemap.pools.installed()
    assert not samemap.torch.installed()
    tensor = tensor_of(np.memmap(memmap_path, np.float64, "r+"))
    arrays = samemap.stats()["by reference"]["arrays"]
    reader, writer = multiprocessing.Pipe(duplex=False)
    writer.send(tensor)
    assert torch.equal(reader.recv(), tensor)
    assert samemap.stats()["by reference"]["arrays"] == arrays
    assert not torch_tasks.is_on(tensor, memmap_path)
    samemap.torch.install()
    samemap.pools.uninstall()
    assert samemap.torch.installed()
    assert not samemap.pools.installed()
    gc.collect()


def test_other_internals(monkeypatch):
    """Another reducer of tensors is a typed error, and nothing is touched."""
    samemap.torch.uninstall()
    reducers = multiprocessing.reduction.ForkingPickler._extra_reducers
    monkeypatch.setitem(reducers, torch.Tensor, lambda tensor: (int, (5,)))
    with pytest.raises(samemap.UnsupportedEngineError, match="reduce_tensor"):
        samemap.torch.install()
    assert not samemap.torch.installed()


def test_torch_is_not_imported_unasked():
    """Neither samemap nor its module for PyTorch imports that."""
    run_script("""
        import sys
        import samemap
        samemap.pools.install()
        assert samemap.torch.installed() is False
        assert "torch" not in sys.modules
    """)
