"""Overlapping windows of a FITS image, from each of which its task subtracts its mean.

astropy maps the file, and a window is a view of that map. Stock joblib writes such a
view to a second file and gives that to the task read-only, so that `window -= ...` is
an error. With samemap no element is copied on the way: each task has the pages of the
file, and what it writes is its own. So a window is right though its neighbours, with
which it shares most of its pixels, were changed before it, and the file stays as it is.

Output::

    16 windows of 9.6 MB each, of an image of 32.0 MB
    stock joblib: ValueError, output array is read-only
    with samemap: 16 of 16 windows right
    sent by reference: 16 arrays, by value: 0
    the image is as it was: True
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import samemap
from astropy.io import fits
from joblib import Parallel, delayed

Array = np.ndarray[Any, np.dtype[Any]]

WIDTH, STEP = 1200, 120


def noise(window: Array) -> float:
    window -= window.mean()
    return float(np.sqrt(np.mean(window**2)))


def main(path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(1000, 10, size=(2000, 4000)).astype(np.float32)
    fits.writeto(path, pixels)
    saved = path.read_bytes()

    with fits.open(path, memmap=True) as hdus:
        image = hdus[0].data
        columns = [slice(i * STEP, i * STEP + WIDTH) for i in range(16)]
        windows = [image[:, column] for column in columns]
        print(
            f"{len(windows)} windows of {windows[0].nbytes / 1e6:.1f} MB each, "
            f"of an image of {image.nbytes / 1e6:.1f} MB"
        )
        tasks = [delayed(noise)(window) for window in windows]

        try:
            with samemap.disabled():
                Parallel(n_jobs=2)(tasks)
        except ValueError as error:
            print(f"stock joblib: ValueError, {error}")

        found = Parallel(n_jobs=2)(tasks)

    expected = [noise(pixels[:, column].copy()) for column in columns]
    right = np.isclose(found, expected, rtol=1e-4)
    print(f"with samemap: {right.sum()} of {len(windows)} windows right")
    sent = samemap.stats()
    by_reference, by_value = sent["by reference"]["arrays"], sent["by value"]["arrays"]
    print(f"sent by reference: {by_reference} arrays, by value: {by_value}")
    print(f"the image is as it was: {path.read_bytes() == saved}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder, "image.fits"))
