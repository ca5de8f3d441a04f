"""AST (Gong et al., AST: Audio Spectrogram Transformer, arXiv:2104.01778; github.com/YuanGongND/ast, BSD 3-clause licence) as the release
uses it, through the transformers library's ``ASTModel``: patches that do not overlap, a [CLS] and no distillation token.

The release keeps the embeddings beside the encoder, under ``audio_embeddings.``; here they are within it. ``NAMES`` maps the library's
names, of both its generations, to the release's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnivast.config.schema import ModelConfig
from omnivast.model.encoders.base import AudioEncoder, EncoderError, register_audio, sizes
from omnivast.model.encoders.hf_audio import HuggingFaceAudio, transformers_audio
from omnivast.model.encoders.naming import store_as_released
from omnivast.model.recompute import GELU, keeping_less

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1}
PATCH = 16
FILE_ROWS = 12
"""Rows of the grid of positions in AST's original file: overlapping patches of 128 mel bins."""

NAMES = {
    "body.embeddings.patch_embeddings.projection.": "audio_embeddings.first_conv.",
    "body.embeddings.position_embeddings": "audio_embeddings.position_embeddings.weight",
    "body.embeddings.cls_token": "audio_embeddings.cls_token", "body.layernorm.": "last_layernorm.",
    "body.encoder.layer.": "layer.", "body.layers.": "layer.", ".layernorm_before.": ".layernorm1.", ".layernorm_after.": ".layernorm2.",
    ".attention.attention.query.": ".attention.linears.0.", ".attention.attention.key.": ".attention.linears.1.",
    ".attention.attention.value.": ".attention.linears.2.", ".attention.output.dense.": ".attention.linears.3.",
    ".attention.q_proj.": ".attention.linears.0.", ".attention.k_proj.": ".attention.linears.1.",
    ".attention.v_proj.": ".attention.linears.2.", ".attention.o_proj.": ".attention.linears.3.",
    ".intermediate.dense.": ".ff_layer.linear1.", ".output.dense.": ".ff_layer.linear2.",
    ".mlp.fc1.": ".ff_layer.linear1.", ".mlp.fc2.": ".ff_layer.linear2.",
}
FILE_PARTS = {".norm1.": ".layernorm1.", ".norm2.": ".layernorm2.", ".attn.proj.": ".attention.linears.3.",
              ".mlp.fc1.": ".ff_layer.linear1.", ".mlp.fc2.": ".ff_layer.linear2."}
"""Parts of the names of a block in AST's original file → those of the release."""


class AST(HuggingFaceAudio):
    """A [CLS], then a token for each 16×16 patch; mel varies slowest."""

    frontend = "ast"
    has_cls = True

    def __init__(self, mel_bins: int, length: int, size: dict) -> None:
        super().__init__()
        library = transformers_audio()
        settings = library.ASTConfig(**size, num_mel_bins=mel_bins, max_length=length, patch_size=PATCH, frequency_stride=PATCH,
                                     time_stride=PATCH)
        self.body, self.width, self.grid = library.ASTModel(settings), size["hidden_size"], (mel_bins // PATCH, length // PATCH)
        self.body.embeddings = _Embeddings(self.body.embeddings.patch_embeddings, self.width, self.grid[0] * self.grid[1],
                                           size["hidden_dropout_prob"])
        for block in self.body.modules():
            for name, child in block.named_children():
                if isinstance(child, library.activations.GELUActivation):
                    setattr(block, name, GELU())
        keeping_less(self, norms=True)
        store_as_released(self, NAMES, flat=("audio_embeddings.position_embeddings.weight",))

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(N, T, mel) → (N, 1 + patches, width)."""
        return self.body(spectrogram).last_hidden_state

    def from_file(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Converts AST's original file beyond renaming: splits the joint projection, and brings the positions of its overlapping patches
        bilinearly to this tower's grid, without that of the distillation token, as the release does."""
        converted = {}
        for name, tensor in state.items():
            for original, released in FILE_PARTS.items():
                name = name.replace(original, released)
            if ".attn.qkv." in name:
                converted.update({name.replace(".attn.qkv.", f".attention.linears.{i}."): part for i, part in enumerate(tensor.chunk(3))})
            elif name == "audio_embeddings.position_embeddings.weight":
                grid = tensor[0, 2:].float().reshape(FILE_ROWS, -1, tensor.shape[-1]).permute(2, 0, 1)[None]
                grid = F.interpolate(grid, self.grid, mode="bilinear")[0].flatten(1).T
                converted[name] = torch.cat([tensor[0, :1].float(), grid])
            else:
                converted[name] = tensor
        return converted


class _Embeddings(nn.Module):
    def __init__(self, patch_embeddings: nn.Module, width: int, patches: int, dropout: float) -> None:
        super().__init__()
        self.patch_embeddings = patch_embeddings
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position_embeddings = nn.Parameter(0.02 * torch.randn(1, 1 + patches, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, spectrogram: Tensor) -> Tensor:
        patches = self.patch_embeddings(spectrogram)
        return self.dropout(torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.position_embeddings)


@register_audio("ast")
def ast(cfg: ModelConfig) -> AudioEncoder:
    """AST base sizes, or smaller ones from ``audio_encoder_cfg``."""
    for name, value in (("audio_target_length", cfg.audio_target_length), ("audio_melbins", cfg.audio_melbins)):
        if value % PATCH:
            raise EncoderError(f"model_cfg.{name} must be a multiple of the patch size {PATCH}, got {value}")
    return AST(cfg.audio_melbins, cfg.audio_target_length, sizes(BASE, cfg.audio_encoder_cfg, "audio_encoder_cfg"))
