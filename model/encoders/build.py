"""The towers of a config. The files of all towers are imported here, which enters them into the registries of base.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from omnivast.config.fields import show
from omnivast.config.schema import ModelConfig
from omnivast.model.encoders import ast, beats, clip, eva, hf_audio, openclip, swin, vit  # noqa: F401
from omnivast.model.encoders.base import AUDIO, VISION, AudioEncoder, Encoder, EncoderError, VisionEncoder
from omnivast.model.recompute import keeping_less

Built = TypeVar("Built", bound=Encoder)


def build_vision(cfg: ModelConfig) -> VisionEncoder:
    """The vision encoder of ``cfg.vision_encoder_type``. Raises EncoderError for an unknown name, an unknown or wrong size."""
    return _built(VISION.find(cfg.vision_encoder_type), cfg, "vision_encoder_cfg")


def build_audio(cfg: ModelConfig) -> AudioEncoder:
    """The audio encoder of ``cfg.audio_encoder_type``. Raises EncoderError for an unknown name, an unknown or wrong size."""
    return _built(AUDIO.find(cfg.audio_encoder_type), cfg, "audio_encoder_cfg")


def _built(build: Callable[[ModelConfig], Built], cfg: ModelConfig, key: str) -> Built:
    """The tower that ``build`` makes. Where a library refuses a size, its error becomes an EncoderError that names the key."""
    given = getattr(cfg, key)
    try:
        return keeping_less(build(cfg))
    except EncoderError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        if not given:
            raise
        raise EncoderError(f"model_cfg.{key}: no encoder can be built with {show(given)}: {error}") from error
