"""A model whose error is a paraboloid over two of its parameters, for tests of searches."""

from pathlib import Path

BOWL = '''
import math, time

import torch
from torch import nn


class Bowl(nn.Module):
    """Its squared error is known: (x - 0.3)^2 + (y - 0.7)^2, and a part that shrinks with the epochs."""

    def __init__(self, input_shape, num_outputs, x=0.0, y=0.0, seconds=0.0):
        super().__init__()
        self.error = (x - 0.3) ** 2 + (y - 0.7) ** 2
        self.seconds, self.steps = seconds, 0
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, inputs):
        if self.training and inputs.device.type != "meta":
            self.steps += 1
            time.sleep(self.seconds * (1 + 4 * self.error))
        value = math.sqrt(self.error + 1 / (1 + self.steps) ** 2)
        return torch.full((len(inputs), 1), value, device=inputs.device) + 0 * self.weight
'''

YAML = """# python -m runner --config-dir my_conf model=bowl
_target_: bowl.Bowl
x: 0.0 # of the point
y: 0.0 # of the point
seconds: 0.0 # of a step
"""

SPACE = ("model.x=interval(0.0,1.0)", "model.y=interval(0.0,1.0)")
TRAINED = (
    "--config-dir", "my_conf", "model=bowl", "data=tensors", f"data.inputs={[[0.0]] * 8}", f"data.targets={[0.0] * 8}",
    "data.val_fraction=0.5", "data.batch_size=4", "loss=mse", "scheduler=constant", "optimizer.lr=1e-9",
)  # fmt: skip
SEARCH = ("--multirun", "hydra/sweeper=optuna", *TRAINED)


def write_bowl(folder: Path) -> None:
    (folder / "bowl.py").write_text(BOWL)
    (folder / "my_conf" / "model").mkdir(parents=True)
    (folder / "my_conf" / "model" / "bowl.yaml").write_text(YAML)
