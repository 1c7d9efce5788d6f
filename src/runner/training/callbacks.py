"""The callbacks of a training, which the loop calls after a step, a validation and an epoch, and at its end."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.callbacks import Callback
from runner.errors import TrainingError, describe_error

if TYPE_CHECKING:
    from runner.training.state import Training


class Callbacks:
    """The callbacks of a training, in the order of the config.

    Args:
        by_name: the callbacks by their names.

    Raises:
        TrainingError: from each method: a callback has failed; the message names it.
    """

    def __init__(self, by_name: Mapping[str, Callback] | None = None) -> None:
        self.by_name = dict(by_name or {})

    def after_step(self, state: "Training") -> None:
        """Call all callbacks after an optimizer step."""
        if self.by_name:
            self._call("after_step", state)

    def after_validation(self, state: "Training", metrics: Mapping[str, float]) -> None:
        """Call all callbacks after a validation."""
        if self.by_name:
            self._call("after_validation", state, metrics)

    def after_epoch(self, state: "Training", metrics: Mapping[str, float]) -> None:
        """Call all callbacks after an epoch."""
        if self.by_name:
            self._call("after_epoch", state, metrics)

    def at_end(self, state: "Training") -> None:
        """Call all callbacks when training is complete."""
        self._call("at_end", state)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each callback that has one, by its name."""
        states = self._call("state_dict")
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Restore the states that `state_dict` returned."""
        for name, state in states.items():
            self._call("load_state_dict", state, only=name)

    def _call(self, method: str, *arguments: Any, only: str | None = None) -> dict[str, Any]:
        results = {}
        for name, callback in self.by_name.items():
            if only not in (None, name):
                continue
            try:
                results[name] = getattr(callback, method)(*arguments)
            except Exception as error:
                from runner.training.state import Interrupted

                if isinstance(error, Interrupted):  # from an evaluation in the callback, of which only a part was done:
                    raise KeyboardInterrupt from error  # a resumed run starts from the checkpoint before it
                raise TrainingError(f"the callback {name} fails in {method}: {describe_error(error)}") from error
        return results
