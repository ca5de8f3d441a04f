"""config/debug/valor_tiny.json: VALOR trains by run.py on every objective, and its checkpoint gives the same test results."""

import json
import shutil

import torch

from omnivast.utils.log import read_jsonl
from tests.e2e.program import results

TINY = "config/debug/valor_tiny.json"


def test_valor_trains_and_is_tested(clips, run_program, tmp_path):
    trained = run_program(["--config", TINY, *clips.flags(), "--output_dir", str(tmp_path / "run")])
    assert trained.status == 0, trained.text
    rows = read_jsonl(tmp_path / "run" / "log" / "metrics.jsonl")
    found = {row["corpus"]: {name for name in row["losses"] if "." not in name} - {"loss"} for row in rows}
    assert found == {"omnistamps_pretrain": {"ret", "cap", "mlm"}, "omnistamps_qa": {"qa"}}
    weights = tmp_path / "run" / "ckpt" / "model_step_10.pt"
    tested = run_program(["--config", TINY, *clips.flags(), "--output_dir", str(tmp_path / "test"), "--mode", "testing", "--checkpoint",
                          str(weights)])
    assert tested.status == 0, tested.text
    again = results(tmp_path / "test" / "results")
    assert again.keys() == {"omnistamps_cap.cap", "omnistamps_qa.qa", "omnistamps_ret.ret"}
    beams = {name: json.loads((tmp_path / "test" / "results" / f"{name}.json").read_text())["protocol"]["beam_size"]
             for name in ("omnistamps_cap.cap", "omnistamps_qa.qa")}
    assert beams == {"omnistamps_cap.cap": 3, "omnistamps_qa.qa": 1}
    assert again == results(tmp_path / "run" / "results" / "step_10")


def test_resumed_it_ends_the_same(clips, run_program, tmp_path):
    """To the bit: weights, and the loss of every step."""
    def trained(folder, *more):
        done = run_program(["--config", TINY, *clips.flags(("train",)), "--valid_freq", "0", "--save_every", "4",
                            "--remove_before_ckpt", "false", "--num_train_steps", "6", "--data_cfg.val", "[]", "--save_best", "false",
                            "--output_dir", str(folder), *more])
        assert done.status == 0, done.text
        rows = {row["step"]: row["loss"] for row in read_jsonl(folder / "log" / "metrics.jsonl")}
        return rows, torch.load(folder / "ckpt" / "model_step_6.pt", weights_only=True)

    losses, weights = trained(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    (tmp_path / "again" / "ckpt" / "state_step_6.pt").unlink()
    again, resumed = trained(tmp_path / "again", "--resume", "true")
    assert again == losses and len(losses) == 6
    assert all(torch.equal(tensor, weights[name]) for name, tensor in resumed.items())
