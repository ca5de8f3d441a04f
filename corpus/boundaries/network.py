"""The network: numbers per frame → whether it lies in a transition, is its first, is its last; and of which kind."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from omnivast.corpus.boundaries.features import CONTEXT, COUNT, OF_REGION, REGIONS, WHOLE, features

WEIGHTS = Path(__file__).with_name("weights") / "boundaries.safetensors"
KINDS = ("cut", "dissolve", "fade", "wipe")
"""What a transition is called; a jump is a cut."""
DILATIONS = (1, 2, 4, 8, 16, 1, 2, 4, 8)
SIGHT = CONTEXT + 1 + sum(DILATIONS)
"""Frames before and behind on which the answer for one frame depends."""
WIDTH, OF_A_REGION = 96, 32
"""Numbers that are known of a frame, and of each of its regions."""


class Block(nn.Module):
    """What stands ``dilation`` frames before and behind is added to what is known of a frame."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.around = nn.Conv1d(width, width, 3, dilation=dilation, padding=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(functional.gelu(self.around(self.norm(x))))


class Regions(nn.Module):
    """What is found in the regions, wherever it is: on average and at most. All regions are read in the same way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv1d(OF_REGION, width, 1)
        self.around = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, REGIONS · OF_REGION, T) → (B, 2 · width, T)."""
        batch, _, frames = x.shape
        x = functional.gelu(self.enter(x.reshape(batch * REGIONS, OF_REGION, frames)))
        x = functional.gelu(self.around(x)).reshape(batch, REGIONS, -1, frames)
        return torch.cat([x.mean(1), x.amax(1)], 1)


class BoundaryNetwork(nn.Module):
    """0.4 million parameters."""

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(COUNT))
        self.register_buffer("spread", torch.ones(COUNT))
        self.regions = Regions(OF_A_REGION)
        self.enter = nn.Conv1d(COUNT + 2 * OF_A_REGION, WIDTH, 1)
        self.blocks = nn.ModuleList(Block(WIDTH, dilation) for dilation in DILATIONS)
        self.leave = nn.Conv1d(WIDTH, 3 + len(KINDS), 1)

    def forward(self, thumbnails: Tensor) -> Tensor:
        """(B, T, 27, 48, 3) uint8 → (B, T, 7): logits of inside, first, last, and of the kinds."""
        return self.of_numbers(features(thumbnails))

    def of_numbers(self, x: Tensor) -> Tensor:
        """(B, T, COUNT) → the same."""
        x = ((x - self.mean) / self.spread).clamp(-6, 6).transpose(1, 2)
        x = self.enter(torch.cat([x, self.regions(x[:, WHOLE:])], 1))
        for block in self.blocks:
            x = block(x)
        return self.leave(functional.gelu(x)).transpose(1, 2)


def load_network(weights: Path = WEIGHTS) -> BoundaryNetwork:
    """The trained network, ready to answer. Raises OSError: no such file; RuntimeError: of another network."""
    network = BoundaryNetwork()
    network.load_state_dict(load_file(weights))
    return network.eval()
