"""EVA01-CLIP towers (Fang et al., EVA, arXiv:2211.07636; Sun et al., EVA-CLIP, arXiv:2303.15389) through timm's ``Eva``.

The released VAST keeps the tower under ``visual.``; timm's parameter names are the same as the released file's.
"""

from __future__ import annotations

from functools import partial

from timm.models.eva import Eva
from torch import Tensor, nn

from config.schema import ModelConfig
from model.encoders import VisionEncoder, register_vision, sizes

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

EVA01_GIANT = {"patch_size": 14, "width": 1408, "layers": 40, "head_width": 88, "mlp_ratio": 4.3637, "drop_path_rate": 0.4}


class EvaClip(VisionEncoder):
    """Tokens of every frame after the final norm; the first is the [CLS]."""

    mean, std, has_cls = CLIP_MEAN, CLIP_STD, True

    def __init__(self, resolution: int, patch_size: int, width: int, layers: int, head_width: int, mlp_ratio: float,
                 drop_path_rate: float) -> None:
        super().__init__()
        self.width = width
        self.visual = Eva(img_size=resolution, patch_size=patch_size, embed_dim=width, depth=layers, num_heads=width // head_width,
                          mlp_ratio=mlp_ratio, drop_path_rate=drop_path_rate, num_classes=0, global_pool="token", qkv_fused=True,
                          qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))

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
