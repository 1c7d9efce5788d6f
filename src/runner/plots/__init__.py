"""Plots as PNG: curves from the journal, predictions for the test samples, comparisons, sweeps.

This imports matplotlib.
"""

import sys


def _import_matplotlib() -> None:
    """Import matplotlib without the tables of properties in its docstrings, which take a fifth of its import (0.05 s).

    `help()` lacks them then, so a session in which someone may ask for it has them.
    """
    from matplotlib import artist

    table = artist.kwdoc
    if not (hasattr(sys, "ps1") or "IPython" in sys.modules or "matplotlib.figure" in sys.modules):
        artist.kwdoc = lambda artist: ""
    try:
        import matplotlib.figure  # noqa: F401
    finally:
        artist.kwdoc = table


_import_matplotlib()
