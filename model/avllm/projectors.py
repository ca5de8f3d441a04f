"""What towers saw and heard of a clip → tokens of the language model (Audio-Visual LLM, section 3.1, equations 1 to 4).

Letters: B clips, F frames, N patches, K slices of sound, S tokens of one of them, W width of a tower, D width of the language model,
n conversations with a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.config.tasks import Modality
from omnivast.utils.transfer import on_host, send

PARTS = {"temporal": Modality.VISION, "spatial": Modality.VISION, "auditory": Modality.AUDIO}
"""The parts of a clip's tokens, in their order, and the track that each is of."""


def pooled_frames(tokens: Tensor, has_cls: bool) -> dict[str, Tensor]:
    """(B, F, S, W) → "temporal" (B, F, W), the [CLS] of each frame, or the mean of its patches where there is none; "spatial" (B, N, W),
    each patch, averaged over the frames."""
    patches = tokens[:, :, 1:] if has_cls else tokens
    return {"temporal": tokens[:, :, 0] if has_cls else patches.mean(2), "spatial": patches.mean(1)}


def pooled_slices(tokens: Tensor, pool: Literal["mean", "none"]) -> dict[str, Tensor]:
    """(B, K, S, W) → "auditory": (B, K, W), the mean of each slice; or all tokens, (B, K · S, W)."""
    return {"auditory": tokens.mean(2) if pool == "mean" else tokens.flatten(1, 2)}


class Projectors(nn.Module):
    """One projector for each part, and learnt vectors that stand before and after it.

    Args:
        widths: part → width of the tower that it comes from.
        width: D.
        kind: a linear layer, or two with GELU.
        boundaries: whether there are learnt vectors around each part.
        length: of a word's vector. Towers' tokens are brought to mean 0 and variance 1, and all tokens begin about as long as words: those
            of a tower as it is may be ten times as long, which the language model learns to read more slowly. None: neither.
    """

    def __init__(self, widths: Mapping[str, int], width: int, kind: Literal["linear", "mlp"], boundaries: bool,
                 length: Tensor | None = None) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.normalise = length is not None
        self.project = nn.ModuleDict({part: _projector(own, width, kind) for part, own in widths.items()})
        ends = {part: nn.Parameter(0.02 * torch.randn(2, width)) for part in widths} if boundaries else {}
        self.boundaries = nn.ParameterDict(ends)
        if length is not None:
            self._begin(length)

    @torch.no_grad()
    def _begin(self, length: Tensor) -> None:
        """Scale what is learnt so that tokens begin about as long as words."""
        for part, project in self.project.items():
            *_, last = (layer for layer in project.modules() if isinstance(layer, nn.Linear))
            last.bias.zero_()
            last.weight.mul_(length / project(self._normalised(torch.randn(64, self.widths[part]))).norm(dim=1).mean())
        for ends in self.boundaries.values():
            ends.mul_(length / ends.norm(dim=1, keepdim=True))

    def _normalised(self, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens.float(), tokens.shape[-1:]) if self.normalise else tokens

    def forward(self, features: Mapping[str, Tensor], clips: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each part's tokens as they stand in the conversations that have it.

        A part that no conversation has gives tokens of none, so that its projector takes part in the backward pass, in which its gradient
        is exactly zero: it gets one on every process, whatever the clips of each.

        Args:
            features: part → (B, tokens, W); without those that no clip has.
            clips: part → (n,) int64, the clip of each conversation that has it.

        Returns:
            part → (n, tokens + 2 with boundaries, D).
        """
        found = {}
        for part, project in self.project.items():
            index = on_host(clips[part])
            given = features[part] if part in features else torch.zeros(0, 1, self.widths[part], device=next(project.parameters()).device)
            used, place = send(np.unique(index, return_inverse=True), given.device)
            tokens = project(self._normalised(given[used]))[place]
            if part in self.boundaries:
                first, last = (end.to(tokens.dtype).expand(len(index), 1, -1) for end in self.boundaries[part])
                tokens = torch.cat([first, tokens, last], 1)
            found[part] = tokens
        return found

    def lengths(self, features: Mapping[str, Tensor]) -> dict[str, int]:
        """Part → how many tokens it takes."""
        return {part: features[part].shape[1] + 2 * (part in self.boundaries) for part in self.project if part in features}


def _projector(inputs: int, outputs: int, kind: Literal["linear", "mlp"]) -> nn.Module:
    if kind == "linear":
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs))
