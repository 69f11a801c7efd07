"""Matplotlib, of which only colour maps, fonts and the renderer are used, whatever backend the user has named."""

import os
from types import ModuleType

_BACKEND = "MPLBACKEND"


def load_matplotlib() -> ModuleType:
    """Import Matplotlib. It refuses to be imported where MPLBACKEND names a backend that is not installed.

    As in all that is started from a notebook, whose own backend comes with it. Nothing of a backend is needed here.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import matplotlib
    except ValueError:
        backend = os.environ.pop(_BACKEND, None)
        if backend is None:
            raise
        try:
            import matplotlib
        finally:
            os.environ[_BACKEND] = backend
    return matplotlib
