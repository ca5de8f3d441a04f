"""Every config of config/valor and config/gram as it is, but for tiny towers and four clips: two steps of training; of a recipe of each
kind also a test of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnivast.config.load import load_config
from omnivast.config.tasks import Task
from omnivast.utils.log import read_jsonl
from tests.e2e.benchmarks import CLIPS
from tests.e2e.program import ROOT


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "config" / folder).glob("*.json"))


LARGE, BASE = "config/valor/pretrain_cfg/pretrain_large.json", "config/valor/pretrain_cfg/pretrain_base.json"
TESTED = {"retrieval-msrvtt": "ret.tva", "retrieval-clothov1": "ret.ta", "caption-valor32k": "cap.tva", "VQA-music": "qa.tva",
          "VQA-vqav2": "qa.tv"}
"""Recipes whose checkpoints are tested, and a loss that they have."""
OF_LARGE = ("retrieval-didemo", "caption-mscoco_scst", "VQA-msrvtt")
"""Recipes that start from VALOR-L here; the others start from VALOR-B."""


@pytest.fixture(scope="module")
def base(house) -> Path:
    return house.train(BASE, "base", *house.towers(BASE))


@pytest.fixture(scope="module")
def large(house) -> Path:
    return house.train(LARGE, "large", *house.towers(LARGE))


def losses(folder: Path) -> set[str]:
    return {name for row in read_jsonl(folder / "log" / "metrics.jsonl") for name in row["losses"]}


@pytest.mark.parametrize("size", ["base", "large"])
def test_pretraining(house, size, request):
    request.getfixturevalue(size)
    groups = {f"{objective}.{group}" for objective in ("ret", "cap") for group in ("tva", "tv", "ta")}
    assert losses(house.folder / size) >= groups | ({"mlm.tv"} if size == "large" else set())


@pytest.mark.parametrize("recipe", names("valor/finetune_cfg"))
def test_finetuning(house, recipe, request):
    start = "large" if recipe in OF_LARGE else "base"
    request.getfixturevalue(start)
    path, flags = f"config/valor/finetune_cfg/{recipe}.json", ["--pretrain_dir", start]
    weights = house.train(path, recipe, *flags)
    config = load_config(["--config", path, *flags])
    assert config.model_cfg.vision_encoder_type == {"base": "videoswin_base_k600_22k", "large": "clip_vit_large_14_336px"}[start]
    if recipe not in TESTED:
        return
    assert TESTED[recipe] in losses(house.folder / recipe)
    (dataset,) = config.data_cfg.val
    # METEOR and SPICE start Java, which takes longer than all else.
    (found,) = house.test(path, f"{recipe}_test", weights, *flags, "--java_metrics_seconds", "0").values()
    protocol = found["protocol"]
    assert (protocol["clips"], protocol["unreadable"]) == (CLIPS, [])
    assert protocol["groups"] == [str(group) for group in Task.parse(dataset.task).all_groups]
    assert (protocol.get("frames"), protocol.get("slices")) == (dataset.vision_sample_num, dataset.audio_sample_num)
    texts = json.loads((house.folder / dataset.txt).read_text()).values()
    assert len(found["predictions"]) == (CLIPS if recipe.startswith("caption") else sum(map(len, texts)))


@pytest.mark.parametrize("variant", names("valor/ablation_cfg"))
def test_ablations(house, variant):
    path = f"config/valor/ablation_cfg/{variant}.json"
    house.train(path, variant, *house.towers(path))
    task = Task.parse(load_config(["--config", path]).data_cfg.train[0].task)
    wanted = {f"{objective.value}.{group}" for objective in task.objectives for group in task.groups(objective)}
    assert wanted <= losses(house.folder / variant)


@pytest.mark.parametrize("path", [f"config/gram/{folder}/{name}.json" for folder in ("pretrain_cfg", "finetune_cfg")
                                  for name in names(f"gram/{folder}")])
def test_gram(house, path):
    output = Path(path).stem
    towers = house.towers(path)
    weights = house.train(path, f"gram/{output}", *towers)
    assert {"itc", "itm"} <= losses(house.folder / "gram" / output)
    if output == "retrieval-msrvtt":
        (found,) = house.test(path, "gram/test", weights, *towers).values()
        assert found["protocol"]["model_type"] == "gram" and found["protocol"]["groups"] == ["tvas"] and found["protocol"]["clips"] == CLIPS
