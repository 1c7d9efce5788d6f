"""`task=segmentation`: the class of each pixel."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ConfigError, Problem
from runner.loss import CrossEntropy, Metric, name_of
from runner.loss.sums import largest
from runner.task.supervised import divide_by_keys, output_of
from runner.task.task import DividedData, Task
from runner.util import trees

OUT = "out"
"""The key of the outputs in what torchvision's segmentation models return."""

MASK, PROBABILITIES = "mask", "probabilities"


class Segmentation(Task):
    """Images go to the model; its outputs (N, K, H, W) and the masks (N, H, W) go to the loss.

    An item is divided as by `supervised`: a pair (image, mask), or a dict with the mask under a key. Of a dict that a
    model returns, as torchvision's segmentation models do, `out` counts, else `logits`.

    Pixels of the class `loss.ignore_index` count neither in the loss nor in the metrics: `accuracy`, the share of
    pixels that are right; `iou/<class>`, the intersection of predicted and true pixels divided by their union; and
    `iou`, the mean over the classes that are predicted or true somewhere in the part.

    Args:
        targets: the key of the mask in an item that is a dict; None: `labels`, else `target`.
    """

    uses_loss = True
    larger_batches = True
    default_loss = "cross_entropy"
    integers_are_numbers = True

    def __init__(self, targets: str | None = None) -> None:
        super().__init__()
        self.targets = targets
        self.class_names: list[str] = []

    @property
    def metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """Mean IoU, pixel accuracy and the IoU of each class, all from the same counts."""
        sums = self._sums
        mean = {"iou": Metric(sums, mean_iou, higher_is_better=True), "accuracy": Metric(sums, accuracy)}
        of_class = {
            f"iou/{name}": Metric(sums, partial(class_iou, number), higher_is_better=True)
            for number, name in enumerate(self.class_names)
        }
        return mean | of_class

    def _sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        assert self.loss is not None
        return counts(outputs, targets, self.loss.ignore_index)

    def step(self, model: nn.Module, batch: tuple[Any, Tensor]) -> Mapping[str, Any]:
        """Compute the mean loss over pixels; the loss without autocast."""
        inputs, masks = batch
        outputs = scores_of(trees.apply(model, inputs)).to(self.dtype)
        if outputs.ndim != 4 or outputs.shape[0] != masks.shape[0] or outputs.shape[2:] != masks.shape[1:]:
            text = f"the model returns {_shape(outputs)} for masks {_shape(masks)}, segmentation requires (N, K, H, W)"
            raise ConfigError(Problem("model", text, "write model=unet", topic="shape"))
        assert self.loss is not None
        with torch.autocast(outputs.device.type, enabled=False):
            loss, weight = self.loss(outputs, masks), self.loss.denominator(outputs, masks)
        return {"loss": loss, "weight": weight, "outputs": outputs, "targets": masks}

    def predict(self, model: nn.Module, inputs: Any) -> dict[str, Tensor]:
        """Return the most probable class of each pixel (N, H, W), and the probabilities of all (N, K, H, W)."""
        outputs = scores_of(trees.apply(model, inputs)).to(self.dtype)
        assert self.loss is not None
        probabilities = self.loss.probabilities(outputs)
        return {MASK: largest(outputs), PROBABILITIES: outputs if probabilities is None else probabilities}

    def divide(self, item: Any) -> tuple[Any, Any]:
        """Divide an item, or a batch of items, into inputs and masks."""
        return divide_by_keys(item, self.targets)

    def pictures(self, model: nn.Module, batch: tuple[Any, Tensor]) -> dict[str, Tensor]:
        """Return images, masks and predicted masks; of several inputs, the masks only."""
        inputs, masks = batch
        assert self.loss is not None
        if self.loss.ignore_index is not None:
            masks = masks.where(masks != self.loss.ignore_index, -1)
        images = [leaf for leaf in trees.leaves(inputs) if leaf.ndim == 4]
        shown = {"image": images[0]} if len(images) == 1 else {}
        return {**shown, "mask": masks, "prediction": self.predict(model, inputs)[MASK]}

    def prepare(self, targets: Any, dtype: torch.dtype) -> Any:
        """Convert masks (N, H, W), or (N, 1, H, W), to the form that the loss takes."""
        if isinstance(targets, Tensor) and targets.ndim == 4 and targets.shape[1] == 1:
            targets = targets[:, 0]
        assert self.loss is not None
        return self.loss.prepare(targets, dtype)

    def targets_of(self, splits: DividedData) -> Any:
        """Return all masks; samples are read for them if there is no other way, and no names of classes."""
        if splits.classes or splits.all_targets is not None:
            return splits.example(1)[1] if splits.all_targets is None else splits.all_targets
        return splits.targets()

    def num_outputs(self, targets: Any, classes: Sequence[str] | None) -> int:
        """Return the number of classes: of names, else one more than the highest in the masks.

        Raises:
            ConfigError: the loss does not take classes, or the masks are not classes of pixels.
        """
        loss = self.loss
        if loss is None or loss.takes in ("values", "either"):
            named = name_of(loss) if loss is not None else "null"
            text = f"loss={named}: task=segmentation has one class for each pixel"
            raise ConfigError(Problem("loss", text, "write loss=cross_entropy", topic="conflict"))
        if not isinstance(targets, Tensor) or targets.ndim not in (3, 4) or targets.is_floating_point():
            kind = f"{targets.dtype} {_shape(targets)}" if isinstance(targets, Tensor) else "not a single tensor"
            text = f"task=segmentation requires masks of whole numbers (N, H, W), the targets are {kind}"
            raise ConfigError(Problem("data", text, "return (image, mask) for each index", topic="shape"))
        ignored = loss.ignore_index
        values = [value for value in targets.unique().tolist() if value != ignored]
        count = len(classes) if classes else max(values, default=0) + 1
        wrong = next((value for value in reversed(values) if not 0 <= value < count), None)
        if wrong is None and not classes and values != list(range(count)) and values[-1] > 2 * len(values):
            wrong = values[-1]  # such as 255 for the borders of PASCAL VOC
        if wrong is not None:
            known = f"{count} classes" if classes else "no names of classes"
            text = f"the masks have pixels of class {wrong}, and the data set has {known}"
            instead = f"write loss.ignore_index={wrong} if it stands for none, or name all classes"
            raise ConfigError(Problem("data", text, instead, topic="data"))
        if count < 2:
            text = "the masks have a single class"
            raise ConfigError(Problem("data", text, "name all classes if others are rare", topic="data"))
        if isinstance(loss, CrossEntropy):
            loss.count_classes(targets, classes)  # do the class weights fit?
        self.class_names = [re.sub(r"\W+", "_", name) for name in classes or map(str, range(count))]
        return count


