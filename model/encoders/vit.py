"""Vision transformers through timm: any of its models as ``timm:<name>``, and a small hybrid one to train from scratch.

The hybrid's tokens come from a stack of strided convolutions instead of one large patch projection (Xiao et al., Early
Convolutions Help Transformers See Better, arXiv:2106.14881): on small data it learns in a fraction of the steps.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from omnivast.config.schema import ModelConfig
from omnivast.model.encoders.base import EncoderError, VisionEncoder, register_vision, sizes
from omnivast.model.recompute import LayerNorm

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(max(1, channels // 4), channels),
}
"""Normalisation of the stem. "batch" learns fastest (each process has separate statistics); "group" does not depend on the batch."""

SMALL = {"width": 128, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "stem": "conv", "stem_width": 32, "stem_norm": "batch", "stride": 16,
         "drop_path_rate": 0.0, "class_token": False}


class ConvStem(nn.Module):
    """log2(stride) pairs of 3×3 convolutions, each pair halving the side and growing the channels, then a projection.

    Takes timm's patch-embedding arguments, so that it stands in for one.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, stem_width: int = 32, stem_norm: str = "batch",
                 **_: Any) -> None:
        super().__init__()
        steps = patch_size.bit_length() - 1
        if 2**steps != patch_size or img_size % patch_size:
            raise EncoderError(f"vision_encoder_cfg.stride must be a power of two that divides vision_resolution {img_size}, "
                               f"got {patch_size}")
        if stem_norm not in NORMS:
            raise EncoderError(f"vision_encoder_cfg.stem_norm must be one of {', '.join(NORMS)}, got '{stem_norm}'")
        layers: list[nn.Module] = []
        channels = in_chans
        for step in range(steps):
            wider = min(stem_width * 2**step, embed_dim)
            layers += [*_conv(channels, wider, 2, stem_norm), *_conv(wider, wider, 1, stem_norm)]
            channels = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, embed_dim, 1))
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size,) * 2
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, patches, embed_dim)."""
        return self.layers(pixels.contiguous(memory_format=torch.channels_last)).flatten(2).transpose(1, 2)


def _conv(inputs: int, outputs: int, stride: int, norm: str) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), NORMS[norm](outputs), nn.GELU()]


class TimmEncoder(VisionEncoder):
    """A timm model as an encoder: (N, 3, H, W) → (N, tokens, width); feature maps are read row by row.

    A [CLS] comes first where the model has one; registers and other further tokens are left out. ``heads`` names the parts that
    pool and classify: they are taken away.
    """

    def __init__(self, body: Any, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.body, self.width, self.mean, self.std = body, int(body.num_features), tuple(mean), tuple(std)
        self.has_cls = getattr(body, "cls_token", None) is not None
        self.prefix = max(getattr(body, "num_prefix_tokens", 0), int(self.has_cls))
        classifier = getattr(body, "pretrained_cfg", {}).get("classifier") or "head"
        names = (*([classifier] if isinstance(classifier, str) else classifier), "fc_norm", "attn_pool")
        self.heads = (*(f"body.{name}" for name in names), "visual.head")
        for name in names:
            parent, _, child = name.rpartition(".")
            owner = body.get_submodule(parent) if parent in dict(body.named_modules()) else None
            if isinstance(getattr(owner, child, None), nn.Module):
                setattr(owner, child, nn.Identity())

    def set_checkpointing(self, enable: bool) -> None:
        """Recompute each block's activations in the backward pass. Raises EncoderError where timm cannot for this model."""
        try:
            self.body.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError):
            if enable:
                raise EncoderError(f"model_cfg.checkpointing: timm's {type(self.body).__name__} cannot recompute activations; "
                                   "set \"checkpointing\": false") from None

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, tokens, width)."""
        features = self.body.forward_features(pixels)
        if not isinstance(features, Tensor) or features.ndim not in (3, 4) or self.width not in (features.shape[-1], features.shape[1]):
            raise EncoderError(f"timm's {type(self.body).__name__} gives no tokens or map of width {self.width}: choose another model")
        if features.ndim == 3:
            extra = self.prefix - self.has_cls
            return torch.cat([features[:, :self.has_cls], features[:, self.prefix:]], 1) if extra else features
        if features.shape[-1] != self.width:
            features = features.movedim(1, -1)
        return features.flatten(1, 2)


@register_vision("vit_small_scratch")
def vit_small_scratch(cfg: ModelConfig) -> VisionEncoder:
    """A small ViT for training from scratch; ``stem`` is "conv" or "patch", ``stride`` the pixels per token."""
    size = sizes(SMALL, cfg.vision_encoder_cfg, "vision_encoder_cfg")
    stem: dict[str, Any] = {}
    if size["stem"] == "conv":
        stem = {"embed_layer": lambda **arguments: ConvStem(stem_width=size["stem_width"], stem_norm=size["stem_norm"], **arguments)}
    elif size["stem"] != "patch":
        raise EncoderError(f"vision_encoder_cfg.stem must be 'conv' or 'patch', got '{size['stem']}'")
    body = VisionTransformer(img_size=cfg.vision_resolution, patch_size=size["stride"], embed_dim=size["width"], depth=size["depth"],
                             num_heads=size["heads"], mlp_ratio=size["mlp_ratio"], drop_path_rate=size["drop_path_rate"], num_classes=0,
                             class_token=size["class_token"], global_pool="token" if size["class_token"] else "avg", weight_init="jax",
                             fc_norm=False, norm_layer=partial(LayerNorm, eps=1e-6), **stem)
    return TimmEncoder(body)


@register_vision("timm:")
def any_timm_model(cfg: ModelConfig) -> VisionEncoder:
    """``timm:<name>``: a timm ViT or CNN; its weights come from ``pretrained_weights/timm/<name>.safetensors`` or from scratch.

    ``vision_encoder_cfg`` goes to timm's model. Raises EncoderError for an unknown name, and for a resolution or setting that the
    model does not take.
    """
    name = str(cfg.vision_encoder_type).split(":", 1)[1]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise EncoderError(f"timm has no model '{name}'" + (f"; near are {', '.join(near)}" if near else ""))
    body: Any
    try:
        body = timm.create_model(name, num_classes=0, img_size=cfg.vision_resolution, **cfg.vision_encoder_cfg)
    except TypeError:  # a model without a fixed input size, such as a CNN, or a setting that it does not know
        try:
            body = timm.create_model(name, num_classes=0, **cfg.vision_encoder_cfg)
        except TypeError as error:
            raise EncoderError(f"model_cfg.vision_encoder_cfg: timm's '{name}' does not take it: {error}") from None
        if body.pretrained_cfg.get("fixed_input_size") and body.pretrained_cfg["input_size"][-1] != cfg.vision_resolution:
            raise EncoderError(f"model_cfg.vision_resolution {cfg.vision_resolution}: timm's '{name}' takes "
                               f"{body.pretrained_cfg['input_size'][-1]} only") from None
    return TimmEncoder(body, body.pretrained_cfg.get("mean", IMAGENET_MEAN), body.pretrained_cfg.get("std", IMAGENET_STD))
