"""Data sets, models and tasks of a user's, in a module beside the tests of the commands: several inputs, own tasks."""

MODULE = """
from dataclasses import dataclass
from typing import NamedTuple
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from runner.data.source import Source
from runner.task import Task

def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

def whole(low, high, *shape, seed=0):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))

def two(count: int = 64):
    a = random(count, 4)
    return Source("two", {"a": a, "b": whole(0, 9, count, 3), "labels": (a.sum(1) > 0).long()})

def ordered(count: int = 64):
    a = random(count, 4)
    return Source("ordered", ((a, whole(0, 9, count, 3)), a.sum(1)))

class Two(nn.Module):
    def __init__(self, num_outputs: int):
        super().__init__()
        self.a, self.b = nn.Linear(4, num_outputs), nn.Embedding(9, num_outputs)
    def forward(self, a, b):
        return self.a(a) + self.b(b).mean(1)

class Texts(torch.utils.data.Dataset):
    def __len__(self):
        return 60
    def __getitem__(self, index):
        ids = whole(1, 20, 3 + index % 5, seed=index)
        return {"ids": ids, "mask": torch.ones_like(ids), "labels": int(ids[0] > 10)}
    @staticmethod
    def collate_fn(items):
        padded = {name: pad_sequence([item[name] for item in items], batch_first=True) for name in ("ids", "mask")}
        return {**padded, "labels": torch.tensor([item["labels"] for item in items])}

def texts():
    return Source("texts", Texts())

class Named(dict):
    pass

class Bag(nn.Module):
    def __init__(self, num_outputs: int):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, num_outputs)
    def forward(self, ids, mask):
        mask = mask.unsqueeze(-1).to(self.embedding.weight.dtype)
        return Named(logits=self.head((self.embedding(ids) * mask).sum(1) / mask.sum(1)), other=mask)

class VAE(nn.Module):
    def __init__(self, width: int = 2):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 2 * width), nn.Linear(width, 64)
    def encode(self, images):
        return self.encoder(images.flatten(1)).chunk(2, 1)
    def decode(self, code):
        return self.decoder(code).view(-1, 1, 8, 8)

class VAETask(Task):
    def __init__(self, beta: float = 0.1):
        super().__init__()
        self.beta = beta
        self.register_buffer("shift", torch.zeros(()))
    def step(self, model, batch):
        images, _ = batch
        mean, spread = model.encode(images)
        if self.training:
            self.shift += 0.01
        code = mean + torch.randn_like(mean) * (spread / 2).exp() if self.training else mean
        likeness = F.mse_loss(model.decode(code), images)
        kl = -0.5 * (1 + spread - mean**2 - spread.exp()).mean()
        return {"loss": likeness + self.beta * kl, "likeness": likeness, "kl": kl}
    def predict(self, model, inputs):
        code, _ = model.encode(inputs)
        return {"code": code + self.shift, "image": model.decode(code)}

def masks(count: int = 40):
    image = random(count, 1, 40, 40)
    return Source("masks", {"image": image, "mask": (image[:, 0] > 0).long()})

class Pixels(nn.Conv2d):
    def __init__(self):
        super().__init__(1, 2, 1)

class Masks(Task):
    def step(self, model, batch):
        return F.cross_entropy(model(batch["image"]), batch["mask"])
    def predict(self, model, inputs):
        return model(inputs["image"])

class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor

@dataclass
class Item:
    x: torch.Tensor
    pair: Pair

def items(count: int = 40):
    return Source("items", Item(random(count, 3), Pair(random(count, 3, seed=1), random(count, 3, seed=2))))

class Nearer(Task):
    def step(self, model, batch):
        return (self.predict(model, batch) - batch.pair.left.sum(1)).square().mean()
    def predict(self, model, inputs):
        return model(torch.cat([inputs.x, inputs.pair.left, inputs.pair.right], 1)).squeeze(1)

class Nine(nn.Linear):
    def __init__(self):
        super().__init__(9, 1)

class Odd(Nearer):
    def predict(self, model, inputs):
        return super().predict(model, inputs).mean()

class Depends(Nearer):
    def predict(self, model, inputs):
        outputs = super().predict(model, inputs)
        return outputs if outputs.sum() > 0 else -outputs
"""

RUNS = {
    "two": ("data=custom", "data._target_=several.two", "model=custom", "model._target_=several.Two"),
    "ordered": ("data=custom", "data._target_=several.ordered", "model=custom", "model._target_=several.Two"),
    "texts": ("data=custom", "data._target_=several.texts", "model=custom", "model._target_=several.Bag"),
    "vae": ("model=custom", "model._target_=several.VAE", "task=custom", "task._target_=several.VAETask"),
    "masks": (
        "data=custom", "data._target_=several.masks", "model=custom", "model._target_=several.Pixels", "task=custom",
        "task._target_=several.Masks",
    ),
    "items": (
        "data=custom", "data._target_=several.items", "model=custom", "model._target_=several.Nine", "task=custom",
        "task._target_=several.Nearer",
    ),
}  # fmt: skip
"""The arguments that train each."""
