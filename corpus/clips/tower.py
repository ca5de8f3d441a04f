"""A vision tower in place of thumbnails: frames are told alike by what a trained network sees in them."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy import ndarray

from omnivast.config.inherit import settings_of_run
from omnivast.config.load import config_of_model
from omnivast.config.paths import as_path
from omnivast.config.schema import ModelConfig
from omnivast.model.build import build_model
from omnivast.model.encoders.base import VisionEncoder
from omnivast.model.encoders.build import build_vision
from omnivast.model.weights import load_tower, load_weights, start_weights, tower_file
from omnivast.utils.files import sha256_file

AT_ONCE = 32
"""Frames that the tower is shown together."""
RESOLUTION = 224


class TowerError(ValueError):
    """What ``--tower`` names is no tower, or has no weights; the message says what was looked for."""


class Tower:
    """A vision tower that looks at frames of ``side`` x ``side`` pixels."""

    def __init__(self, encoder: VisionEncoder, side: int) -> None:
        self._encoder, self.side = encoder.eval().requires_grad_(False), side
        self._mean, self._std = encoder.pixel_statistics()

    def see(self, frames: ndarray) -> ndarray:
        """(N, side, side, 3) uint8 → (N, width) float16, rows of norm 1: [CLS], or the mean of the tokens where there is none."""
        found = [np.empty((0, self._encoder.width), np.float16)]
        for start in range(0, len(frames), AT_ONCE):
            pixels = torch.from_numpy(frames[start : start + AT_ONCE]).permute(0, 3, 1, 2).float()
            with torch.inference_mode():
                tokens = self._encoder.encode_frames(((pixels - self._mean) / self._std)[:, None])[:, 0].float()
            vectors = tokens[:, 0] if self._encoder.has_cls else tokens.mean(1)
            found.append(torch.nn.functional.normalize(vectors, dim=-1).numpy().astype(np.float16))
        return np.concatenate(found)


@functools.cache
def load(name: str) -> Tower:
    """``name``: the output folder of a training, or a checkpoint in one, of which the vision tower is taken; a tower as
    ``vision_encoder_type`` names it, with its file in ``pretrained_weights/``; or ``tower=file``. Raises TowerError, and what the config,
    the weights or the tower's library raise."""
    run, weights = _places(name)
    if run is not None:
        content = settings_of_run(run)
        model_cfg = {**content["model_cfg"], "pretrained": False, "inherit_keys": []}
        config = config_of_model({"model_cfg": model_cfg}, run / "log" / "hps.json").model_cfg
        if config.vision_encoder_type is None:
            raise TowerError(f"--tower {name}: the model has no vision tower")
        model = build_model(config, load_towers=False)
        load_weights(model, weights)
        return Tower(cast(VisionEncoder, model.towers()["vision"]), config.vision_resolution)
    kind = name.partition("=")[0]
    encoder = build_vision(ModelConfig(vision_encoder_type=kind, vision_resolution=RESOLUTION))
    file = tower_file(kind)
    assert file is not None  # _places has looked
    load_tower(encoder, weights, replace(file, path=str(weights.absolute())))
    return Tower(encoder, RESOLUTION)


def identity(name: str) -> str:
    """The name and the beginning of the hash of its weights: by these, results of one tower are never taken for another's."""
    return f"{name}#{hashlib.sha256(sha256_file(_places(name)[1]).encode()).hexdigest()[:12]}"


def _places(name: str) -> tuple[Path | None, Path]:
    """(the folder of a run or None, the weights). Raises TowerError."""
    path = as_path(name)
    run = next((folder for folder in (path, *path.parents[:2]) if path.exists() and (folder / "log" / "hps.json").is_file()), None)
    if run is not None:
        weights = path if path.is_file() else start_weights(None, str(run))
        assert weights is not None  # a folder is given
        return run, weights
    kind, _, given = name.partition("=")
    file = tower_file(kind)
    weights = Path(given) if given else file.place if file else None
    if weights is None or not weights.is_file():
        place = f"no weights at {weights}" + (f" ({file.by_hand})" if file else "") if weights else f"no tower is called '{kind}'"
        raise TowerError(f"--tower {name}: {place}; expected the output folder of a training, a checkpoint in one, or a tower as "
                         "vision_encoder_type names it, with its file in pretrained_weights/ or as tower=file")
    return None, weights
