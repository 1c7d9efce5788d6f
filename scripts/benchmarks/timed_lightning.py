"""Train with Lightning's `Trainer` and its progress bar, and time each epoch."""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from turns import Turn, warm


def fit(
    net: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    loader: "torch.utils.data.DataLoader[Any]",
    epochs: int,
    turn: Turn | None = None,
) -> dict[str, list[float]]:
    """Train a network; the loss of each batch is logged.

    Args:
        net: the network.
        loss: of the network and a batch.
        optimizer: makes the optimizer of the network.
        loader: the batches of an epoch.
        epochs: their number.
        turn: is waited for before each epoch but the first; None if there are no turns.

    Returns:
        `seconds`: those of each epoch but the first.
    """
    import lightning as L  # noqa: N812 - its usual name

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seconds = net, list[float]()

        def training_step(self, batch: Any, _: int) -> Tensor:
            value = loss(self.net, batch)
            self.log("train/loss", value)
            return value

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer(self)

        def on_train_epoch_start(self) -> None:
            if self.current_epoch and turn:
                turn.wait()
            self.began = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    module = Module()
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.fit(module, loader)
    if turn:
        turn.over()
    return {"seconds": warm(module.seconds)}
