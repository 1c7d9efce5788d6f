"""Following the suggestions of problems: typing what they say, as a reader would."""

import re
import shlex
from collections.abc import Sequence

from runner.errors import Problem

VALUES = {
    "true or false": "true",
    "auto": "auto",
    "max or a whole number": "3",
    "a whole number": "3",
    "a number": "0.5",
    "a text": "text",
    "a name": "name",
}
"""What a reader types for a value that is described in words."""


def follow(typed: Sequence[str], problems: Sequence[Problem]) -> list[str] | None:
    """What to type after reading the problems; None if a suggestion is not one of words to type."""
    words: list[str] | None = list(typed)
    for problem in problems:
        words = None if words is None else _follow(words, problem)
    return words


def _follow(words: list[str], problem: Problem) -> list[str] | None:
    suggestion = problem.suggestion.removesuffix("; see --help")
    here = next((word for word in words if _key(word) == problem.key), None)
    if meant := re.match(r"did you mean ([^?]+)\?", suggestion):
        if here is None:  # it stands in a file
            return None
        is_value = problem.topic in ("choice", "file") or problem.text.startswith(f"{here} is not ")
        if is_value and "=" not in meant[1]:
            return _chosen(words, here, problem.key, meant[1])
        return _replaced(words, here, _meant(here, problem, meant[1].split(" or ")[0]))
    if "add --multirun" in suggestion:
        return ["--multirun", *words]
    if added := re.match(r"add (\S+=\S+?)(?:, | |$)", suggestion):
        return [added[1], *words]
    if chosen := re.match(r"choose from ([^,;]+)", suggestion):
        return _chosen(words, here, problem.key, chosen[1])
    if chosen := re.match(r"choose (\S+=\S+)", suggestion):
        return _replaced(words, None, [chosen[1]])
    if left_out := re.match(r"leave out (\S+)", suggestion):
        option = left_out[1].rstrip(",")
        return [word for word in words if word not in (option, option[1:3])]  # --multirun is -m
    if left_out := re.match(r"leave (?:it|them) out(?: by)? ?(.*)", suggestion):
        keys = [_key(word) for word in left_out[1].split()]
        if here is not None and here.startswith("--") and "=" not in here:  # and its value, the next word
            return [*words[: words.index(here)], *words[words.index(here) + 2 :]]
        return [word for word in words if word != here and _key(word) not in keys]
    return _written(words, here, problem.key, suggestion)


def _written(words: list[str], here: str | None, key: str, suggestion: str) -> list[str] | None:
    """Follow `write ...`: a value in words, or words to type."""
    typed = re.match(r"(?:write|quote it:|a list is written) (.*)", suggestion)
    if typed is None:
        return None
    text = re.split(r"; | or (?=\S+=)|, (?=or )| if | for a ", typed[1])[0]
    for described, value in VALUES.items():
        if text.startswith(described):
            sign = "+" if here is not None and here.startswith("+") else ""
            return _replaced(words, here, [f"{sign}{key}={value}"])
    if one := re.match(r"one of ([^,]+)", text):
        return _replaced(words, here, [f"{key}={one[1]}"])
    new = shlex.split(text)
    if "<" in text or not all("=" in word or word.startswith("-") for word in new):
        return None
    if here is not None and here.startswith("--") and "=" not in here:  # `--lr 0.1`: its value is the next word
        value = words[words.index(here) + 1 : words.index(here) + 2]
        words = [word for word in words if word not in value or word not in new[0]]
    return _replaced(words, here, new)


def _meant(here: str, problem: Problem, meant: str) -> list[str]:
    if "=" in meant:
        return [meant]
    value = here.partition("=")[2]
    if problem.key.endswith("._target_"):  # of a module: the name in it
        return [f"{problem.key}={value.rpartition('.')[0]}.{meant}"]
    if problem.key.count(".") == 1 and "." not in meant:  # of a class: its parameter
        meant = f"{problem.key.partition('.')[0]}.{meant}"
    return [f"{meant}={value}" if value else meant]


def _chosen(words: list[str], here: str | None, key: str, choice: str) -> list[str]:
    if key.startswith("-"):  # the value of an option is the next word
        place = words.index(key)
        return [*words[: place + 1], choice, *words[place + 2 :]]
    return _replaced(words, here, [f"{key}={choice}"])


def _replaced(words: list[str], here: str | None, new: list[str]) -> list[str]:
    keys = {_key(word) for word in new}
    rest = [word for word in words if word == here or _key(word) not in keys]
    if here is None or here not in rest:
        return [*new, *rest]
    place = rest.index(here)
    return [*rest[:place], *new, *rest[place + 1 :]]


def _key(word: str) -> str:
    return word.partition("=")[0].partition("@")[0].lstrip("+~").strip()
