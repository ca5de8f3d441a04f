"""config/debug/tiny.json: ten steps of every objective, what they write, testing the checkpoint, and going on in the folder."""

import json
import math

import pytest
import torch

from omnivast.config.load import config_hash, load_config
from omnivast.config.tasks import Objective
from omnivast.evaluation.report import run_report
from omnivast.utils.files import sha256_file
from omnivast.utils.log import read_jsonl
from omnivast.utils.precision import Machine
from tests import browser
from tests.e2e.program import ROOT, TINY, flat, results

STEP_KEYS = {"step", "corpus", "epoch", "loss", "losses", "lr", "grad_norm", "clips_per_second", "data_wait", "seconds"}


def test_metrics(trained):
    rows = read_jsonl(trained / "log" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert {name: sum(row["corpus"] == name for row in rows) for name in ("omnistamps_pretrain", "omnistamps_qa")} == {
        "omnistamps_pretrain": 6, "omnistamps_qa": 4}
    objectives = {"omnistamps_pretrain": {"itc", "itm", "cap"}, "omnistamps_qa": {"qa"}}
    for row in rows:
        assert set(row) >= STEP_KEYS
        assert {name for name in row["losses"] if "." not in name} == {"loss", *objectives[row["corpus"]]}
        assert all(math.isfinite(value) for value in (row["loss"], row["grad_norm"], row["seconds"], *row["losses"].values()))
        assert 0 <= row["data_wait"] <= 1 and row["clips_per_second"] > 0
    by_group = {f"{objective}.{group}" for objective in ("itc", "itm", "cap") for group in ("tvas", "tva", "tvs", "tv", "ta")}
    assert {name for row in rows for name in row["losses"]} >= by_group


def test_files(trained):
    rows = read_jsonl(trained / "log" / "eval.jsonl")
    assert [row["step"] for row in rows] == [10]
    tested = {objective.value for objective in Objective if objective not in (Objective.MLM, Objective.CHAT)}
    assert {name.split(".")[1] for name in rows[0] if name != "step"} == tested
    assert all(0 <= value <= 1000 and math.isfinite(value) for value in rows[0].values())
    assert flat(results(trained / "results" / "step_10")) == {name: value for name, value in rows[0].items() if name != "step"}
    metric = json.loads((trained / "ckpt" / "best.json").read_text())["metric"]
    assert {path.name for path in (trained / "ckpt").iterdir()} == {"model_step_10.pt", "state_step_10.pt", "latest.json", "best.json",
                                                                    f"best_{metric}.pt"}
    weights = torch.load(trained / "ckpt" / "model_step_10.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) and tensor.isfinite().all() for tensor in weights.values())
    assert list((trained / "log" / "tensorboard").glob("events.out.tfevents.*"))
    assert "training: " in (trained / "log" / "log.txt").read_text()


def test_the_resolved_config_is_saved_and_gives_the_same_run(trained, clips, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    saved = load_config(["--config", str(trained / "log" / "hps.json")])
    given = load_config(clips.train(trained, "--precision", "float32"))
    assert saved == given and config_hash(saved) == config_hash(given)
    assert set(json.loads((trained / "log" / "hps.json").read_text())) == {"run_cfg", "model_cfg", "data_cfg"}


def test_testing_the_checkpoint_repeats_the_evaluation(trained, clips, weights, run_program, tmp_path):
    outcome = run_program(clips.test(weights, tmp_path / "test"))
    assert outcome.status == 0, outcome.text
    found = results(tmp_path / "test" / "results")
    assert set(found) == {"omnistamps_ret.ret", "omnistamps_cap.cap", "omnistamps_qa.qa"}
    assert found == results(trained / "results" / "step_10")
    protocol = json.loads((tmp_path / "test" / "results" / "omnistamps_ret.ret.json").read_text())["protocol"]
    assert protocol["checkpoint_sha256"] == sha256_file(weights)
    assert protocol["split_sha256"] == sha256_file(clips.folder / "ret_test.json")
    assert protocol["clips"] == 12 and protocol["texts"] == 12 and protocol["frames"] == 2
    assert protocol["groups"] == ["tvas", "tv", "ta"] and protocol["unreadable"] == []
    assert not list((tmp_path / "test" / "ckpt").glob("*.pt"))


@pytest.mark.parametrize("size", [1, 7])
def test_the_batch_size_does_not_change_the_evaluation(trained, clips, weights, run_program, tmp_path, size):
    outcome = run_program(clips.test(weights, tmp_path, "--test_batch_size", str(size)))
    assert outcome.status == 0, outcome.text
    assert results(tmp_path / "results") == results(trained / "results" / "step_10")


def test_results_during_training_name_the_weights_that_were_tested(trained, weights):
    protocol = json.loads((trained / "results" / "step_10" / "omnistamps_ret.ret.json").read_text())["protocol"]
    assert protocol["checkpoint"] == str(weights) and protocol["checkpoint_sha256"] == sha256_file(weights) and protocol["step"] == 10
    assert protocol["precision"] == "float32" and protocol["precision_reason"].startswith("asked for on cpu (")


def test_zero_shot_needs_nothing_to_train_on(trained, clips, weights, run_program, tmp_path):
    outcome = run_program(["--config", TINY, *clips.flags(("val",)), "--data_cfg.train", "[]", "--zero_shot", "true",
                           "--checkpoint", str(weights), "--output_dir", str(tmp_path / "out")])
    assert outcome.status == 0, outcome.text
    assert results(tmp_path / "out" / "results") == results(trained / "results" / "step_10")


def test_resuming_what_is_finished_changes_nothing(trained, clips, run_program):
    before = {path: path.read_bytes() for folder in ("ckpt", "results") for path in (trained / folder).rglob("*") if path.is_file()}
    lines = [(trained / "log" / f"{name}.jsonl").read_text() for name in ("metrics", "eval")]
    outcome = run_program(clips.train(trained, "--resume", "true"))
    assert outcome.status == 0 and "resuming after step 10 of 10: nothing is left to train" in outcome.text
    assert all(path.read_bytes() == content for path, content in before.items())
    assert [(trained / "log" / f"{name}.jsonl").read_text() for name in ("metrics", "eval")] == lines


def test_a_resumed_run_keeps_its_precision_on_a_machine_that_would_take_another(trained, clips, run_program, monkeypatch):
    faster = Machine("cpu", "another machine", None, 64, {"float32": 1e9, "bf16": 9e9})
    monkeypatch.setattr("omnivast.utils.precision.look", lambda device, width: faster)
    outcome = run_program(clips.train(trained, "--resume", "true", "--precision", "auto"))
    assert outcome.status == 0, outcome.text
    assert "precision: float32, as the run began, though this machine alone would take bf16" in outcome.text
    outcome = run_program(clips.train(trained, "--resume", "true", "--precision", "bf16"))
    assert outcome.status == 2 and 'run_cfg.precision: "float32", now "bf16"' in outcome.text


def test_another_config_does_not_resume(trained, clips, run_program):
    outcome = run_program(clips.train(trained, "--resume", "true", "--learning_rate", "0.5"))
    assert outcome.status == 2
    assert "run_cfg.learning_rate: 0.001, now 0.5" in outcome.text and "--output_dir" in outcome.text


def test_a_folder_with_a_run_is_not_overwritten(trained, clips, run_program):
    outcome = run_program(clips.train(trained))
    assert outcome.status == 2 and "already holds a run" in outcome.text and "--resume true" in outcome.text


def test_dry_run(clips, run_program, tmp_path):
    outcome = run_program(clips.train(tmp_path / "dry", "--dry_run"))
    assert outcome.status == 0, outcome.text
    for words in ("parameters", "training corpus", "10 optimiser steps", "memory per process", "evaluation set", "omnistamps_qa",
                  "weights: no checkpoint: the start is random"):
        assert words in outcome.text
    assert not list((tmp_path / "dry").rglob("*.pt")) and not list((tmp_path / "dry").rglob("hps.json"))


def test_help_lists_the_settings(run_program):
    outcome = run_program(["--help"])
    assert outcome.status == 0
    assert "--learning_rate float  [default: 0.0001" in outcome.text and "--train_task" in outcome.text


def test_the_config_in_the_repository_is_for_the_folder_that_the_builder_is_told_to_fill(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(["--config", TINY])
    assert {d.vision for d in (*config.data_cfg.train, *config.data_cfg.val)} == {"datasets/omnistamps/debug/clips"}


def test_its_report_is_well_set_at_every_width(trained, tmp_path):
    assert run_report.main([str(trained), "--output", str(tmp_path / "page.html")]) == 0
    assert browser.faults({"report of a run": (tmp_path / "page.html").read_text()}, (360, 800, 1200, 1440), tmp_path) == {}
