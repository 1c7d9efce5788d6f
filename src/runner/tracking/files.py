"""Small files that are either the old ones or the new ones, whatever happens in between."""

import contextlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content: temporary file, flush to disk, rename.

    Raises:
        OSError: with the file's name; it is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def link(source: Path, target: Path) -> None:
    """Let target be the same file as source, at once or not at all."""
    fresh = target.with_name(f".{target.name}.tmp")
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError:  # a file system without links
        shutil.copy2(source, fresh)
    fresh.replace(target)


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file atomically."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; an empty one where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
