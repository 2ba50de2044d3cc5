"""Whose memory is it? Owners map one file after the other, at the same address too."""

import gc
import mmap

import numpy as np
import pytest
import samemap
from samemap import _core
from support.encoding import PRIVATE, encode
from support.foreign import Owner, libc, map_at
from support.references import backing, token
from support.scripts import run_script

PAGE = mmap.PAGESIZE


def test_address_used_again(map_table, make_file):
    """The owner unmaps one file and maps another at the same address."""
    owner, length = Owner(), 4 * PAGE
    address = map_at(make_file("a", 1), length)
    samemap.dumps(owner.array(address, length))
    libc.munmap(address, length)
    assert map_at(make_file("b", 2), length, address=address) == address
    array = owner.array(address, length)
    assert samemap.explain(array)["path"].endswith("b")
    assert samemap.loads(samemap.dumps(array))[0] == 2


def test_owner_of_two_maps(map_table, make_file):
    """Each map is one, however often views of both take turns."""
    owner, length = Owner(), 4 * PAGE
    one, two = (
        owner.array(map_at(make_file(name, value), length), length)
        for name, value in (("a", 1), ("b", 2))
    )
    alone = len(samemap.dumps([one[i:] for i in range(100)]))
    pairs = [(one[i:], two[i:]) for i in range(100)]
    message = samemap.dumps(pairs)
    assert len(message) < 3 * alone
    copies = samemap.loads(message)
    for first, second in copies:
        assert (first[0], second[0]) == (1, 2)
        assert np.shares_memory(first, copies[0][0])
        assert np.shares_memory(second, copies[0][1])


@pytest.mark.parametrize("which", range(3))
def test_one_of_several_maps_changes(map_table, make_file, which):
    """What an owner maps anew is another map; its others stay what they are."""
    owner, length = Owner(), PAGE
    addresses = [map_at(make_file(name, ord(name)), length) for name in "abc"]
    arrays = [owner.array(address, length) for address in addresses]
    # While the copies live, nobody else takes the place of a map that was lost.
    copies = samemap.loads(samemap.dumps(arrays))
    before = [token(array) for array in arrays]
    gc.collect()  # of other tests
    known = _core.known()
    map_at(make_file("d", 4), length, address=addresses[which])
    after = [token(array) for array in arrays]
    assert [a == b for a, b in zip(after, before, strict=True)] == [
        i != which for i in range(3)
    ]
    assert [token(array) for array in arrays] == after
    for i, array in enumerate(arrays):
        copy = samemap.loads(samemap.dumps(array))
        assert np.shares_memory(copy, copies[i]) == (i != which)
        assert copy[0] == (4 if i == which else ord("abc"[i]))
        del copy
    assert _core.known() == known
    del copies
    assert _core.known() == known - 3
    del owner, arrays, array
    assert _core.known() == known - 6


def test_neighbours(map_table, make_file):
    """Two files mapped one behind the other by one owner are two maps."""
    address = map_at(make_file("a", 1), 4 * PAGE)
    map_at(make_file("b", 2), 2 * PAGE, address=address + 2 * PAGE)
    owner = Owner()
    parts = [owner.array(address + i * 2 * PAGE, 2 * PAGE) for i in (0, 1, 0, 1)]
    copies = samemap.loads(samemap.dumps(parts))
    assert [copy[0] for copy in copies] == [1, 2, 1, 2]
    for i in range(4):
        shared = [np.shares_memory(copies[i], copy) for copy in copies]
        assert shared == [j % 2 == i % 2 for j in range(4)]


class Explained:
    """Loading it looks at another array."""

    array = None

    def __reduce__(self):
        return explained, ()


def explained():
    return samemap.explain(Explained.array)["path"]


@pytest.mark.needs_maps
def test_other_map_met_while_loading(make_file):
    """What a message has found is not exchanged for the owner's other map."""
    owner, length = Owner(), 4 * PAGE
    one = owner.array(map_at(make_file("a", 1), length), length)
    Explained.array = owner.array(map_at(make_file("b", 2), length), length)
    message = samemap.dumps([one[:5], Explained(), one[5:10]])
    first, path, second = samemap.loads(message)
    assert path.endswith("b")
    assert first.tolist() == second.tolist() == [1] * 5


def test_result_after_unmapping(make_file):
    """Memory that the owner has unmapped is not taken for the file."""
    owner, length = Owner(), 4 * PAGE
    address = map_at(make_file("a", 1), length)
    message = samemap.dumps(owner.array(address, length))
    libc.munmap(address, length)
    assert samemap.loads(message)[0] == 1


@pytest.mark.needs_maps
def test_resized_map(make_file):
    """A map that was resized is another one from then on."""
    with make_file("a", 1).open("r+b") as file:
        whole = mmap.mmap(file.fileno(), 0)
    samemap.explain(np.frombuffer(whole, np.uint8))
    whole.resize(2 * PAGE)
    array = np.frombuffer(whole, np.uint8)
    assert samemap.explain(array)["map_length"] == 2 * PAGE
    array[-1] = 9
    copy = samemap.loads(samemap.dumps(array))
    assert copy.tolist() == array.tolist()


@pytest.mark.needs_maps
@pytest.mark.parametrize("function", [_core.rebuild, _core.pending])
def test_memory_of_another_owner(make_file, function):
    """A message's arrays lie on what it names, or on bytes: on no other object."""
    array = np.memmap(make_file("a", 1), np.uint8, "r")
    named = backing(array)
    attach, arguments = named.__reduce__()
    layout = encode("u1", (5,), flags=PRIVATE)
    function(attach(*arguments), layout)
    for other in (named, array, array.base, mmap.mmap(-1, PAGE), None, (named, 1)):
        for memory in (other, (other, "name", 0, "r")):
            with pytest.raises(TypeError, match="can't be rebuilt on"):
                function(memory, layout)


def test_copy_to_be_written_back(make_file):
    """An array with memory of its own and a base that it will be copied to."""
    array = np.memmap(make_file("a", 0), "u1", "r+")
    flags = [["readwrite", "updateifcopy"]]
    with np.nditer([array[:100]], [], flags, ["f4"], casting="unsafe") as iterator:
        inside = iterator.operands[0]
        assert inside.base is not None
        assert inside.flags.owndata
        assert samemap.explain(inside)["reason"] == "memory"
        assert samemap.loads(samemap.dumps(inside)).tolist() == [0] * 100


def test_chain_without_an_end():
    """Bases that go round in a circle are an error, not a loop."""
    source = """
        import numpy as np
        import samemap
        array = np.lib.stride_tricks.as_strided(np.arange(5))
        array.base.base = array
        try:
            samemap.explain(array)
        except RecursionError as error:
            print(error)
    """
    assert "does not end" in run_script(source, timeout=30)