def scores_of(result: Any) -> Tensor:
    """Return the outputs in what a segmentation model returned: `out`, or what `supervised` takes."""
    out = result.get(OUT) if isinstance(result, Mapping) else None
    return out if isinstance(out, Tensor) else output_of(result)


def counts(outputs: Tensor, targets: Tensor, ignore_index: int | None = None) -> Tensor:
    """Return (3, K): for each class, the pixels where it is both predicted and true, predicted, and true.

    Args:
        outputs: (N, K, H, W).
        targets: (N, H, W).
        ignore_index: pixels of this class do not count.
    """
    classes = outputs.shape[1]
    predicted, true = largest(outputs).flatten(), targets.flatten()
    cells = true * classes + predicted
    if ignore_index is not None:  # they get a cell of their own: picking the others would wait for a GPU
        cells = torch.where(true == ignore_index, classes**2, cells)
    table = cells.new_zeros(classes**2 + 1).scatter_add_(0, cells, torch.ones_like(cells))  # a GPU waits for `bincount`
    table = table[:-1].reshape(classes, classes)
    return torch.stack([table.diagonal(), table.sum(0), table.sum(1)])


def class_iou(number: int, sums: list[float], samples: int) -> float | None:
    """Return the intersection over union of a class; None if it is neither predicted nor true anywhere."""
    classes = len(sums) // 3
    both, predicted, true = (sums[number + row * classes] for row in range(3))
    union = predicted + true - both
    return both / union if union else None


def mean_iou(sums: list[float], samples: int) -> float | None:
    """Return the mean intersection over union of the classes that are predicted or true somewhere."""
    values = [class_iou(number, sums, samples) for number in range(len(sums) // 3)]
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None


def accuracy(sums: list[float], samples: int) -> float | None:
    """Return the share of pixels whose class is right; None if all are ignored."""
    classes = len(sums) // 3
    pixels = sum(sums[2 * classes :])
    return sum(sums[:classes]) / pixels if pixels else None


def _shape(tensor: Tensor) -> str:
    return f"(N{''.join(f', {size}' for size in tensor.shape[1:])})"
