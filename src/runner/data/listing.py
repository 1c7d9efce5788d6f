"""Lists of names in messages: the first few of them."""

from collections.abc import Iterable, Sequence

NAMES_SHOWN = 5


def list_names(names: Iterable[object]) -> str:
    """List the first names: `a, b, c, d, e, ...`; those of a set are sorted."""
    listed = [str(name) for name in names]
    if isinstance(names, set):
        listed.sort()
    return ", ".join(listed[:NAMES_SHOWN]) + (", ..." if len(listed) > NAMES_SHOWN else "")


def list_folders(names: Sequence[str]) -> str:
    """List the first names as folders: `a/, b/ and c/`."""
    shown = [f"{name}/" for name in names[:NAMES_SHOWN]] + ["..."] * (len(names) > NAMES_SHOWN)
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
