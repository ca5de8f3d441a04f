"""Models that do not fit into memory are refused before they take it, by the names of their largest sizes."""

import pytest
import torch

from omnivast.config.schema import ModelConfig
from omnivast.model import fitting
from omnivast.model.build import build_model
from omnivast.model.fitting import Fitting, TooLarge, sizes_of
from tests.model.test_build import TEXT, config


@pytest.mark.parametrize(("changes", "named"), [
    ({"contra_dim": 10**9}, "model_cfg.contra_dim 1,000,000,000"),
    ({"max_vision_sample_num": 10**10}, "model_cfg.max_vision_sample_num 10,000,000,000"),
    ({"text_encoder_cfg": {**TEXT, "vocab_size": 10**10}}, "model_cfg.text_encoder_cfg.vocab_size 10,000,000,000"),
    ({"text_encoder_cfg": {**TEXT, "intermediate_size": 10**10}}, "model_cfg.text_encoder_cfg.intermediate_size 10,000,000,000"),
    ({"vision_encoder_type": "vit_small_scratch", "vision_encoder_cfg": {"width": 10**8, "depth": 2, "heads": 2}},
     "model_cfg.vision_encoder_cfg.width 100,000,000"),
])
def test_a_size_out_of_all_proportion_is_named(changes, named):
    with pytest.raises(ValueError, match=r"does not fit into memory: its parameters need [\d,.]+ GB or more") as caught:
        build_model(config(**changes))
    assert f"The largest sizes: {named}," in str(caught.value) and "\n" not in str(caught.value)


def test_many_small_layers_are_added_up(monkeypatch):
    monkeypatch.setattr(fitting, "free_memory", lambda: 4_000_000)
    monkeypatch.setattr(fitting, "memory", lambda: 6_000_000)
    with pytest.raises(TooLarge, match="may have 0.0 GB. The largest sizes: model_cfg.text_encoder_cfg.num_hidden_layers 5,000"):
        build_model(config(text_encoder_cfg={**TEXT, "num_hidden_layers": 5000}))


@pytest.mark.parametrize(("part", "key"), [("text", "num_hidden_layers"), ("vision", "depth"), ("audio", "encoder_layers")])
def test_more_layers_than_can_be_built_are_refused_at_once(part, key):
    sizes = {**(TEXT if part == "text" else {}), key: 10**9}
    with pytest.raises(TooLarge, match=f"model_cfg.{part}_encoder_cfg.{key} 1,000,000,000: a model may have 10,000 layers"):
        build_model(config(**{f"{part}_encoder_cfg": sizes}))


def test_what_is_counted(monkeypatch):
    monkeypatch.setattr(fitting, "free_memory", lambda: 100)
    monkeypatch.setattr(fitting, "memory", lambda: 2000)
    with Fitting({}) as counted:
        torch.empty(3, 5), torch.zeros((2, 5), dtype=torch.float16), torch.full(size=[4], fill_value=1.0), torch.rand(())
        torch.empty(10**12, device="meta")
        with torch.device("meta"):
            torch.empty(10**12)
    assert counted.bytes == 4 * 15 + 2 * 10 + 4 * 4 + 4 and counted.limit == 1000


def test_the_sizes_are_those_of_all_parts():
    found = sizes_of(ModelConfig(contra_dim=7, vision_encoder_cfg={"width": 8, "stem": "conv"}, text_encoder_cfg={"vocab_size": 9}))
    assert found["model_cfg.contra_dim"] == 7 and found["model_cfg.vision_encoder_cfg.width"] == 8
    assert found["model_cfg.text_encoder_cfg.vocab_size"] == 9 and "model_cfg.frozen_vision" not in found
