"""Read typed overrides: parse them, check them one by one, and translate them to what is passed to Hydra."""

from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.config import check_override, nesting, schema
from runner.config.augment_list import expand_override, lists_first
from runner.config.check_override import ParsedOverride
from runner.config.group_files import GroupFiles
from runner.config.keys import TARGET_GROUPS
from runner.config.messages import explain_unreadable
from runner.config.notify import refuse_typed_address
from runner.config.overrides import force_mappings, key_of, quote_texts, to_hydra
from runner.config.parameters import find_text_parameters
from runner.errors import ConfigError, Problem


class OverrideReader:
    """Reads overrides of a config.

    Args:
        loader: Hydra's.
        files: of the groups.
        name: of the primary config.

    Attributes:
        parser: Hydra's, which knows the groups.
    """

    def __init__(self, loader: ConfigLoader, files: GroupFiles, name: str) -> None:
        self.files, self.name = files, name
        self.parser = OverridesParser.create(loader)
        self._texts: dict[str, bool] = {}
        self._parsed: dict[str, Override] = {}

    def sort(
        self, overrides: Sequence[str], mode: RunMode
    ) -> tuple[list[ParsedOverride], list[ParsedOverride], list[Problem]]:
        """Parse and check overrides one by one.

        Returns:
            The overrides to compose, those with several values in a single run, and the problems of the others.
        """
        usable, several = list[ParsedOverride](), list[ParsedOverride]()
        problems: list[Problem] = []
        self.files.search = []
        for text in lists_first(overrides):
            try:
                quoted = self._quote(text, mode is RunMode.MULTIRUN)
                nesting.check_argument(quoted)
                typed = ParsedOverride(text, self.translate(quoted), self.parser.parse_override(quoted))
            except HydraException:
                problems.append(check_override.explain_syntax(self.files, text))
                continue
            except ValueError:  # Python does not convert a number with more than 4,300 digits
                problems.append(_too_long(text))
                continue
            except ConfigError as error:
                problems += error.problems
                continue
            if typed.override.is_sweep_override() and mode is not RunMode.MULTIRUN:
                several.append(typed)
                continue
            if wrong := check_override.check(self.files, typed) or check_override.check_preset_twice(typed, usable):
                problems += wrong
                continue
            usable.append(typed)
            if typed.override.key_or_group == "hydra.searchpath":
                self.files.search.append(text)
        return usable, several, problems

    def learn_texts(self, cfg: DictConfig, overrides: Sequence[str]) -> bool:
        """Find overridden keys that are texts in the signature of their `_target_`.

        Returns:
            Whether an override has to be read again, because Hydra would not read its value as a text.
        """
        texts = {}  # by key, whether integers are allowed too
        for key in map(key_of, overrides):
            group, _, leaf = key.partition(".")
            if group in TARGET_GROUPS and leaf and schema.describe_expected(key) is None and key not in self._texts:
                target = OmegaConf.select(cfg, f"{group}._target_", throw_on_resolution_failure=False)
                parameters = find_text_parameters(target) if isinstance(target, str) and "." in target else {}
                if leaf in parameters:
                    texts[key] = parameters[leaf]
        concerned = [text for text in overrides if key_of(text) in texts]
        read_again = any(quote_texts(text, True, texts) != text for text in concerned)
        if read_again:
            self._texts |= texts
            self._parsed.clear()
        return read_again

    def _quote(self, text: str, sweeping: bool) -> str:
        refuse_typed_address(text)
        return expand_override(quote_texts(text, sweeping, self._texts))

    def given(self, overrides: Sequence[str], sweeping: bool) -> list[str]:
        """Translate typed overrides to what is passed to Hydra."""
        return [self.translate(self._quote(text, sweeping)) for text in lists_first(overrides)]

    def translate(self, override: str) -> str:
        """Return a quoted override as it is passed to Hydra."""
        return to_hydra(force_mappings(override)) if self.name == "config" else force_mappings(override)

    def parse(self, text: str) -> Override:
        """Parse an override of a sweep; one of a single value only once, as many jobs have it.

        Raises:
            ConfigError: Hydra cannot parse it.
        """
        if text in self._parsed:
            return self._parsed[text]
        try:
            quoted = self._quote(text, sweeping=True)
            nesting.check_argument(quoted)
            # `parse_overrides` knows the groups, which glob() needs; `parse_override` does not.
            override = self.parser.parse_overrides([quoted])[0]
        except HydraException as error:
            raise ConfigError(explain_unreadable(text)) from error
        except ValueError as error:
            raise ConfigError(_too_long(text)) from error
        if not override.is_sweep_override():
            self._parsed[text] = override
        return override

    def values(self, axis: Override) -> list[str]:
        """List the values of an axis of a sweep, as they are typed."""
        key = axis.get_key_element()
        values = [{"True": "true", "False": "false"}.get(value, value) for value in axis.sweep_string_iterator()]
        if key in self._texts or schema.is_text(key):
            # The values are escaped for Hydra's grammar; parsing them returns the text itself.
            texts = [self.parser.parse_override(f"{key}={value}").value() for value in values]
            return [text if isinstance(text, str) else value for text, value in zip(texts, values, strict=True)]
        return values

    def is_value(self, override: Override) -> bool:
        """Return whether an override only sets the value of a key."""
        key = override.key_or_group
        plain = not (adds_or_deletes(override) or override.package or override.is_sweep_override())
        return plain and not key.startswith("hydra") and not self.files.options(key)


def _too_long(text: str) -> Problem:
    """The problem of an argument with a number that has more digits than Python converts, 4,300."""
    return Problem(key_of(text), f"{text} is out of range", schema.BITS, topic="range")


def adds_or_deletes(override: Override) -> bool:
    """Return whether an override adds a key, or deletes one."""
    return override.is_add() or override.is_force_add() or override.is_delete()
