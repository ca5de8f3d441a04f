"""Every config of config/vast as it is, but for tiny towers and four clips: two steps of training, then a test of the checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from omnivast.config.load import load_config
from omnivast.config.schema import Config
from omnivast.config.tasks import Objective, Task
from omnivast.utils.log import read_jsonl
from tests.config.released import DEFAULT_MODEL, DEFAULT_RUN, TRAIN, VAL
from tests.e2e.benchmarks import CLIPS, lay_out, make_media, rows
from tests.e2e.program import ROOT, call
from tests.media_factory import write_json
from tests.model.tiny import BEATS, VAST_TINY

SHARED = ROOT.parent / "shared" / "annotations"
CONFIGS = ROOT / "config" / "vast"
PRETRAINING = "config/vast/pretrain_cfg/pretrain_vast.json"
RECIPES = sorted(path.stem for path in (CONFIGS / "finetune_cfg").glob("*.json"))
LOSSES = {"retrieval": {"itc", "itm"}, "caption": {"cap"}, "VQA": {"qa"}}
# The recipes' own sizes but for towers, pixels and spectrograms; a third frame count would only cost time.
SMALL = ["--vision_resolution", "16", "--audio_melbins", "32", "--audio_target_length", "32", "--device", "cpu", "--num_threads", "1",
         "--n_workers", "0", "--tensorboard", "false", "--log_steps", "1"]
TOWERS = {
    "vision": ["--vision_encoder_type", "vit_small_scratch", "--vision_encoder_cfg", json.dumps(
        {"width": 16, "depth": 1, "heads": 2, "stride": 8, "stem_width": 8, "stem_norm": "group"})],
    "audio": ["--audio_encoder_cfg", json.dumps(BEATS)],
    "text": ["--pretrained", "false", "--text_encoder_type", "bert", "--tokenizer", str(VAST_TINY / "vocab.txt"), "--contra_dim", "16",
             "--text_encoder_cfg", json.dumps({"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
                                               "max_position_embeddings": 96})],
}
TRAINING = ["--train_batch_size", "4", "--data_cfg.val", "[]", "--first_eval", "false", "--save_best", "false", "--valid_freq", "0"]


class House:
    """A folder with ``config`` and, for the recipe at hand, ``datasets``; run.py runs there in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "config").symlink_to(ROOT / "config")
        self.media = make_media(folder / "media")

    def furnish(self, path: str, *flags: str) -> Config:
        """The recipe, its annotations and media in place."""
        config = load_config(["--config", path, *flags])
        for training, datasets in ((True, config.data_cfg.train), (False, config.data_cfg.val)):
            for dataset in datasets:
                lay_out(self.folder, dataset, self.media, training)
        return config

    def train(self, path: str, output: str, *flags: str) -> Path:
        """Two steps, or one of each corpus where there are several. Returns the weights."""
        config = self.furnish(path, *flags)
        corpora = len(config.data_cfg.train)
        steps = str(2 if corpora == 1 else 1)
        assert call(["--config", path, *SMALL, *TRAINING, "--train_steps", steps, "--output_dir", output, *flags]) == 0
        log = read_jsonl(self.folder / output / "log" / "metrics.jsonl")
        assert len(log) == max(2, corpora) and all(math.isfinite(row["loss"]) for row in log)
        assert {row["corpus"] for row in log} == {dataset.name for dataset in config.data_cfg.train}
        return self.folder / output / "ckpt" / f"model_step_{len(log)}.pt"

    def test(self, path: str, output: str, weights: Path, *flags: str) -> dict:
        """Results by dataset and objective."""
        assert call(["--config", path, *SMALL, "--output_dir", output, "--mode", "testing", "--checkpoint", str(weights), *flags]) == 0
        return {file.stem: json.loads(file.read_text()) for file in (self.folder / output / "results").glob("*.json")}

    def towers(self, path: str) -> list[str]:
        """Flags for the towers that the recipe has."""
        model = load_config(["--config", path]).model_cfg
        chosen = [kind for kind in ("vision", "audio") if getattr(model, f"{kind}_encoder_type") is not None]
        return [flag for kind in (*chosen, "text") for flag in TOWERS[kind]]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("house")
        patch.chdir(folder)
        patch.setenv("OMNIVAST_TRACEBACK", "1")
        yield House(folder)


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
