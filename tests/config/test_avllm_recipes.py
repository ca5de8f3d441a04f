"""config/avllm: the paper's sizes, and what each ablation changes of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from omnivast.config.load import load_config
from tests.model.avllm.tiny import make_llm

CONFIGS = Path(__file__).parents[2] / "config" / "avllm"
ABLATIONS = sorted(path.stem for path in (CONFIGS / "ablation_cfg").glob("*.json"))


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make_llm(tmp_path_factory.mktemp("llm"))


def load(name, llm):
    return load_config(["--config", str(CONFIGS / f"{name}.json"), "--llm", llm])


def test_both_stages_are_the_papers(llm):
    """Section 4.1."""
    one, two = load("pretrain_cfg/stage1", llm), load("finetune_cfg/stage2", llm)
    for config, rate, batch, epochs, tuned in ((one, 2e-3, 256, 3, "projectors"), (two, 2e-5, 128, 1, "full")):
        run, model = config.run_cfg, config.model_cfg
        assert (run.learning_rate, run.optim, run.betas, run.scheduler, run.warmup_ratio) == (rate, "adamw", [0.9, 0.98],
                                                                                              "warmup_cosine", 0.03)
        assert (model.vision_encoder_type, model.audio_encoder_type) == ("clip_vit_large_14", "hf:laion/clap-htsat-unfused")
        assert (model.llm_tune, model.llm_projector, model.vision_resolution) == (tuned, "linear", 224)
        for dataset in config.data_cfg.train:
            assert (dataset.batch_size, dataset.epoch) == (batch, epochs)
            assert dataset.vision_sample_num in (None, 1 if dataset.vision_format == "image_rawimage" else 32)
            assert dataset.audio_sample_num in (None, 4)
    assert one.model_cfg.llm_template == "plain" and two.model_cfg.llm_template == "vicuna_v1"


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_it_is_about(name, llm):
    stage, own = load("finetune_cfg/stage2", llm), load(f"ablation_cfg/{name}", llm)
    changed = {key for section in ("run_cfg", "model_cfg") for key, value in dataclasses.asdict(getattr(own, section)).items()
               if value != getattr(getattr(stage, section), key)} - {"output_dir", "max_vision_sample_num",
                                                                                                      "max_audio_sample_num"}
    samples = {key for one, other in zip(own.data_cfg.train, stage.data_cfg.train, strict=True)
               for key, value in dataclasses.asdict(one).items() if value != getattr(other, key)}
    expected = {"lora": {"llm_tune", "learning_rate"}, "table4": {"modality_order"}, "table5": {"vision_encoder_type"},
                "table6": {"audio_encoder_type", "audio_melbins", "audio_target_length"}, "table7": set(),
                "figure9": {"vision_sample_num"}, "figure10": {"audio_sample_num"}}
    assert changed | samples == expected[name.split("-")[0]]
