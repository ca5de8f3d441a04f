"""Single-modality towers behind one registry: name → how it is built.

A vision encoder maps (N, 3, H, W) normalised pixels to (N, tokens, width) and states ``width``, ``mean``, ``std`` (pixel
statistics) and ``has_cls`` (the first token is a [CLS]); one that sees whole clips overrides ``encode_frames``. An audio
encoder maps (N, T, mel) spectrograms to (N, tokens, width) and states ``width``, ``has_cls`` and ``frontend``, the name in
data/audio.py of how its spectrograms are made. To add one: write a builder,
decorate it, and import its file in build.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from omnivast.config.fields import show
from omnivast.config.registry import Registry
from omnivast.config.schema import ModelConfig
from omnivast.config.words import did_you_mean


class Encoder(nn.Module):
    """What towers of both modalities state and do."""

    width: int

    def set_checkpointing(self, enable: bool) -> None:
        """Recompute each block's activations in the backward pass."""
        raise NotImplementedError(f"{type(self).__name__} does not define set_checkpointing")


class VisionEncoder(Encoder):
    """A tower over normalised pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    has_cls: bool

    def pixel_statistics(self) -> tuple[Tensor, Tensor]:
        """(1, 3, 1, 1) mean and standard deviation on the scale of 0 to 255."""
        shape = (1, 3, 1, 1)
        return torch.tensor(self.mean).view(shape) * 255, torch.tensor(self.std).view(shape) * 255

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Clips of normalised frames (B, F, 3, H, W) → (B, F, tokens, width); here frame by frame."""
        return self(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


class AudioEncoder(Encoder):
    """A tower over spectrograms."""

    frontend: str
    has_cls: bool = False


VisionBuilder = Callable[[ModelConfig], VisionEncoder]
AudioBuilder = Callable[[ModelConfig], AudioEncoder]


class EncoderError(ValueError):
    """An encoder name or size that is not known; the message names the nearest valid one."""


VISION: Registry[VisionBuilder] = Registry("model_cfg.vision_encoder_type", "encoder", "timm:<name>", "open_clip:<name>",
                                            error=EncoderError)
AUDIO: Registry[AudioBuilder] = Registry("model_cfg.audio_encoder_type", "encoder", "hf:<name or folder>", error=EncoderError)
register_vision = VISION.register
"""Decorator: ``vision_encoder_type: name`` builds with this function."""
register_audio = AUDIO.register
"""Decorator: ``audio_encoder_type: name`` builds with this function."""


def sizes(defaults: dict, overrides: dict, key: str) -> dict:
    """``defaults`` updated by ``overrides``; a key that is not among the defaults is an error that names the nearest, and so is a value
    of another type."""
    for name, value in overrides.items():
        if name not in defaults:
            raise EncoderError(f"model_cfg.{key} has no size '{name}'; valid are {', '.join(sorted(defaults))}."
                               + did_you_mean(name, defaults))
        if not _fits(value, defaults[name]):
            raise EncoderError(f"model_cfg.{key}.{name}: expected {_words(defaults[name])}, got {show(value)}")
    return {**defaults, **overrides}


def _fits(value: Any, default: Any) -> bool:
    """Whether a JSON value is of the kind of a default; None as a default says nothing."""
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple)) and all(_fits(item, next(iter(default), None)) for item in value)
    if isinstance(default, float):
        return type(value) in (int, float)
    return default is None or type(value) is type(default)


def _words(default: Any) -> str:
    if isinstance(default, (list, tuple)):
        return f"a list such as {list(default)}"
    return f"{type(default).__name__} such as {default}" if not isinstance(default, bool) else "true or false"
