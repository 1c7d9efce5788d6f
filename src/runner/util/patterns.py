"""Patterns over the names of parameters: `backbone.*`, `*.bias`, or the name of a module or a parameter."""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from runner.errors import ConfigError, Problem, close_match

SHOWN = 6


def matches(pattern: str, name: str) -> bool:
    """Return whether a pattern matches a name, or that of a module around it, as in a shell; `*` takes dots too."""
    return any(fnmatchcase(prefix, pattern) for prefix in _prefixes(name))


def select(key: str, patterns: Sequence[str], names: Iterable[str], several: bool = True) -> list[str]:
    """Select the names that patterns match, in their own order.

    Args:
        key: the config key of the patterns, for the error.
        patterns: each must match a name.
        names: of parameters and buffers, with dots between modules.
        several: the key takes a list, for the error.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    names = list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if matches(pattern, name)}
        if not matched:
            raise ConfigError(_no_match(key, patterns, pattern, names, several))
        chosen |= matched
    return [name for name in names if name in chosen]


def _no_match(key: str, patterns: Sequence[str], pattern: str, names: Sequence[str], several: bool) -> Problem:
    text = f"{key}: {pattern} matches no parameter of the model"
    modules = list(dict.fromkeys(prefix for name in names for prefix in _prefixes(name)))
    stem = pattern.strip("*.")
    deeper = next((module for module in modules if module.endswith(f".{stem}")), None)
    if stem and (close := deeper or close_match(stem, modules)):
        better = close if close in names else f"{close}.*"
        now = [better if other == pattern else other for other in patterns]
        return Problem(key, text, f"write {key}={format_patterns(now, several)}", topic="unknown")
    top = list(dict.fromkeys(name.partition(".")[0] for name in names))
    more = ", ..." if len(top) > SHOWN else ""
    return Problem(key, text, f"the names begin with {', '.join(top[:SHOWN])}{more}", topic="unknown")


def patterns_of(value: str | Sequence[str]) -> list[str]:
    """Return one pattern, or several, as a list."""
    return [value] if isinstance(value, str) else list(map(str, value))


def format_patterns(patterns: Sequence[str], several: bool = True) -> str:
    """Format patterns as they are typed."""
    return f"[{','.join(patterns)}]" if several or len(patterns) != 1 else patterns[0]


def _prefixes(name: str) -> Iterator[str]:
    """Yield a name and the names of the modules around it, the longest last."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))
