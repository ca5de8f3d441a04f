"""The whole program on sixty clips in two processes that share the model out, beside one process."""

import json

import pytest

from omnivast.utils.log import read_jsonl
from tests.e2e.program import Running, results
from tests.e2e.test_processes import NOTHING_OF_ITS_OWN


def test_fsdp_trains_and_evaluates_as_one_process(clips, run_program, tmp_path):
    two = Running(clips.train(tmp_path / "two", *NOTHING_OF_ITS_OWN, "--parallel", "fsdp", "--test_batch_size", "5"), processes=2)
    assert run_program(clips.only_train(tmp_path / "one", *NOTHING_OF_ITS_OWN)).status == 0
    status, text = two.finish()
    assert status == 0, text
    one, other = (read_jsonl(tmp_path / name / "log" / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) == len(other) == 10
    assert other[0]["losses"] == pytest.approx(one[0]["losses"], rel=1e-5)
    # Sums in another order differ in the last digits, which training amplifies.
    for mine, theirs in zip(one, other):
        assert theirs["losses"] == pytest.approx(mine["losses"], rel=2e-3, abs=2e-3), f"step {mine['step']}"
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=2e-3), f"step {mine['step']}"

    ckpt = tmp_path / "two" / "ckpt"
    assert {path.name for path in (ckpt / "optimizer_step_10").iterdir()} == {".metadata", "__0_0.distcp", "__1_0.distcp"}
    assert json.loads((ckpt / "latest.json").read_text())["step"] == 10
    assert run_program(clips.test(ckpt / "model_step_10.pt", tmp_path / "test", *NOTHING_OF_ITS_OWN)).status == 0
    assert results(tmp_path / "test" / "results") == results(tmp_path / "two" / "results" / "step_10")


def test_deepspeed_asks_for_its_settings(clips, run_program, tmp_path):
    outcome = run_program(clips.only_train(tmp_path / "run", "--parallel", "deepspeed"))
    assert outcome.status == 2 and "run_cfg.deepspeed_config, its JSON file, is not set" in outcome.text
