"""Messages as an engine writes them: with its table, and with plain pickle's loads."""

import copyreg
import io
import pickle

from samemap import _core
from samemap._tables import make_engine_table


def dumps(obj, protocol=4, held=None, **options):
    """Pickle an object as an engine does; what must be kept goes into `held`."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol)
    table = make_engine_table(protocol=protocol, **options)
    pickler.dispatch_table = {**copyreg.dispatch_table, **table}
    message = _core.Outgoing([] if held is None else held)
    try:
        pickler.dump(obj)
    finally:
        message.close()
    return file.getvalue()


def sent(obj, **options):
    """Send an object through a message."""
    return pickle.loads(dumps(obj, **options))
