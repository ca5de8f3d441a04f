"""Every config of config/vast as it is, but for tiny towers and four clips: two steps of training, then a test of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnivast.config.load import load_config
from omnivast.config.tasks import Objective, Task
from omnivast.utils.log import read_jsonl
from tests.config.released import DEFAULT_MODEL, DEFAULT_RUN, TRAIN, VAL
from tests.e2e.benchmarks import CLIPS, rows
from tests.e2e.house import SMALL
from tests.e2e.program import ROOT, call
from tests.media_factory import write_json

SHARED = ROOT.parent / "shared" / "annotations"
CONFIGS = ROOT / "config" / "vast"
PRETRAINING = "config/vast/pretrain_cfg/pretrain_vast.json"
RECIPES = sorted(path.stem for path in (CONFIGS / "finetune_cfg").glob("*.json"))
LOSSES = {"retrieval": {"itc", "itm"}, "caption": {"cap"}, "VQA": {"qa"}}


@pytest.fixture(scope="module")
def pretrained(house) -> Path:
    return house.train(PRETRAINING, "pretrained", *house.towers(PRETRAINING))


def test_pretraining(house, pretrained):
    found = house.test(PRETRAINING, "pretrained_test", pretrained, *house.towers(PRETRAINING))
    assert list(found) == ["msrvtt_ret.ret"] and found["msrvtt_ret.ret"]["protocol"]["clips"] == CLIPS
    losses = [row["losses"] for row in read_jsonl(house.folder / "pretrained" / "log" / "metrics.jsonl")]
    groups = {f"{objective}.{group}" for objective in ("itc", "itm", "cap") for group in ("tvas", "tva", "tvs", "tv", "ta")}
    assert groups <= {name for row in losses for name in row}


@pytest.mark.parametrize("recipe", RECIPES)
def test_finetuning(house, pretrained, recipe):
    """From the pretrained run, as the paper does: its towers are inherited, its frame embedding is interpolated."""
    path = f"config/vast/finetune_cfg/{recipe}.json"
    start = ["--pretrain_dir", "pretrained"]
    weights = house.train(path, recipe, *start)
    config = load_config(["--config", path, *start])
    (dataset,) = config.data_cfg.val
    (found,) = house.test(path, f"{recipe}_test", weights, *start).values()
    protocol, task = found["protocol"], Task.parse(dataset.task)
    assert protocol["clips"] == CLIPS and protocol["groups"] == [str(group) for group in task.all_groups]
    assert protocol["unreadable"] == []
    assert protocol.get("frames") == dataset.vision_sample_num and protocol.get("slices") == dataset.audio_sample_num
    (objective,) = task.objectives
    asked = json.loads((house.folder / dataset.txt).read_text())
    texts = {Objective.RETRIEVAL: "desc" if "desc" in asked[0] else "caption", Objective.QA: "question"}.get(objective)
    assert len(found["predictions"]) == sum(len(row[texts]) if texts and isinstance(row[texts], list) else 1 for row in asked)
    (metrics,) = found["metrics"].values()
    assert metrics
    log = read_jsonl(house.folder / recipe / "log" / "metrics.jsonl")
    if not recipe.endswith("_scst"):
        assert LOSSES[recipe.split("-")[0]] <= set(log[0]["losses"])


def test_a_released_config_runs_unmodified(house, pretrained):
    """One that names a folder of sounds, in which a silent video has no file."""
    write_json(house.folder / "released" / "default_run_cfg.json", DEFAULT_RUN)
    write_json(house.folder / "released" / "default_model_cfg.json", DEFAULT_MODEL)
    path = "released/retrieval-msrvtt.json"
    write_json(house.folder / path, {
        "run_cfg": {"default": "./released/default_run_cfg.json"}, "model_cfg": {"default": "./released/default_model_cfg.json"},
        "data_cfg": {"train": [TRAIN], "val": [VAL]}})
    towers = house.towers(PRETRAINING)
    weights = house.train(path, "released_run", "--pretrain_dir", "pretrained", *towers)
    (house.folder / VAL["audio"] / "video2.wav").unlink()
    found = house.test(path, "released_test", weights, *towers)
    assert found["msrvtt_ret.ret"]["protocol"]["clips"] == CLIPS and found["msrvtt_ret.ret"]["protocol"]["unreadable"] == []


@pytest.mark.parametrize("kind", ["vision", "audio"])
def test_captioners(house, kind):
    """Pretraining, for vision fine-tuning on images and videos, and labelling with what came of it."""
    def path(stage):
        return f"config/vast/captioner_cfg/caption-{stage}-{kind}.json"

    run = f"{kind}_captioner"
    weights = house.train(path("pretrain"), run, *house.towers(path("pretrain")))
    assert house.test(path("pretrain"), f"{run}_test", weights, *house.towers(path("pretrain")))
    if kind == "vision":
        house.train(path("finetune"), f"{run}_finetuned", "--pretrain_dir", run)
        run = f"{run}_finetuned"
    house.furnish(path("generation"), "--pretrain_dir", run)
    assert call(["--config", path("generation"), *SMALL, "--pretrain_dir", run, "--output_dir", f"{run}/generation"]) == 0
    labels = json.loads((house.folder / run / "generation" / "results" / "yourdata" / "labels.json").read_text())
    # A model of two steps may end a caption at once; empty ones are left out.
    assert len(labels) == CLIPS and {5} <= {len(row[f"{kind}_cap"]) for row in labels} <= set(range(6))


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/annotations is absent")
@pytest.mark.parametrize("path", sorted(SHARED.glob("*_descs_*.json")), ids=lambda path: path.stem)
def test_the_generated_annotations_have_the_shape_of_the_real_ones(path):
    corpus, _, kind, split = path.stem.split("_")
    groups = "tvas" if "subtitle" in json.loads(path.read_text())[0] else "ta" if corpus == "audiocaps" else "tva"
    made = rows(corpus, [f"clip{i}" for i in range(CLIPS)], Task.parse(f"{kind}%{groups}"), split == "train")

    def shape(found):
        return {(key, "list" if isinstance(value, list) else "one") for row in found for key, value in row.items()}
    assert shape(made) == shape(json.loads(path.read_text()))
