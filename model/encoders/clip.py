"""OpenAI's CLIP image towers (Radford et al., arXiv:2103.00020; github.com/openai/CLIP, MIT licence) through timm's ``VisionTransformer``.

The release keeps the tower under ``visual.``, named as OpenAI names it: ``NAMES`` maps timm's names to those.
"""

from __future__ import annotations

from functools import partial

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.model.encoders.base import VisionEncoder, register_vision, sizes
from omnivast.model.encoders.eva import CLIP_MEAN, CLIP_STD
from omnivast.model.encoders.naming import store_as_released
from omnivast.model.recompute import LayerNorm, QuickGELU

BASE_16 = {"patch_size": 16, "width": 768, "layers": 12, "heads": 12}
BASE_32 = {**BASE_16, "patch_size": 32}
LARGE_14 = {"patch_size": 14, "width": 1024, "layers": 24, "heads": 16}

NAMES = {
    "visual.cls_token": "visual.class_embedding", "visual.pos_embed": "visual.positional_embedding",
    "visual.patch_embed.proj.": "visual.conv1.", "visual.norm_pre.": "visual.ln_pre.", "visual.norm.": "visual.ln_post.",
    "visual.blocks.": "visual.transformer.resblocks.", ".norm1.": ".ln_1.", ".norm2.": ".ln_2.", ".attn.qkv.": ".attn.in_proj_",
    ".attn.proj.": ".attn.out_proj.", ".mlp.fc1.": ".mlp.c_fc.", ".mlp.fc2.": ".mlp.c_proj.",
}
"""timm's names → the release's."""


class ClipViT(VisionEncoder):
    """Tokens of every frame after the last LayerNorm, not projected; the first is the [CLS]."""

    mean, std, has_cls = CLIP_MEAN, CLIP_STD, True

    def __init__(self, resolution: int, patch_size: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.visual = VisionTransformer(img_size=resolution, patch_size=patch_size, embed_dim=width, depth=layers, num_heads=heads,
                                        num_classes=0, global_pool="token", pre_norm=True, norm_layer=partial(LayerNorm, eps=1e-5),
                                        act_layer=QuickGELU)
        store_as_released(self, NAMES, flat=("visual.class_embedding", "visual.positional_embedding"))

    def set_checkpointing(self, enable: bool) -> None:
        """Recompute each block's activations in the backward pass."""
        self.visual.set_grad_checkpointing(enable)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, 1 + patches, width)."""
        return self.visual.forward_features(pixels)


@register_vision("clip_vit_base_16")
def clip_vit_base_16(cfg: ModelConfig) -> VisionEncoder:
    """CLIP ViT-B/16."""
    return ClipViT(cfg.vision_resolution, **sizes(BASE_16, cfg.vision_encoder_cfg, "vision_encoder_cfg"))


@register_vision("clip_vit_base_32")
def clip_vit_base_32(cfg: ModelConfig) -> VisionEncoder:
    """CLIP ViT-B/32."""
    return ClipViT(cfg.vision_resolution, **sizes(BASE_32, cfg.vision_encoder_cfg, "vision_encoder_cfg"))


@register_vision("clip_vit_large_14")
def clip_vit_large_14(cfg: ModelConfig) -> VisionEncoder:
    """CLIP ViT-L/14, pretrained at 224 pixels."""
    return ClipViT(cfg.vision_resolution, **sizes(LARGE_14, cfg.vision_encoder_cfg, "vision_encoder_cfg"))


@register_vision("clip_vit_large_14_336px")
def clip_vit_large_14_336px(cfg: ModelConfig) -> VisionEncoder:
    """CLIP ViT-L/14, pretrained last at 336 pixels."""
    return ClipViT(cfg.vision_resolution, **sizes(LARGE_14, cfg.vision_encoder_cfg, "vision_encoder_cfg"))
