"""Checks of some image files before anything starts: the number that stands for white, and files that are damaged."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runner.data.image_file import RANGES, ImageError, inspect_pixels
from runner.data.image_files import ImageFiles
from runner.data.listing import NAMES_SHOWN
from runner.errors import ConfigError, Problem
from runner.util.cores import usable_cores

KEY = "data.scale"


def find_white(parts: Sequence[ImageFiles], scale: float | str) -> tuple[float | None, list[str]]:
    """Find the number that stands for white, from about `TRIED` files of each part.

    Args:
        parts: of the data.
        scale: `data.scale`.

    Returns:
        The number; None for 255, or for 16 bits. And notes for the user.

    Raises:
        ConfigError: the number is unknown.
    """
    if not isinstance(scale, str):
        return float(scale), []
    deep = _inspect_deep(parts)
    if not deep:
        return None, []
    path, kind, most = max(deep, key=lambda file: file[2])
    some = f"{path} and {len(deep) - 1} more" if len(deep) > 1 else str(path)
    if kind == "16-bit colour" and most <= RANGES[-2]:
        text = f"data.path: {some} have colours of 16 bits, but use less than 14 of them"
        raise ConfigError(Problem("data.path", text, "save them with 8 bits", topic="data"))
    if scale == "none":
        text = f"{KEY}=none: {path} has more than 8 bits per pixel ({kind})"
        raise ConfigError(Problem(KEY, text, f"write {KEY}={most:g}", topic="data"))
    if kind == "16-bit colour":
        return None, ["16-bit colours: the upper 8 bits"]
    if any(kind == "float" for _, kind, _ in deep):
        return None, []  # `try_files` reports each
    white = next((limit for limit in RANGES if most <= limit), None)
    if white is None:
        text = f"data.path: {some}: pixels go up to {most:,.0f}, and the number of white is unknown"
        raise ConfigError(Problem(KEY, text, f"write {KEY}={most:.0f}", topic="data"))
    return float(white), [f"{kind} files that hold 0 to {most:,.0f}: scaled by {white:,}"]


def _inspect_deep(parts: Sequence[ImageFiles]) -> list[tuple[Path, str, float]]:
    """Inspect some files of each part; return those of more than 8 bits, with kind and largest number."""

    def inspect(path: Path) -> tuple[str, float] | None:
        try:
            return inspect_pixels(path)
        except Exception:  # a decoder may raise anything for a damaged file, which `try_files` reports
            return None

    paths = [part.folder / part.names[index] for part in parts for index in part.sample_indices()]
    with ThreadPoolExecutor(usable_cores()) as pool:
        pixels = pool.map(inspect, paths)
        return [(path, *seen) for path, seen in zip(paths, pixels, strict=True) if seen and seen[0] != "8-bit"]


def try_files(*parts: ImageFiles) -> int:
    """Read about `TRIED` files of each part.

    Returns:
        The largest pixel in those of the first part, which is the training part.

    Raises:
        ConfigError: with a problem for each file that cannot be read; of more than a few, with their number.
    """

    def attempt(part: ImageFiles, index: int) -> Problem | int:
        try:
            return int(part.read(index).max())
        except ImageError as error:
            return part.problem(index, error)

    tried = [(part, index) for part in parts for index in part.sample_indices()]
    with ThreadPoolExecutor(usable_cores()) as pool:
        results = list(pool.map(attempt, *zip(*tried, strict=True)))
    problems = [result for result in results if isinstance(result, Problem)]
    if len(problems) > NAMES_SHOWN:
        text = f"data.path: {len(problems) - NAMES_SHOWN} more of the {len(tried)} files tried cannot be read either"
        problems = [*problems[:NAMES_SHOWN], Problem("data.path", text, topic="file")]
    if problems:
        raise ConfigError(*problems)
    return max(result for result in results[: len(parts[0].sample_indices())] if isinstance(result, int))
