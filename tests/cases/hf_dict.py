"""A model of transformers with random weights, on batches that are dicts as a tokenizer makes them."""

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification

from runner.data.source import Source


class Sentences(Dataset):
    """Whether the token 7 is in a sentence."""

    def __init__(self, count: int, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(8, 30, (count, 12), generator=rng)
        self.labels = torch.randint(0, 2, (count,), generator=rng)
        self.tokens[torch.arange(count), torch.randint(0, 12, (count,), generator=rng)] = 7 * self.labels + 1

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        mask = torch.ones(12, dtype=torch.long)
        return {"input_ids": self.tokens[index], "attention_mask": mask, "labels": self.labels[index]}


def sentences() -> Source:
    return Source("sentences", train=Sentences(320, 0), test=Sentences(80, 1))


def bert(num_outputs: int) -> nn.Module:
    config = BertConfig(
        vocab_size=30, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        num_labels=num_outputs,
    )  # fmt: skip
    return BertForSequenceClassification(config)
