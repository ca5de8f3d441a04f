"""What OpenAI's CLIP has beside its image tower (Radford et al., arXiv:2103.00020): the temperature, the text tower, both projections.

Names are the release's. Letters: N texts, L tokens, D the tower's width, E the width of CLIP's contrastive space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from omnivast.model.attention import attend
from omnivast.model.recompute import LayerNorm

BASE = {"width": 512, "layers": 12, "heads": 8, "context_length": 77, "vocab_size": 49408, "embed_dim": 512}
LARGE = {**BASE, "width": 768, "heads": 12, "embed_dim": 768}
TEXT_TOWERS = {"clip_vit_base_16": BASE, "clip_vit_base_32": BASE, "clip_vit_large_14_336px": LARGE}
"""Sizes of the text tower by the name of the image tower beside which it was trained."""


class ClipText(nn.Module):
    """A causal text tower; what stands behind a text has no say in it."""

    def __init__(self, width: int, layers: int, heads: int, context_length: int, vocab_size: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, width))
        self.transformer = _Blocks(width, heads, layers)
        self.ln_final = LayerNorm(width, eps=1e-5)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """(N, L) → (N, L, D)."""
        x = self.token_embedding(ids) + self.positional_embedding[:ids.shape[1]]
        seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=x.device).tril()
        for block in self.transformer.resblocks:
            x = block(x, seen)
        return self.ln_final(x)


class _Blocks(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, heads, layers) for _ in range(layers))


class _Block(nn.Module):
    """Attention and feed-forward, each with a LayerNorm before it."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.attn = _Attention(width, heads, std=(2 * layers * width) ** -0.5)
        self.ln_1, self.ln_2 = LayerNorm(width, eps=1e-5), LayerNorm(width, eps=1e-5)
        inner, outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.normal_(inner.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(outer.weight, std=(2 * layers * width) ** -0.5)
        self.mlp = nn.ModuleDict({"c_fc": inner, "c_proj": outer})

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x), seen)
        inner = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](inner * torch.sigmoid(1.702 * inner))  # QuickGELU


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, std: float) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(width**-0.5 * torch.randn(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.out_proj.weight, std=std)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        projected = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected.chunk(3, -1))
        return self.out_proj(attend(query, key, value, seen).transpose(1, 2).flatten(2))


class ClipParts(nn.Module):
    """The temperature's scale and, where they are used, the text tower and the projections.

    text: the sizes of the text tower, see BASE; None: there is none. projections: whether there are CLIP's own, of text and, for
    ``vision_width``, of the image tower's [CLS].
    """

    def __init__(self, first_temperature: float, text: dict[str, int] | None, projections: bool, vision_width: int | None) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / first_temperature)))
        if text is None:
            return
        sizes = {key: value for key, value in text.items() if key != "embed_dim"}
        self.text = ClipText(**sizes)
        if projections:
            self.text_projection = nn.Parameter(text["width"] ** -0.5 * torch.randn(text["width"], text["embed_dim"]))
            if vision_width:
                self.visual_proj = nn.Parameter(vision_width**-0.5 * torch.randn(vision_width, text["embed_dim"]))
