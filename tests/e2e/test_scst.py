"""run_cfg.scst_finetuning through run.py: accumulated, in bfloat16, beside another objective, by two processes, broken and resumed."""

from __future__ import annotations

import json
import math

import pytest
import torch

from omnivast.config.load import load_config
from omnivast.evaluation.captions.reward import CiderReward
from omnivast.model.build import build_model
from omnivast.utils.log import read_jsonl
from omnivast.utils.random import seed_everything
from tests.e2e.program import ROOT, TINY, Running
from tests.e2e.test_labelling import CLIPS, captioner  # noqa: F401 (a fixture)
from tests.e2e.test_processes import NOTHING_OF_ITS_OWN


def arguments(weights, output, *more, task="cap%tvas%ta"):
    root = CLIPS.parent
    dataset = {"name": "own", "task": task, "txt": str(root / "pretrain_train.json"), "vision": str(CLIPS), "vision_sample_num": 2,
               "audio_sample_num": 1, "batch_size": 4, "n_workers": 0, "steps": 4}
    return ["--config", TINY, "--checkpoint", str(weights), "--output_dir", str(output), "--num_threads", "1", "--tensorboard", "false",
            "--data_cfg.train", json.dumps([dataset]), "--data_cfg.val", "[]", "--save_best", "false", "--scst_finetuning", "true",
            "--scst_candidates", "2", "--max_caption_len", "8", *more]


def test_training(captioner, run_program, tmp_path):  # noqa: F811
    outcome = run_program(arguments(captioner, tmp_path / "out", "--gradient_accumulation_steps", "2", "--bf16", "true"))
    assert outcome.status == 0, outcome.text
    rows = read_jsonl(tmp_path / "out" / "log" / "metrics.jsonl")
    assert len(rows) == 4
    for row in rows:
        assert {"cap", "cap.tvas", "cap.ta", "reward", "reward.tvas", "reward.ta", "baseline.tvas", "baseline.ta"} <= row["losses"].keys()
        assert all(map(math.isfinite, row["losses"].values())) and row["losses"]["loss"] == row["losses"]["cap"]
    before, after = torch.load(captioner, weights_only=True), torch.load(tmp_path / "out" / "ckpt" / "model_step_4.pt", weights_only=True)
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert any(name.startswith("vision_encoder") for name in changed) and any("crossattention" in name for name in changed)


def test_other_objectives_train_beside_it(captioner, run_program, tmp_path):  # noqa: F811
    outcome = run_program(arguments(captioner, tmp_path / "out", "--scst_search", "beam", "--scst_baseline", "mean",
                                    task="ret%tv_cap%tv"))
    assert outcome.status == 0, outcome.text
    losses = read_jsonl(tmp_path / "out" / "log" / "metrics.jsonl")[-1]["losses"]
    assert {"itc", "itm", "cap", "reward.tv"} <= losses.keys() and "baseline.tv" not in losses


def test_broken_in_a_step_and_resumed_equals_unbroken(captioner, run_program, monkeypatch, tmp_path):  # noqa: F811
    flags = ("--save_every", "2", "--gradient_accumulation_steps", "2")
    assert run_program(arguments(captioner, tmp_path / "unbroken", *flags)).status == 0
    score, scored = CiderReward.__call__, []

    def breaks(self, *given):
        scored.append(given)
        if len(scored) == 13:  # two groups and two micro-batches a step: in the fourth and last step
            raise OSError("the machine is gone")
        return score(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(CiderReward, "__call__", breaks)
        with pytest.raises(OSError, match="the machine is gone"):
            run_program(arguments(captioner, tmp_path / "broken", *flags))
    again = [*arguments(captioner, tmp_path / "broken", *flags), "--checkpoint", "", "--resume", "true"]
    outcome = run_program(again)
    assert outcome.status == 0 and "resuming after step 2 of 4" in outcome.text, outcome.text
    one, other = (torch.load(tmp_path / name / "ckpt" / "model_step_4.pt", weights_only=True) for name in ("broken", "unbroken"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    logs = [read_jsonl(tmp_path / name / "log" / "metrics.jsonl") for name in ("broken", "unbroken")]
    assert [row["losses"] for row in logs[0]] == [row["losses"] for row in logs[1]]


def test_two_processes_train_as_one(run_program, tmp_path):
    weights = tmp_path / "model.pt"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        seed_everything("captioner")
        torch.save(build_model(load_config(["--config", TINY, *NOTHING_OF_ITS_OWN]).model_cfg).state_dict(), weights)
    two = Running(arguments(weights, tmp_path / "two", *NOTHING_OF_ITS_OWN), processes=2)
    assert run_program(arguments(weights, tmp_path / "one", *NOTHING_OF_ITS_OWN)).status == 0
    status, text = two.finish()
    assert status == 0, text
    one, other = (read_jsonl(tmp_path / name / "log" / "metrics.jsonl") for name in ("one", "two"))
    assert other[0]["losses"] == pytest.approx(one[0]["losses"], rel=1e-4, abs=1e-5)
    assert other[0]["grad_norm"] == pytest.approx(one[0]["grad_norm"], rel=1e-3) and one[0]["losses"]["reward"] > 0


def test_the_recipe_in_the_repository(monkeypatch):
    """It goes on from the cross-entropy recipe: the same clips and groups, tested on the validation set, before and after."""
    monkeypatch.chdir(ROOT)
    ordinary, scst = (load_config(["--config", f"config/omnistamps/quick/finetune_cap{name}.json"]) for name in ("", "_scst"))
    assert scst.run_cfg.scst_finetuning and scst.run_cfg.first_eval and scst.model_cfg == ordinary.model_cfg
    assert scst.data_cfg.train[0].txt == ordinary.data_cfg.train[0].txt and scst.data_cfg.train[0].task == ordinary.data_cfg.train[0].task
    assert scst.data_cfg.val[0].txt.endswith("cap_val.json") and scst.data_cfg.val[0].annfile.endswith("cap_val_references.json")
