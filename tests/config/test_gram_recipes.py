"""Every recipe of GRAM against its release (tests/goldens/gram.json)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnivast.config.load import load_config
from omnivast.config.tasks import Task
from omnivast.model.gram.model import joined
from tests.config.released import DEFAULT_MODEL, DEFAULT_RUN

ROOT = Path(__file__).parents[2]
TABLES = json.loads((ROOT / "tests" / "goldens" / "gram.json").read_text())
ROWS = [dict(zip(TABLES["columns"], row, strict=True)) for row in (*TABLES["retrieval"], TABLES["pretraining"])]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("cells", ROWS, ids=[cells["benchmark"] for cells in ROWS])
def test_recipe(cells):
    pretraining = cells["benchmark"] == "vast27m_150k"
    name = "pretrain_cfg/pretrain_gram" if pretraining else f"finetune_cfg/retrieval-{cells['benchmark']}"
    config = load_config(["--config", f"config/gram/{name}.json"])
    run, model, (train,), (test,) = config.run_cfg, config.model_cfg, config.data_cfg.train, config.data_cfg.val
    assert (model.model_type, model.gram_cosine, model.gram_volume, model.checkpointing) == ("gram", 0.0, "group", True)
    assert (run.learning_rate, run.clip_lr, run.grad_norm, run.save_best) == (cells["learning_rate"], 5e-7, 2.0, True)
    assert (train.batch_size, train.epoch, test.batch_size) == (cells["batch_size"], cells["epochs"], 64)
    assert Task.parse(train.task) == Task.parse(test.task) == Task.parse(cells["task"])
    assert (train.vision_sample_num, test.vision_sample_num) == (cells["train_frames"], cells["test_frames"])
    assert (train.audio_sample_num, test.audio_sample_num) == (cells["train_audio_clips"], cells["test_audio_clips"])
    assert (model.max_caption_len, model.vision_resolution) == (cells["max_caption_len"], 224)
    assert {train.vision_transforms, test.vision_transforms} == {cells["vision_transforms"]}
    for dataset in (train, test):  # where VAST's recipes have them
        folder = "vast27m" if pretraining and dataset is train else "msrvtt" if pretraining else cells["benchmark"]
        assert dataset.vision == f"datasets/srcdata/{folder}/videos" and dataset.txt.startswith(f"datasets/annotations/{folder}/")


def test_every_row_has_its_file_and_every_file_its_row():
    files = {path.stem for path in (ROOT / "config" / "gram" / "finetune_cfg").iterdir()}
    assert files == {f"retrieval-{row[0]}" for row in TABLES["retrieval"]}
    assert [path.name for path in (ROOT / "config" / "gram" / "pretrain_cfg").iterdir()] == ["pretrain_gram.json"]


def test_a_pretrained_vast_says_the_sizes(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "hps.json").write_text(json.dumps({"model_cfg": {"contra_dim": 256, "model_type": "vast"}}))
    config = load_config(["--config", "config/gram/pretrain_cfg/pretrain_gram.json", "--pretrain_dir", str(tmp_path)])
    assert (config.model_cfg.contra_dim, config.model_cfg.model_type) == (256, "gram")


def test_configs_of_the_release_are_read_as_they_are(tmp_path, monkeypatch, caplog):
    """GRAM's are VAST's files with paths, tasks and keys of its own; that the model is another one only the command line says."""
    clips = {"type": "annoindexed", "name": "activitynet_ret", "txt": "x.json", "vision": "videos", "audio": "audios",
             "vision_format": "video_rawvideo", "vision_sample_num": 4, "audio_sample_num": 1, "n_workers": 8, "batch_size": 64}
    train = {**clips, "training": True, "datatype": "video_rawvideo", "task": "ret%tv%ta%ts", "epoch": 20}
    (tmp_path / "config" / "vast" / "pretrain_cfg").mkdir(parents=True)
    for name, content in {"default_run_cfg": DEFAULT_RUN, "default_model_cfg": DEFAULT_MODEL, "pretrain_cfg/own": {
            "run_cfg": {"default": "./config/vast/default_run_cfg.json", "learning_rate": 5e-5},
            "model_cfg": {"default": "./config/vast/default_model_cfg.json", "vision_encoder_type": "evaclip01_giant"},
            "data_cfg": {"train": [train], "val": [{**clips, "training": False, "task": "ret%tvas"}]}}}.items():
        (tmp_path / "config" / "vast" / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    config = load_config(["--config", "config/vast/pretrain_cfg/own.json", "--model_type", "gram", "--gram_volume", "task"])
    assert (config.model_cfg.model_type, config.model_cfg.gram_volume, config.model_cfg.max_vision_sample_num) == ("gram", "task", 4)
    assert (config.run_cfg.learning_rate, config.data_cfg.val[0].task, config.data_cfg.train[0].vision_sample_num) == (5e-5, "ret%tvas", 4)
    assert joined(Task.parse(config.data_cfg.train[0].task)) == Task.parse("ret%tvas")
    assert "evaluation_type" in caplog.text and "datatype" in caplog.text
