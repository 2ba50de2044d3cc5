"""Pools that were made before pandas or astropy were imported."""

import numpy as np
import pytest
from support.scripts import run_script

pytestmark = pytest.mark.needs_maps

# The pool has run a task before the library is imported, here and in the workers.
PROGRAM = """
    import sys

    import numpy as np
    import samemap
    from joblib import Parallel, delayed
    from samemap import _core

    def look(obj):
        return seen(obj), "pandas" in sys.modules or "astropy" in sys.modules

    if __name__ == "__main__":
        path, backend = sys.argv[1:]
        with Parallel(n_jobs=2, backend=backend) as parallel:
            parallel([delayed(len)(())] * 4)
            assert not {"pandas", "astropy"} & {*sys.modules}
            [(found, loaded)] = parallel([delayed(look)(make(path))])
            assert loaded
            print(found)
"""

PANDAS = """
    def seen(frame):
        values = frame._mgr.blocks[0].values
        return _core.is_mapped(values), values.strides

    def make(path):
        import pandas as pd

        array = np.memmap(path, np.float64, "r", shape=(60, 100))[::2, ::-1]
        return pd.DataFrame(array, copy=False)
"""

ASTROPY = """
    def seen(array):
        array = getattr(array, "value", array)
        return _core.is_mapped(np.ndarray.view(array, np.ndarray)), array.strides

    def make(path):
        from astropy.io import fits

        with fits.open(path, memmap=True) as hdus:
            records = hdus[1].data
        {made}
"""

MADE = {
    "FITS_rec": "return records",
    "Quantity": "from astropy import units; "
    "return units.Quantity(records['a'], 'm', copy=False)",
    "Column": "from astropy.table import Column; "
    "return Column(records['a'], copy=False)",
    "MaskedColumn": "from astropy.table import MaskedColumn; "
    "return MaskedColumn(records['a'], copy=False)",
}


def run(path, backend, what):
    before, after = PROGRAM.split("    def look(obj):")
    source = before + what.lstrip("\n") + "\n    def look(obj):" + after
    return run_script(source, path, backend)


def test_frame(backend, memmap_path):
    """A strided DataFrame goes by reference through an older pool."""
    pytest.importorskip("pandas")
    assert run(memmap_path, backend, PANDAS) == "(True, (-8, 1600))\n"


@pytest.mark.parametrize("made", MADE)
def test_astropy(backend, tmp_path, made):
    """So do astropy's arrays on the memory of a FITS file."""
    fits = pytest.importorskip("astropy.io.fits")
    path = tmp_path / "table.fits"
    columns = [
        fits.Column("a", "D", array=np.arange(1000.0)),
        fits.Column("n", "J", array=np.arange(1000)),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(path)
    what = ASTROPY.format(made=MADE[made])
    assert run(path, backend, what) == "(True, (12,))\n"
