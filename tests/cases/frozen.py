"""A backbone that stays as it is, and a head with a rate of its own."""

from torch import Tensor, nn


class Backbone(nn.Module):
    def __init__(self, num_outputs: int, width: int = 64) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU())
        self.neck = nn.Linear(width, 32)
        self.head = nn.Linear(32, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.neck(self.backbone(images)).relu())
