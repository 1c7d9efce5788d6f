"""Continue a text with the language model of a run."""

from collections.abc import Mapping
from pathlib import Path

from runner.data.paths import find_data_file
from runner.errors import ConfigError, Problem
from runner.runs.new_inputs import SUFFIXES
from runner.runs.new_values import KEY
from runner.runs.predictor import Predictor
from runner.task.language_model import LanguageModel
from runner.util.trees import is_shape

OPTIONS = {
    "max_new_tokens": (int, 1, 100_000, 200),
    "temperature": (float, 0, 100, 1),
    "seed": (int, 0, 2**63 - 1, 0),
}
"""The options of a continuation: type, least and largest value, default."""


def writes_texts(predictor: Predictor) -> bool:
    """Whether the run is a language model of characters."""
    return isinstance(predictor.task, LanguageModel) and bool(predictor.samples.classes)


def continues(predictor: Predictor, value: str) -> bool:
    """Whether the input is a text to continue: the run is a language model of characters, and it names no arrays."""
    return writes_texts(predictor) and not (Path(value).suffix.lower() in SUFFIXES and Path(value).is_file())


def read_options(options: Mapping[str, str]) -> dict[str, float]:
    """Return the options of a continuation that are set.

    Raises:
        ConfigError: one is not a number, or out of range.
    """
    found: dict[str, float] = {}
    for key, (kind, least, most, usual) in OPTIONS.items():
        if key not in options:
            continue
        try:
            number: float = kind(options[key])
        except ValueError as error:
            what = "a whole number" if kind is int else "a number"
            text = f"{key}={options[key]} is not {what}"
            raise ConfigError(Problem(key, text, f"write {key}={usual}", topic="type")) from error
        if not least <= number <= most:
            text = f"{key}={options[key]} must be at least {least}, and at most {most}"
            raise ConfigError(Problem(key, text, f"write {key}={usual}", topic="range"))
        found[key] = number
    return found


def refuse_options(options: Mapping[str, str]) -> None:
    """Check that no option of a continuation is set for an input that is not continued.

    Raises:
        ConfigError: one is.
    """
    if typed := [key for key in OPTIONS if key in options]:
        text = f"{typed[0]}={options[typed[0]]}: only a text is continued, by a run of task=language_model data=text"
        raise ConfigError(Problem(typed[0], text, "leave it out", topic="conflict"))


def continue_text(predictor: Predictor, value: str, options: Mapping[str, str]) -> str:
    """Return what follows a text.

    Args:
        predictor: of a run for which `continues` holds.
        value: the text, or the path of a .txt file.
        options: as typed: see `complete`.

    Raises:
        ConfigError: an option is wrong, the file cannot be read, or the model does not know a character.
    """
    numbers = read_options(options)
    return complete(predictor, _read(value) if value.lower().endswith(".txt") else value, numbers)


def complete(predictor: Predictor, text: str, numbers: Mapping[str, float]) -> str:
    """Return what follows a text.

    Args:
        predictor: of a run for which `writes_texts` holds.
        text: the beginning.
        numbers: `max_new_tokens`, `temperature` (0 takes the most probable character) and `seed`, each with a default.

    Raises:
        ConfigError: the model does not know a character.
    """
    task = predictor.task
    assert isinstance(task, LanguageModel) and predictor.samples.classes is not None
    shape = predictor.samples.input_shape
    # Of an item of T + 1 tokens the model has seen T.
    trained = max(1, shape[0] - 1) if is_shape(shape) and shape else None
    whole = {key: int(number) for key, number in numbers.items() if key != "temperature"}
    with predictor.precision.autocast():
        return task.complete(
            predictor.model,
            text,
            predictor.samples.classes,
            temperature=numbers.get("temperature", 1.0),
            trained=trained,
            **whole,
        )


def _read(value: str) -> str:
    path = find_data_file(value, KEY)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        text = f"{KEY}={value} is not UTF-8 (byte {error.start:,})"
        raise ConfigError(Problem(KEY, text, "convert it", topic="data")) from error
