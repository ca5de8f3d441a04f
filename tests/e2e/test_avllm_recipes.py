"""Every config of config/avllm as it is, but for tiny towers, a tiny language model and four clips: two steps of training; those of
benchmarks are also tested, zero-shot, as scripts/avllm/zero_shot.sh does."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnivast.config.load import load_config
from omnivast.config.tasks import Task
from omnivast.model.weights.load import WeightsError
from tests.e2e.benchmarks import ANSWERS, CLIPS
from tests.e2e.program import ROOT

ONE, TWO = "config/avllm/pretrain_cfg/stage1.json", "config/avllm/finetune_cfg/stage2.json"


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "config" / "avllm" / folder).glob("*.json"))


@pytest.fixture(scope="module")
def stage1(house) -> str:
    house.train(ONE, "stage1", *house.towers(ONE))
    return "stage1"


@pytest.fixture(scope="module")
def stage2(house, stage1) -> Path:
    return house.train(TWO, "stage2", "--pretrain_dir", stage1)


@pytest.mark.parametrize("name", names("ablation_cfg"))
def test_ablations(house, stage1, name):
    """From stage 1, where it has the same towers."""
    path = f"config/avllm/ablation_cfg/{name}.json"
    other = name.startswith(("table5", "table6", "table7"))
    house.train(path, name, *(house.towers(path) if other else ["--pretrain_dir", stage1]))


@pytest.mark.parametrize("name", [name for name in names("omnistamps") if not name.startswith("default") and name != "towers"])
def test_omnistamps(house, name):
    path = f"config/avllm/omnistamps/{name}.json"
    house.train(path, f"omnistamps_{name}", "--pretrained", "false", "--llm", house.llm())


@pytest.mark.parametrize("name", [name for name in names("finetune_cfg") if name != "stage2"])
def test_benchmarks(house, stage2, name):
    path, flags = f"config/avllm/finetune_cfg/{name}.json", ["--pretrain_dir", "stage2"]
    house.train(path, name, *flags)
    (dataset,) = load_config(["--config", path, *flags]).data_cfg.val
    # METEOR and SPICE start Java, which takes longer than all else.
    (found,) = house.test(path, f"{name}_test", stage2, *flags, "--java_metrics_seconds", "0", "--max_answer_len", "4",
                          "--max_caption_len", "4").values()
    protocol = found["protocol"]
    assert protocol["groups"] == [str(group) for group in Task.parse(dataset.task).all_groups] and protocol["model_type"] == "avllm"
    assert protocol["clips"] == CLIPS
    assert (protocol.get("frames"), protocol.get("slices")) == (dataset.vision_sample_num, dataset.audio_sample_num)
    asked = {"caption-clothov1": CLIPS, "caption-audiocaps": CLIPS, "VQA-avssd": CLIPS, "VQA-avsd": sum(range(1, CLIPS + 1))}
    assert len(found["predictions"]) == asked.get(name, CLIPS * len(ANSWERS))
    if name == "caption-clothov1":
        assert found["not_computed"]["spider"] == "needs SPICE"


def test_a_model_with_adapters_is_tested_as_such(house, stage1):
    """And not, in silence, as the language model without them."""
    path, lora = "config/avllm/finetune_cfg/VQA-msvd.json", "config/avllm/ablation_cfg/lora.json"
    weights = house.train(lora, "adapted", "--pretrain_dir", stage1)
    flags = ["--pretrain_dir", "adapted", "--max_answer_len", "2"]
    house.furnish(path, *flags)
    with pytest.raises(WeightsError, match="lora_A"):
        house.test(path, "adapted_test", weights, *flags)
    assert house.test(path, "adapted_test", weights, *flags, "--llm_tune", "lora")["msvd_qa.qa"]["metrics"]["tv"].keys() >= {"accuracy"}
