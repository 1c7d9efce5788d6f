"""`task=language_model`: predict each token from those before it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from runner.errors import ConfigError, Problem
from runner.loss import Metric
from runner.task.supervised import by_name, output_of
from runner.task.task import Task
from runner.util import trees

IDS, MASK, LABELS = "input_ids", "attention_mask", "labels"
"""Keys of an item that is a dict, as Hugging Face's tokenizers and collators name them."""


class LanguageModel(Task):
    """The model gets tokens (N, T) and returns scores (N, T, K) of the token after each.

    An item is one of

    - a tensor of T + 1 token ids: the model gets the first T, its targets are the last T;
    - a pair (inputs, targets), position by position: nothing is shifted;
    - a dict with `input_ids`, and, if there are any, `attention_mask` and `labels`, for Hugging Face's causal models:
      the scores at a position are compared with the label after it. Without labels these are the ids themselves, where
      the mask is not 0. Of what the model returns the `logits` are taken, not its own loss.

    The loss is the mean cross entropy, in nats, over all targets but those that are `ignore_index`; their number is the
    weight of a batch. `perplexity` is e to the power of the mean loss.

    Args:
        ignore_index: targets that do not count: those of padding.
    """

    larger_batches = True
    unit = "tokens"

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    @property
    def metrics(self) -> Mapping[str, Metric]:  # type: ignore[override]
        """The share of targets that have the highest score."""
        return {"accuracy": Metric(self._correct, _share, higher_is_better=True)}

    def _correct(self, scores: Tensor, targets: Tensor) -> Tensor:
        counted = targets != self.ignore_index
        return torch.stack([torch.count_nonzero(scores.max(dim=1).indices == targets), torch.count_nonzero(counted)])

    def names(self) -> Sequence[str]:
        """Return the names of all metrics."""
        return ["perplexity", *self.metrics]

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the perplexity."""
        loss = means.get("loss", math.nan)
        return {"perplexity": math.exp(loss)} if loss < 700 else {}  # above, it is not a number that a float holds

    def step(self, model: nn.Module, batch: Any) -> Mapping[str, Any]:
        """Compute the mean cross entropy of the next token."""
        inputs, targets = self.shifted(batch)
        scores = output_of(trees.apply(model, inputs))
        places = targets.shape[1]
        if scores.ndim != 3 or scores.shape[1] < places:
            shape = ", ".join(map(str, scores.shape[1:]))
            text = f"the model returns (N, {shape}) for {places} tokens, a language model scores of each, (N, T, K)"
            raise ConfigError(Problem("model", text, "write model=gpt", topic="shape"))
        flat, targets = scores[:, :places].flatten(0, 1), targets.flatten()
        weight = torch.count_nonzero(targets != self.ignore_index)
        total = F.cross_entropy(flat, targets, ignore_index=self.ignore_index, reduction="sum")
        return {"loss": total / weight.clamp(min=1), "weight": weight, "outputs": flat, "targets": targets}

    def shifted(self, batch: Any) -> tuple[Any, Tensor]:
        """Return the inputs of the model and the targets (N, T), the token after each.

        Raises:
            ConfigError: there are no token ids in the batch.
        """
        if isinstance(batch, Tensor):
            _check_tokens(batch)
            return batch[:, :-1].long(), batch[:, 1:].long()
        if type(batch) in (tuple, list) and len(batch) == 2 and isinstance(batch[1], Tensor):
            _check_tokens(batch[1])
            return batch[0], batch[1].long()
        named = by_name(batch)
        if not isinstance(named.get(IDS), Tensor):
            has = f"has {', '.join(named)}" if named else f"is of type {type(batch).__name__}"
            text = f"task=language_model needs items that are tensors of token ids or have {IDS}, an item {has}"
            raise ConfigError(Problem("data", text, f"return a dict with {IDS}", topic="code"))
        labels, mask = named.pop(LABELS, None), named.get(MASK)
        if labels is None:
            labels = named[IDS]
            labels = labels if mask is None else labels.masked_fill(mask == 0, self.ignore_index)
        return named, labels[:, 1:].long()

    def predict(self, model: nn.Module, inputs: Any) -> Tensor:
        """Return the scores (N, K) of the token that follows token ids (N, T)."""
        if isinstance(inputs, Tensor):
            length = context_of(model)
            inputs = inputs.long() if length is None else inputs[:, -length:].long()
        return output_of(trees.apply(model, inputs))[:, -1]

    def num_outputs(self, targets: Any, classes: Sequence[str] | None) -> int | None:
        """Return the number of different tokens; None if the data set does not name them."""
        return len(classes) if classes else None

    def complete(
        self,
        model: nn.Module,
        text: str,
        characters: Sequence[str],
        max_new_tokens: int = 200,
        temperature: float = 1.0,
        seed: int = 0,
        trained: int | None = None,
    ) -> str:
        """Return a text that continues another, without that other.

        Args:
            model: in evaluation mode.
            text: the beginning; an empty one begins as after a new line.
            characters: those that the model knows, in the order of their ids: the classes of `data=text`.
            max_new_tokens: how many characters to write.
            temperature: see `generate`.
            seed: see `generate`.
            trained: see `generate`.

        Raises:
            ConfigError: the text has characters that the model does not know.
        """
        known = {character: number for number, character in enumerate(characters)}
        if unknown := "".join(dict.fromkeys(character for character in text if character not in known)):
            said = f"input has characters that are not in the text that the model was trained on: {unknown[:20]!r}"
            raise ConfigError(Problem("input", said, "leave them out", topic="data"))
        start = [known[character] for character in text] or [known.get("\n", 0)]
        device = next((weight.device for weight in model.parameters()), None)
        ids = torch.tensor([start], device=device)
        made = generate(model, ids, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, trained=trained)
        return "".join(characters[token] for token in made[0].tolist())


def _check_tokens(tokens: Tensor) -> None:
    if tokens.ndim != 2:
        shape = "".join(f", {size}" for size in tokens.shape[1:])
        text = f"task=language_model needs sequences of token ids (N, T), these have shape (N{shape})"
        raise ConfigError(Problem("data", text, "write data=text model=gpt, or task=supervised", topic="shape"))


def _share(sums: list[float], samples: int) -> float | None:
    correct, counted = sums
    return correct / counted if counted else None


@torch.inference_mode()
def generate(
    model: nn.Module,
    ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    trained: int | None = None,
) -> Tensor:
    """Continue sequences token by token.

    Each token takes a forward pass over all tokens that the model can see; nothing is cached.

    Args:
        model: takes (N, T) and returns scores (N, T, K), or something with `logits`; in evaluation mode.
        ids: the beginning, (N, T) with T > 0.
        max_new_tokens: how many tokens to add.
        temperature: divides the scores before tokens are drawn; 0 takes the most probable one.
        seed: of the draws, which are the same on every device.
        trained: how many tokens the model has been trained on: it sees the last of these, if it does not say how many
            it can see.

    Returns:
        The new tokens, (N, max_new_tokens).
    """
    rng = torch.Generator().manual_seed(seed)
    length, first = context_of(model) or trained, ids.shape[1]
    for _ in range(max_new_tokens):
        seen = ids if length is None else ids[:, -length:]
        scores = output_of(model(seen))[:, -1].double().cpu()
        if temperature == 0:
            token = scores.argmax(dim=1, keepdim=True)
        else:
            token = torch.multinomial((scores / temperature).softmax(dim=1), 1, generator=rng)
        ids = torch.cat([ids, token.to(ids)], dim=1)
    return ids[:, first:]


def context_of(model: nn.Module) -> int | None:
    """Return how many tokens a model can see: its `context`, or what a Hugging Face config says; None if unknown."""
    if isinstance(context := getattr(model, "context", None), int):
        return context
    config = getattr(model, "config", None)
    lengths = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((length for length in lengths if isinstance(length, int)), None)
