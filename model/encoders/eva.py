"""EVA-CLIP towers (Fang et al., EVA, arXiv:2211.07636, and EVA-02, arXiv:2303.11331; Sun et al., EVA-CLIP, arXiv:2303.15389; MIT
licence) through timm's ``Eva``.

The release keeps the tower under ``visual.``. EVA01's and the post-norm EVA02's parameter names are timm's; ``ROPE_NAMES`` maps the
others of EVA02. Rotary frequencies, which the release stores in every block, follow from the sizes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.eva import Eva
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.model.encoders.base import VisionEncoder, register_vision, sizes
from omnivast.model.encoders.naming import store_as_released
from omnivast.model.recompute import LayerNorm

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

EVA01_GIANT = {"patch_size": 14, "width": 1408, "layers": 40, "head_width": 88, "mlp_ratio": 4.3637, "drop_path_rate": 0.4}
EVA02_BASE = {"patch_size": 16, "width": 768, "layers": 12, "head_width": 64, "mlp_ratio": 2.6667, "drop_path_rate": 0.0, "rope_grid": 16}
EVA02_LARGE = {**EVA02_BASE, "patch_size": 14, "width": 1024, "layers": 24}
EVA02_BIGE = {"patch_size": 14, "width": 1792, "layers": 64, "head_width": 112, "mlp_ratio": 8.571428571428571, "drop_path_rate": 0.0}

ROPE_NAMES = {
    "attn.q_proj.bias": "attn.q_bias", "attn.v_proj.bias": "attn.v_bias", "attn.norm.": "attn.inner_attn_ln.",
    "mlp.fc1_g.": "mlp.w1.", "mlp.fc1_x.": "mlp.w2.", "mlp.fc2.": "mlp.w3.", "mlp.norm.": "mlp.ffn_ln.",
}
"""timm's names → the release's, in blocks with rotary embeddings and SwiGLU."""


class EvaClip(VisionEncoder):
    """Tokens of every frame after the final norm; the first is the [CLS]. ``variant`` holds timm's switches of the architecture."""

    mean, std, has_cls = CLIP_MEAN, CLIP_STD, True

    def __init__(self, resolution: int, patch_size: int, width: int, layers: int, head_width: int, mlp_ratio: float,
                 drop_path_rate: float, **variant: Any) -> None:
        super().__init__()
        self.width = width
        self.visual = Eva(img_size=resolution, patch_size=patch_size, embed_dim=width, depth=layers, num_heads=width // head_width,
                          mlp_ratio=mlp_ratio, drop_path_rate=drop_path_rate, num_classes=0, global_pool="token",
                          qkv_bias=True, norm_layer=partial(LayerNorm, eps=1e-6), **variant)

    def set_checkpointing(self, enable: bool) -> None:
        """Recompute each block's activations in the backward pass."""
        self.visual.set_grad_checkpointing(enable)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, 1 + patches, width)."""
        return self.visual.forward_features(pixels)


@register_vision("evaclip01_giant")
def evaclip01_giant(cfg: ModelConfig) -> VisionEncoder:
    """EVA01-CLIP-g/14: 40 blocks of width 1408."""
    return EvaClip(cfg.vision_resolution, **sizes(EVA01_GIANT, cfg.vision_encoder_cfg, "vision_encoder_cfg"))


@register_vision("evaclip02_base")
def evaclip02_base(cfg: ModelConfig) -> VisionEncoder:
    """EVA02-CLIP-B/16: 12 blocks of width 768."""
    return _with_rope(cfg, EVA02_BASE)


@register_vision("evaclip02_large")
def evaclip02_large(cfg: ModelConfig) -> VisionEncoder:
    """EVA02-CLIP-L/14: 24 blocks of width 1024."""
    return _with_rope(cfg, EVA02_LARGE)


@register_vision("evaclip02_bige")
def evaclip02_bige(cfg: ModelConfig) -> VisionEncoder:
    """EVA02-CLIP-E/14+: 64 post-norm blocks of width 1792, without rotary embeddings."""
    size = sizes(EVA02_BIGE, cfg.vision_encoder_cfg, "vision_encoder_cfg")
    return EvaClip(cfg.vision_resolution, use_post_norm=True, **size)


def _with_rope(cfg: ModelConfig, default: dict[str, Any]) -> VisionEncoder:
    """Rotary embeddings of patches, at other resolutions stretched to the grid of pretraining; SwiGLU with an inner LayerNorm."""
    size = sizes(default, cfg.vision_encoder_cfg, "vision_encoder_cfg")
    grid = size.pop("rope_grid")
    encoder = EvaClip(cfg.vision_resolution, qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True,
                      use_rot_pos_emb=True, ref_feat_shape=(grid, grid), **size)
    store_as_released(encoder, ROPE_NAMES)
    return encoder
