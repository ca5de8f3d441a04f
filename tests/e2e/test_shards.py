"""A whole training and test on tar shards, beside the same on folders; and one whose steps hold several corpora."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from omnivast.data.shards.pack import Packing, pack
from omnivast.training.logs.monitor import Monitor
from omnivast.utils.log import read_jsonl
from tests.e2e.program import ROOT, TINY, results

UNTIMED = ("step", "corpus", "epoch", "losses", "lr", "grad_norm")


@pytest.fixture(scope="module")
def on_shards(clips, tmp_path_factory) -> dict:
    """config/debug/tiny.json with shards in place of folders: one corpus with its texts inside, the others beside their annotations."""
    output, config = tmp_path_factory.mktemp("shards"), json.loads((ROOT / TINY).read_text())
    config["model_cfg"]["tokenizer"] = str(clips.folder / "vocab.txt")
    config["run_cfg"]["num_threads"] = 1
    for which in ("train", "val"):
        for index, dataset in enumerate(config["data_cfg"][which]):
            for key in {"txt", "vision", "annfile"} & dataset.keys():
                dataset[key] = str(clips.folder / Path(dataset[key]).relative_to("datasets/omnistamps/debug"))
            folder, inside = output / f"{which}{index}", dataset["name"] == "omnistamps_pretrain"
            pack(Packing(dataset["txt"], str(folder), dataset.pop("vision"), texts=inside, shard_size=150_000))
            assert len(list(folder.glob("*.tar"))) > 1
            dataset |= {"type": "srcindexed", "shards": [str(folder)], "n_workers": 0}
            if inside:
                del dataset["txt"]
    return config


def arguments(folder, config, *more) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return ["--config", str(folder / "config.json"), "--output_dir", str(folder / "run"), *more]


def steps(folder):
    return [{name: row[name] for name in UNTIMED} for row in read_jsonl(folder / "log" / "metrics.jsonl")]


def test_shards_train_and_test_as_folders_do(trained, on_shards, run_program, tmp_path):
    outcome = run_program(arguments(tmp_path, on_shards))
    assert outcome.status == 0, outcome.text
    own = tmp_path / "run"
    one, other = (torch.load(folder / "ckpt" / "model_step_10.pt", weights_only=True) for folder in (trained, own))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert steps(own) == steps(trained)
    assert results(own / "results" / "step_10") == results(trained / "results" / "step_10")
    data = read_jsonl(own / "log" / "data.jsonl")
    assert {row["corpus"] for row in data} == {row["corpus"] for row in steps(trained)} and all(row["unreadable"] == {} for row in data)
    assert "waited for" in outcome.text


def test_interleaved_corpora_stopped_and_resumed(on_shards, run_program, tmp_path, monkeypatch):
    config = {**on_shards, "data_cfg": {"train": on_shards["data_cfg"]["train"]}}
    config["run_cfg"] = {**config["run_cfg"], "dataset_mix_type": "interleaved", "gradient_accumulation_steps": 2, "num_train_steps": 4,
                         "save_best": False}
    assert run_program(arguments(tmp_path / "whole", config)).status == 0
    told = Monitor.data
    monkeypatch.setattr(Monitor, "data", lambda self, rows: (told(self, rows), os.kill(os.getpid(), signal.SIGTERM)))
    assert run_program(arguments(tmp_path / "parts", config)).status == 128 + signal.SIGTERM
    monkeypatch.setattr(Monitor, "data", told)
    outcome = run_program(arguments(tmp_path / "parts", config, "--resume", "true"))
    assert outcome.status == 0 and "resuming after step 2 of 4" in outcome.text
    whole, parts = (steps(tmp_path / name / "run") for name in ("whole", "parts"))
    assert whole == parts and len(whole) == 4 and {row["corpus"] for row in whole} == {"omnistamps_pretrain+omnistamps_qa"}
    one, other = (torch.load(tmp_path / name / "run" / "ckpt" / "model_step_4.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    outcome = run_program(arguments(tmp_path / "single", config, "--gradient_accumulation_steps", "1"))
    assert outcome.status == 2 and "dataset_mix_type interleaved puts batches of several corpora into one step" in outcome.text
