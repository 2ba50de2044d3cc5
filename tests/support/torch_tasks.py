"""Datasets and processes for the tests of PyTorch."""

import numpy as np
import torch


class Rows(torch.utils.data.Dataset):
    """The rows of a tensor; each tells whether its worker's tensor lies on a map."""

    def __init__(self, tensor, array):
        self.tensor = tensor
        self.array = array

    def __len__(self):
        return len(self.tensor)

    def __getitem__(self, index):
        row = self.tensor[index]
        first = row[0].item()
        row += 1
        worker_file = is_on(self.tensor, self.array.filename)
        return first, float(self.array[index, 1]), worker_file


def is_on(tensor, path):
    """Tell whether a tensor's memory is that of a file."""
    address = tensor.data_ptr()
    with open("/proc/self/maps") as maps:
        for line in maps:
            low, high = (int(end, 16) for end in line.split()[0].split("-"))
            if low <= address < high:
                return line.rstrip().endswith(str(path))
    return False


def echo_tensors(inbox, outbox):
    """Take tensors until None comes; answer with their sums, and write to them."""
    while True:
        tensor = inbox.get()
        if tensor is None:
            return
        outbox.put((float(tensor.sum()), tuple(tensor.stride()), tensor.dtype))
        tensor += 1


def make_tensor(path):
    return torch.from_numpy(np.memmap(path, np.float64, "r+"))[::2]
