"""Swin towers over frames (Liu et al., Swin Transformer, arXiv:2103.14030; github.com/microsoft/Swin-Transformer, MIT licence) through
timm, and over clips (Liu et al., Video Swin Transformer, arXiv:2106.13230; github.com/SwinTransformer/Video-Swin-Transformer, Apache
2.0 licence) through torchvision.

The release names both alike; masks and position indices, which it stores, follow from the sizes. One step in time per frame instead of
one per two frames is VAST's change to Video Swin.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.video.swin_transformer import PatchEmbed3d, SwinTransformer3d

from omnivast.config.schema import ModelConfig
from omnivast.model.encoders.base import EncoderError, VisionEncoder, register_vision, sizes
from omnivast.model.encoders.naming import store_as_released
from omnivast.model.recompute import keeping_less

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

BASE: dict[str, Any] = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window": 7, "drop_path_rate": 0.2}
LARGE: dict[str, Any] = {**BASE, "embed_dim": 192, "num_heads": [6, 12, 24, 48]}
VIDEO_BASE: dict[str, Any] = {**BASE, "window": [8, 7, 7], "patch": [2, 4, 4]}
VIDEO_SMALL: dict[str, Any] = {**VIDEO_BASE, "embed_dim": 96, "num_heads": [3, 6, 12, 24]}


class Swin(VisionEncoder):
    """The last stage's map after the final norm, row by row; no [CLS]."""

    mean, std, has_cls = IMAGENET_MEAN, IMAGENET_STD, False

    def __init__(self, resolution: int, embed_dim: int, depths: list[int], num_heads: list[int], window: int,
                 drop_path_rate: float) -> None:
        super().__init__()
        smallest = 4 * 2 ** (len(depths) - 1)
        if resolution % smallest:
            raise EncoderError(f"model_cfg.vision_resolution must be a multiple of {smallest} for a Swin of {len(depths)} stages, "
                               f"got {resolution}")
        self.width = embed_dim * 2 ** (len(depths) - 1)
        body = SwinTransformer(img_size=resolution, embed_dim=embed_dim, depths=tuple(depths), num_heads=tuple(num_heads),
                               window_size=window, drop_path_rate=drop_path_rate, num_classes=0, global_pool="")
        self.patch_embed, self.norm = body.patch_embed, body.norm
        self.layers: Any = body.layers
        store_as_released(self, _name_of_timm)

    def set_checkpointing(self, enable: bool) -> None:
        """Recompute each block's activations in the backward pass."""
        for stage in self.layers:
            stage.grad_checkpointing = enable

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, H/32 · W/32, width)."""
        tokens = self.patch_embed(pixels)
        for stage in self.layers:
            tokens = stage(tokens)
        return self.norm(tokens).flatten(1, 2)


def _name_of_timm(name: str) -> str:
    """timm shrinks at the start of a stage, the release at the end of the stage before."""
    return re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)


class VideoSwin(VisionEncoder):
    """The last stage's map after the final norm, of whole clips: each frame's tokens have seen its neighbours; no [CLS]."""

    mean, std, has_cls = IMAGENET_MEAN, IMAGENET_STD, False

    def __init__(self, embed_dim: int, depths: list[int], num_heads: list[int], window: list[int], patch: list[int],
                 drop_path_rate: float) -> None:
        super().__init__()
        self.width, self.checkpointing = embed_dim * 2 ** (len(depths) - 1), False
        body = SwinTransformer3d(patch, embed_dim, depths, num_heads, window, stochastic_depth_prob=drop_path_rate, num_classes=1,
                                 patch_embed=_patch_of_every_frame)
        self.patch_embed, self.features, self.norm = body.patch_embed, body.features, body.norm
        for block in self.features.modules():
            if hasattr(block, "relative_position_index"):  # follows from the window: not part of a checkpoint
                block.register_buffer("relative_position_index", block.relative_position_index, persistent=False)
        keeping_less(self, norms=True)
        store_as_released(self, _name_of_torchvision)

    def set_checkpointing(self, enable: bool) -> None:
        """Recompute each block's activations in the backward pass."""
        self.checkpointing = enable

    def encode_frames(self, frames: Tensor) -> Tensor:
        """(B, F, 3, H, W) → (B, F, H/32 · W/32, width)."""
        return self(frames)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, F, 3, H, W) → (B, F, H/32 · W/32, width)."""
        spare = self.patch_embed.proj.kernel_size[0] - 1
        x = self.patch_embed(F.pad(frames.transpose(1, 2), (0, 0, 0, 0, 0, spare)))
        for stage in self.features:
            for block in stage if isinstance(stage, nn.Sequential) else [stage]:
                x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)
        return self.norm(x).flatten(2, 3)


def _patch_of_every_frame(patch_size: list[int], embed_dim: int, norm_layer: Callable[..., nn.Module]) -> nn.Module:
    """torchvision's patch embedding with stride 1 in time; the frames are padded before."""
    embed = PatchEmbed3d(patch_size, embed_dim=embed_dim, norm_layer=norm_layer)
    embed.tuple_patch_size = embed.proj.stride = (1, patch_size[1], patch_size[2])
    return embed


def _name_of_torchvision(name: str) -> str:
    """torchvision counts stages and the shrinking between them as one list, and the MLP's layers by number."""
    match = re.match(r"features\.(\d+)\.(.*)", name)
    if not match:
        return name
    position, rest = int(match[1]), match[2]
    if position % 2:
        return f"layers.{position // 2}.downsample.{rest}"
    return f"layers.{position // 2}.blocks.{rest}".replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")


@register_vision("swin_base_22k_224")
def swin_base_22k_224(cfg: ModelConfig) -> VisionEncoder:
    """Swin-B with windows of 7, pretrained on ImageNet-22k at 224 pixels."""
    return Swin(cfg.vision_resolution, **sizes(BASE, cfg.vision_encoder_cfg, "vision_encoder_cfg"))


@register_vision("swin_large_22k_224")
def swin_large_22k_224(cfg: ModelConfig) -> VisionEncoder:
    """Swin-L with windows of 7, pretrained on ImageNet-22k at 224 pixels."""
    return Swin(cfg.vision_resolution, **sizes(LARGE, cfg.vision_encoder_cfg, "vision_encoder_cfg"))


@register_vision("videoswin_base_k600_22k")
def videoswin_base_k600_22k(cfg: ModelConfig) -> VisionEncoder:
    """Video Swin-B with windows of 8 × 7 × 7, pretrained on ImageNet-22k and Kinetics-600."""
    return VideoSwin(**sizes(VIDEO_BASE, cfg.vision_encoder_cfg, "vision_encoder_cfg"))


@register_vision("videoswin_small_k400_1k")
def videoswin_small_k400_1k(cfg: ModelConfig) -> VisionEncoder:
    """Video Swin-S with windows of 8 × 7 × 7, pretrained on ImageNet-1k and Kinetics-400."""
    return VideoSwin(**sizes(VIDEO_SMALL, cfg.vision_encoder_cfg, "vision_encoder_cfg"))
