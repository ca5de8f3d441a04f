"""The text branch of a captioner: what is told of a clip besides (title, description, subtitle) as a few tokens of their own.

As the student of Panda-70M has it (Chen et al., 2024, section 3.4), in which a Q-Former whose queries are the representation of the video
reads the texts, and no gradient flows from it into the vision branch. Here captions attend to its tokens beside the clip's. Letters: B
clips, K queries, L tokens of the texts, D text width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from omnivast.model.text.bert import TextSizes


class TextBranch(nn.Module):
    """K queries that read a clip's texts, as the clip suggests."""

    def __init__(self, queries: int, layers: int, sizes: TextSizes) -> None:
        super().__init__()
        width = sizes.hidden_size
        self.queries = nn.Parameter(0.02 * torch.randn(1, queries, width))
        self.of_clip = nn.Linear(width, width)
        self.layers = nn.ModuleList(nn.TransformerDecoderLayer(
            width, sizes.num_attention_heads, sizes.intermediate_size, sizes.hidden_dropout_prob, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.type_embedding = nn.Parameter(0.02 * torch.randn(1, 1, width))

    def forward(self, states: Tensor, mask: Tensor, clip: Tensor | None) -> Tensor:
        """Texts (B, L, D) with True at their tokens (B, L), and what the clip's own tokens are on average (B, D), None where it has none →
        (B, K, D). No gradient flows into ``clip``."""
        queries = self.queries.expand(len(states), -1, -1)
        if clip is not None:
            queries = queries + self.of_clip(clip.detach())[:, None]
        for layer in self.layers:
            queries = cast(Tensor, layer(queries, states, memory_key_padding_mask=~mask))
        return self.norm(queries) + self.type_embedding
