"""LPIPS (Zhang et al., CVPR 2018), and Panda-70M's Max Running LPIPS by it. The heads are those of the ``lpips`` package; the trunk is
AlexNet's convolutions from a file of torchvision's layout, or random ones from a seed, whose numbers mean nothing outside of one run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn
from torchvision.models import alexnet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.config.extras import not_installed  # noqa: E402

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of pixels from -1 to 1, as the heads were trained."""
TAPS = (1, 4, 7, 9, 11)
"""Layers of AlexNet, each the ReLU behind a convolution, whose maps are compared."""


class Lpips:
    """The distance of two pictures; ``name`` says by which trunk."""

    def __init__(self, trunk: Path | None = None, seed: int = 0) -> None:
        """Raises ImportError without the package, and what reading the file raises."""
        package = find_spec("lpips")
        if package is None or package.origin is None:
            raise ImportError(not_installed("lpips"))
        heads = torch.load(Path(package.origin).parent / "weights" / "v0.1" / "alex.pth", map_location="cpu", weights_only=True)
        self._heads: list[Tensor] = [heads[f"lin{number}.model.1.weight"] for number in range(len(TAPS))]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._trunk: nn.Module = alexnet(weights=None).features.eval().requires_grad_(False)
        self.name = f"AlexNet of {trunk.name}" if trunk else f"random AlexNet of seed {seed}"
        if trunk:
            state = torch.load(trunk, map_location="cpu", weights_only=True)
            self._trunk.load_state_dict({name.removeprefix("features."): value for name, value in state.items() if "features." in name})

    def maps(self, pictures: ndarray) -> list[Tensor]:
        """(N, H, W, 3) uint8 → per layer (N, C, h, w), of norm 1 over C."""
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = (x - torch.tensor(SHIFT).view(3, 1, 1)) / torch.tensor(SCALE).view(3, 1, 1)
        found = []
        with torch.inference_mode():
            for number, layer in enumerate(self._trunk.children()):
                x = layer(x)
                if number in TAPS:
                    found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def distances(self, one: Sequence[Tensor], other: Sequence[Tensor]) -> ndarray:
        """(N,) of the pictures that two lists of maps are of."""
        layers = [((a - b).square() * head).sum(1).mean((1, 2)) for a, b, head in zip(one, other, self._heads)]
        return torch.stack(layers).sum(0).numpy()

    def running(self, pictures: ndarray) -> ndarray:
        """(N, H, W, 3) → (N - 1,): of each picture and the next."""
        found = [np.empty(0)]
        for start in range(0, len(pictures) - 1, 16):
            maps = self.maps(pictures[start : start + 17])
            found.append(self.distances([one[:-1] for one in maps], [one[1:] for one in maps]))
        return np.concatenate(found)
