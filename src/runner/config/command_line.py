"""The command line of `python -m runner`: parse it, and explain wrong options."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from runner.config.compose import Composer
from runner.config.hydra_job import without_hydra
from runner.config.invocation import without_credentials
from runner.config.keys import GROUPS
from runner.config.messages import dotted_keys
from runner.errors import ConfigError, Problem, did_you_mean
from runner.util import advice
from runner.util.uri import expand_home


def parse_arguments(argv: Sequence[str]) -> Namespace:
    """Parse Hydra's options and the overrides.

    Raises:
        ConfigError: with all unknown options.
    """
    parser = get_args_parser()
    parser.error = lambda message: _refuse_option(parser, argv, message)  # type: ignore[method-assign]
    parser.allow_abbrev = False
    for option in ("--version", "--experimental-rerun"):  # these print Hydra's version, and bypass all checks
        parser._option_string_actions.pop(option)
    parser.add_argument("--version", "-V", action="store_true")
    args = parser.parse_intermixed_args(list(argv))
    args.argv, args.typed = list(argv), without_credentials(argv)
    return args


def _refuse_option(parser: ArgumentParser, argv: Sequence[str], message: str) -> NoReturn:
    """Explain the options that argparse rejects: `--seed=1` is written `seed=1`."""
    _, marker, rest = message.partition("unrecognized arguments: ")
    if not marker:
        raise ConfigError(_explain_value(message))
    problems = []
    known = dotted_keys(without_hydra(Composer().compose([])[0] or OmegaConf.create()))
    for word in (word for word in rest.split() if word.startswith("-")):
        name, equals, value = word.lstrip("-").replace("-", "_").partition("=")
        if not equals:  # `--lr 0.1`: the value is the next word
            value = next((after for before, after in pairwise(argv) if before == word and after[:1] != "-"), "<value>")
        options = [option for option in parser._option_string_actions if option.startswith("--")]
        if near := get_close_matches(word, options, n=1, cutoff=0.75):
            instead = f"did you mean {near[0]}?"
        elif meant := find_key(name, known):
            instead = f"write {meant if '=' in meant else f'{meant}={value}'}"
        else:
            instead = "write settings as <key>=<value>"
        problems.append(
            Problem(word.partition("=")[0], f"unknown option {word}", f"{instead}; see --help", topic="unknown")
        )
    raise ConfigError(*problems or [Problem("", message, topic="syntax")])


def conflict_error(key: str, text: str, suggestion: str) -> ConfigError:
    """Make the error for arguments that exclude each other."""
    return ConfigError(Problem(key, text, suggestion, topic="conflict"))


def _explain_value(message: str) -> Problem:
    """Translate a message of argparse about an option's value: `argument --cfg/-c: expected one argument`."""
    option, _, reason = message.removeprefix("argument ").partition(": ")
    option = option.partition("/")[0]
    if wrong := re.match(r"invalid choice: '(.*)' \(choose from (.*)\)", reason):
        hint = did_you_mean(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        return Problem(option, f"{option} {wrong[1]} is not a choice", hint, topic="choice")
    if reason == "expected one argument":
        return Problem(option, f"{option} needs a value", f"write {option} <value>; see --help", topic="missing")
    if reason.startswith("ignored explicit argument"):
        return Problem(option, f"{option} takes no value", f"write {option} alone", topic="syntax")
    return Problem(option, f"{option}: {reason}", "see --help", topic="syntax")


def find_key(name: str, known: Collection[str]) -> str | None:
    """Find the key for a name without its group, `optimizer.lr` for `lr`; None if there is none or more than one."""
    if name in (*known, *GROUPS):
        return name
    same = [key for key in known if key.rpartition(".")[2] == name]
    return same[0] if len(same) == 1 else advice.for_key(name, [*known, *GROUPS])


def make_composer(args: Namespace) -> Composer:
    """Make the composer for the folders that the command line names."""
    folder = Path(expand_home(args.config_path)).absolute() if args.config_path else None
    composer = Composer(folder, args.config_dir, args.config_name or "config")
    composer.typed = args.typed
    return composer
