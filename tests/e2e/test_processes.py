"""The whole program on sixty clips in a group of two processes, beside one; and killed in the middle, then resumed."""

import json
import signal
from functools import partial

import pytest
import torch

from omnivast.utils.log import read_jsonl
from tests.e2e.accidents import prepare
from tests.e2e.program import Running, results

TEXT = "--model_cfg.text_encoder_cfg"
# What every process draws or counts for itself.
NOTHING_OF_ITS_OWN = (f"{TEXT}.hidden_dropout_prob", "0", f"{TEXT}.attention_probs_dropout_prob", "0",
                      "--model_cfg.audio_encoder_cfg.encoder_layerdrop", "0", "--model_cfg.vision_encoder_cfg.stem_norm", "group")


def test_two_processes_train_as_one(clips, run_program, tmp_path):
    two = Running(clips.only_train(tmp_path / "two", *NOTHING_OF_ITS_OWN), processes=2)
    assert run_program(clips.only_train(tmp_path / "one", *NOTHING_OF_ITS_OWN)).status == 0
    status, text = two.finish()
    assert status == 0, text
    one, other = (read_jsonl(tmp_path / name / "log" / "metrics.jsonl") for name in ("one", "two"))
    assert [row["corpus"] for row in one] == [row["corpus"] for row in other]
    assert other[0]["losses"] == pytest.approx(one[0]["losses"], rel=1e-5)
    # Sums in another order differ in the last digits, which training amplifies.
    for mine, theirs in zip(one, other):
        assert theirs["losses"] == pytest.approx(mine["losses"], rel=2e-3, abs=2e-3), f"step {mine['step']}"


def test_two_processes_evaluate_as_one(clips, run_program, tmp_path):
    """After training, where each process had running means of its own, and in testing."""
    status, text = Running(clips.train(tmp_path / "two"), processes=2).finish()
    assert status == 0, text
    weights = tmp_path / "two" / "ckpt" / "model_step_10.pt"
    two = Running(clips.test(weights, tmp_path / "test", "--test_batch_size", "6"), processes=2)
    assert run_program(clips.test(weights, tmp_path / "one")).status == 0
    status, text = two.finish()
    assert status == 0, text
    one = results(tmp_path / "one" / "results")
    assert set(one) == {"omnistamps_ret.ret", "omnistamps_cap.cap", "omnistamps_qa.qa"}
    assert results(tmp_path / "test" / "results") == one
    assert results(tmp_path / "two" / "results" / "step_10") == one
    protocol = json.loads((tmp_path / "test" / "results" / "omnistamps_ret.ret.json").read_text())["protocol"]
    assert protocol["processes"] == 2 and protocol["clips"] == 12


@pytest.mark.parametrize(("config", "steps"), [("tiny", 30), ("valor_tiny", 12), ("gram_tiny", 12)])
def test_killed_and_resumed_equals_unbroken(clips, run_program, tmp_path, config, steps):
    config = f"config/debug/{config}.json"
    flags = ("--num_train_steps", str(steps), "--save_every", "3")
    process = Running(clips.only_train(tmp_path / "broken", *flags, config=config), first=partial(prepare, tmp_path, "SIGKILL:0:9"))
    assert process.finish()[0] == -signal.SIGKILL
    saved = json.loads((tmp_path / "broken" / "ckpt" / "latest.json").read_text())["step"]
    assert saved == 6 and not (tmp_path / "broken" / "ckpt" / f"model_step_{steps}.pt").exists()

    outcome = run_program(clips.only_train(tmp_path / "broken", *flags, "--resume", "true", config=config))
    assert outcome.status == 0 and f"resuming after step {saved} of {steps}" in outcome.text
    assert run_program(clips.only_train(tmp_path / "unbroken", *flags, config=config)).status == 0
    one, other = (torch.load(tmp_path / name / "ckpt" / f"model_step_{steps}.pt", weights_only=True) for name in ("broken", "unbroken"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [read_jsonl(tmp_path / name / "log" / "metrics.jsonl") for name in ("broken", "unbroken")]
    assert [(row["step"], row["losses"]) for row in logs[0]] == [(row["step"], row["losses"]) for row in logs[1]]
