"""Frames told alike by a vision tower."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from omnivast.config.schema import ModelConfig
from omnivast.corpus.clips import tower
from omnivast.corpus.clips.tower import TowerError
from omnivast.corpus.split import Split, split
from omnivast.model.encoders.build import build_vision
from tests.corpus.videos import BLUE, RED, write

NAME = "timm:test_vit"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tower of 0.4 million parameters, from a seed."""
    torch.manual_seed(0)
    state = build_vision(ModelConfig(vision_encoder_type=NAME, vision_resolution=224)).state_dict()
    path = tmp_path_factory.mktemp("tower") / "vit.safetensors"
    save_file({name.removeprefix("body."): value.contiguous() for name, value in state.items()}, path)
    return path


def test_key_frames_are_seen_in_the_pass_that_makes_thumbnails(tmp_path, weights):
    known = split(write(tmp_path / "a.mp4", [RED] * 40 + [BLUE] * 40), "none", f"{NAME}={weights}")
    eye = tower.load(f"{NAME}={weights}")
    looks = known.looks.astype(np.float32)
    assert known.look_frames == [0, 13, 26, 39, 52, 65, 78] and looks.shape == (7, 64) and eye.side == 224
    assert np.allclose(np.linalg.norm(looks, axis=1), 1, atol=2e-3)
    apart = np.linalg.norm(looks - looks[0], axis=1)
    assert apart[:4].max() < 0.5 * apart[4:].min()
    assert np.array_equal(Split.from_json(known.to_json()).looks, known.looks)


def test_a_tower_is_known_by_its_weights(tmp_path, weights):
    name = f"{NAME}={weights}"
    assert tower.identity(name).startswith(f"{name}#") and tower.identity(name) == tower.identity(name)
    other = tmp_path / "other.safetensors"
    other.write_bytes(weights.read_bytes() + b" ")
    assert tower.identity(f"{NAME}={other}").split("#")[1] != tower.identity(name).split("#")[1]


def test_what_is_no_tower_is_named(tmp_path):
    with pytest.raises(TowerError, match="no tower is called 'clap'; expected the output folder of a training"):
        tower.identity("clap")
    with pytest.raises(TowerError, match=f"--tower {NAME}={tmp_path}/none: no weights at {tmp_path}/none"):
        tower.identity(f"{NAME}={tmp_path}/none")
