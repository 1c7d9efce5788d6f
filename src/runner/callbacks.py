"""The base class of callbacks: code of the user's that training calls. `trainer.callbacks` names them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.training.state import Training


class Callback:
    """The base class of callbacks: override what is needed.

    Each method gets the state of training, whose attributes are documented at `runner.training.state.Training`:
    `state.model`, `state.optimizer`, `state.progress.epoch`, `state.progress.step`, `state.device`, ...

    - `state.log({"mine/x": 0.5}, state.progress.epoch)` logs scalars. A name that ends in `_step` is logged by step:
      `state.log({"mine/x_step": 0.5}, state.progress.step)`. Each (name, step) is written once, also if a resumed run
      measures it again; the steps of a name must increase.
    - `state.artifacts.image(name, image, step)`, `.figure(name, figure, step)` and `.table(name, rows, step)` write
      files, which are uploaded as the metrics are.
    - `state.request_stop("why")` ends training as early stopping does: after this step or epoch, as FINISHED.

    A callback may read or change everything. For an exact resume, `state_dict` must return what later calls depend on.
    Random generators that a callback holds are saved anyway; draws from the global ones change those of training.
    A read of the device (`.item()`, `print`) waits for it: in `after_step`, do that once in many steps.
    """

    def after_step(self, state: "Training") -> None:
        """Act after each optimizer step; `state.progress.step` counts it already, and gradients are reset."""

    def after_validation(self, state: "Training", metrics: Mapping[str, float]) -> None:
        """Act after each validation, at the end of an epoch or within it.

        Args:
            state: the training.
            metrics: what was measured: `val/loss`, ...
        """

    def after_epoch(self, state: "Training", metrics: Mapping[str, float]) -> None:
        """Act after each epoch, before its checkpoint; `state.progress.epoch` is still this epoch.

        Args:
            state: the training.
            metrics: those of training and validation that were measured: `train/loss`, `val/loss`, ... Epochs that
                are not logged (`trainer.log_every_epochs`) may have none.
        """

    def at_end(self, state: "Training") -> None:
        """Act when training is complete, before the test; the model has its last weights.

        It is not called when a run is interrupted or fails: a resumed run gets here later.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, in tensors, arrays, numbers, texts and containers of them."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; called before the first step of a resumed run."""
