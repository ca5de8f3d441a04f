"""BEATs (Chen et al., BEATs: Audio Pre-Training with Acoustic Tokenizers, arXiv:2212.09058), written to load its released files.

Post-norm transformer over 16×16 patches of a log-mel spectrogram, with deep-norm residuals (Wang et al., DeepNet,
arXiv:2203.00555), a convolutional position embedding, and a bucketed relative position bias that is computed once and then
gated per head and query (Chi et al., XLM-E, arXiv:2106.16138). Parameter names are the released checkpoint's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omnivast.config.schema import ModelConfig
from omnivast.model.attention import attend
from omnivast.model.encoders.base import AudioEncoder, EncoderError, register_audio, sizes
from omnivast.model.recompute import LayerNorm, remade

ITER3_PLUS = {
    "encoder_layers": 12, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072, "encoder_attention_heads": 12, "embed_dim": 512,
    "input_patch_size": 16, "conv_pos": 128, "conv_pos_groups": 16, "num_buckets": 320, "max_distance": 800, "deep_norm": True,
    "dropout": 0.0, "encoder_layerdrop": 0.05, "layer_wise_gradient_decay_ratio": 1.0,
}


SHAPING = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "embed_dim", "input_patch_size",
           "conv_pos", "conv_pos_groups", "num_buckets", "max_distance", "deep_norm")
ALWAYS = {"activation_fn": "gelu", "layer_norm_first": False, "conv_bias": False, "relative_position_embedding": True, "gru_rel_pos": True}
"""Keys of a checkpoint's "cfg" on which the function depends: those with sizes here, and those that are always so."""


class Beats(AudioEncoder):
    """(N, T, mel) spectrograms → (N, T/16 · mel/16, width) tokens; time varies slowest."""

    frontend = "beats"

    def __init__(self, size: dict) -> None:
        super().__init__()
        self.size = size
        self.width, self.patch = size["encoder_embed_dim"], size["input_patch_size"]
        self.patch_embedding = nn.Conv2d(1, size["embed_dim"], self.patch, self.patch, bias=False)
        self.layer_norm = nn.LayerNorm(size["embed_dim"])
        self.post_extract_proj = nn.Linear(size["embed_dim"], self.width) if size["embed_dim"] != self.width else nn.Identity()
        self.encoder = _Encoder(size)

    def set_checkpointing(self, enable: bool) -> None:
        """Recompute each block's activations in the backward pass."""
        self.encoder.checkpointing = enable

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(N, T, mel) → (N, tokens, width)."""
        patches = self.patch_embedding(spectrogram.unsqueeze(1)).flatten(2).transpose(1, 2)
        return self.encoder(self.post_extract_proj(self.layer_norm(patches)))

    def check_file(self, cfg: Mapping[str, Any]) -> list[str]:
        """What the "cfg" of a checkpoint says otherwise than this tower is built."""
        wanted = {**ALWAYS, **{key: self.size[key] for key in SHAPING}}
        return [f"{key} is {cfg[key]}, expected {value}" + (f"; set it in audio_encoder_cfg: {{\"{key}\": {json.dumps(cfg[key])}}}"
                                                            if key in self.size else "; this BEATs has nothing else")
                for key, value in wanted.items() if key in cfg and cfg[key] != value]


class _Encoder(nn.Module):
    def __init__(self, size: dict) -> None:
        super().__init__()
        width, kernel = size["encoder_embed_dim"], size["conv_pos"]
        self.pos_conv = nn.Sequential(_PositionConvolution(width, kernel, size["conv_pos_groups"]))
        layers = [_Layer(size) for _ in range(size["encoder_layers"])]
        for layer in layers[1:]:
            layer.self_attn.relative_attention_bias = layers[0].self_attn.relative_attention_bias
        self.layers = nn.ModuleList(layers)
        self.layer_norm = nn.LayerNorm(width)
        self.dropout, self.layerdrop, self.checkpointing = size["dropout"], size["encoder_layerdrop"], False
        self.decay = size["layer_wise_gradient_decay_ratio"]

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(x + F.gelu(self.pos_conv(x.transpose(1, 2))).transpose(1, 2))
        x = F.dropout(x, self.dropout, self.training)
        bias = cast(_Layer, self.layers[0]).self_attn.position_bias(x.shape[1])
        for layer in self.layers:
            if self.training and self.layerdrop and torch.rand(()).item() < self.layerdrop:
                continue
            if self.decay != 1.0 and x.requires_grad:  # earlier layers learn slower, as the config in the released file asks
                x.register_hook(lambda gradient: gradient * self.decay)
            if self.checkpointing and self.training:
                x = checkpoint(layer, x, bias, use_reentrant=False)
            else:
                x = layer(x, bias)
        return x


class _PositionConvolution(nn.Module):
    """Grouped convolution over time with its weight normalised per tap (direction weight_v, length weight_g)."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups, self.kernel = groups, kernel
        self.weight_v = nn.Parameter(torch.randn(width, width // groups, kernel) * math.sqrt(4 / (kernel * width)))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, tokens) → the same shape; an even kernel gives one sample too many, cut on the right."""
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        out = F.conv1d(x, weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return out[..., : x.shape[-1]]


class _Layer(nn.Module):
    def __init__(self, size: dict) -> None:
        super().__init__()
        width = size["encoder_embed_dim"]
        self.self_attn = _GatedAttention(size)
        self.self_attn_layer_norm = LayerNorm(width)
        self.fc1 = nn.Linear(width, size["encoder_ffn_embed_dim"])
        self.fc2 = nn.Linear(size["encoder_ffn_embed_dim"], width)
        self.final_layer_norm = LayerNorm(width)
        self.dropout = size["dropout"]
        self.residual = (2 * size["encoder_layers"]) ** 0.25 if size["deep_norm"] else 1.0
        if size["deep_norm"]:
            self._deep_norm_init(size["encoder_layers"])

    def _deep_norm_init(self, layers: int) -> None:
        gain = (8 * layers) ** -0.25
        attention = self.self_attn
        for linear, scale in ((attention.q_proj, 1.0), (attention.k_proj, 1.0), (attention.v_proj, gain), (attention.out_proj, gain),
                              (self.fc1, gain), (self.fc2, gain)):
            nn.init.xavier_normal_(linear.weight, gain=scale)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        attended = F.dropout(self.self_attn(x, bias), self.dropout, self.training)
        x = self.self_attn_layer_norm(torch.add(attended, x, alpha=self.residual))
        fed = F.dropout(self.fc2(remade(F.gelu, self.fc1(x))), self.dropout, self.training)
        return self.final_layer_norm(torch.add(fed, x, alpha=self.residual))


class _GatedAttention(nn.Module):
    def __init__(self, size: dict) -> None:
        super().__init__()
        width, self.heads = size["encoder_embed_dim"], size["encoder_attention_heads"]
        self.head_width = width // self.heads
        self.buckets, self.max_distance = size["num_buckets"], size["max_distance"]
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.grep_linear = nn.Linear(self.head_width, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        self.relative_attention_bias = nn.Embedding(self.buckets, self.heads)
        nn.init.normal_(self.relative_attention_bias.weight, std=0.02)

    def position_bias(self, length: int) -> Tensor:
        """(H, length, length): the learnt bias of each pair of positions, the same for every layer."""
        positions = torch.arange(length, device=self.grep_a.device)
        buckets = relative_buckets(positions[None] - positions[:, None], self.buckets, self.max_distance)
        return self.relative_attention_bias(buckets).permute(2, 0, 1)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (p(x).view(batch, length, self.heads, self.head_width).transpose(1, 2)
                             for p in (self.q_proj, self.k_proj, self.v_proj))
        gate_a, gate_b = self.grep_linear(query).view(batch, self.heads, length, 2, 4).sum(-1).sigmoid().chunk(2, -1)
        gate = gate_a * (gate_b * self.grep_a - 1.0) + 2.0
        attended = attend(query, key, value, gate * bias)
        return self.out_proj(attended.transpose(1, 2).reshape(batch, length, -1))


def relative_buckets(distance: Tensor, buckets: int, max_distance: int) -> Tensor:
    """T5's bidirectional buckets (Raffel et al., arXiv:1910.10683): half for each sign, exact up to a quarter, then logarithmic."""
    half = buckets // 2
    sign = (distance > 0).long() * half
    distance = distance.abs()
    exact = half // 2
    scale = math.log(max_distance / exact)
    far = exact + (torch.log(distance.float().clamp_min(1) / exact) / scale * (half - exact)).long()
    return sign + torch.where(distance < exact, distance, far.clamp_max(half - 1))


@register_audio("beats")
@register_audio("beats:")
def beats(cfg: ModelConfig) -> AudioEncoder:
    """BEATs iter3+ sizes, or others from ``audio_encoder_cfg``. ``beats`` starts from the release's file,
    ``beats:<name>`` from ``pretrained_weights/beats/<name>.pt``, such as BEATs_iter3 or one fine-tuned on AudioSet."""
    size = sizes(ITER3_PLUS, cfg.audio_encoder_cfg, "audio_encoder_cfg")
    for name, value in (("audio_target_length", cfg.audio_target_length), ("audio_melbins", cfg.audio_melbins)):
        if value % size["input_patch_size"]:
            raise EncoderError(f"model_cfg.{name} must be a multiple of the patch size {size['input_patch_size']}, got {value}")
    if size["encoder_layers"] < 1:
        raise EncoderError(f"model_cfg.audio_encoder_cfg.encoder_layers must be at least 1, got {size['encoder_layers']}")
    for key in ("encoder_attention_heads", "conv_pos_groups"):
        if size["encoder_embed_dim"] % size[key]:
            raise EncoderError(f"model_cfg.audio_encoder_cfg.{key} must divide encoder_embed_dim {size['encoder_embed_dim']}, got "
                               f"{size[key]}")
    return Beats(size)
