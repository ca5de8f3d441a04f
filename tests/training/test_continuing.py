"""A resumed run on changed data, and one that is made longer."""

import json
import logging

import pytest
import torch

from omnivast.training import continuing
from omnivast.training.checkpoints.checkpoint import CheckpointError
from omnivast.training.loop import train
from tests.training.toy import Loader, Toy, config


def changed(total=8, **identity):
    loader = Loader(total=total)
    loader.corpora[1].identity |= {"sha256": "b", **identity}
    return loader


def test_changed_data_are_refused_with_both_ways_on(tmp_path):
    train(config(tmp_path), Toy(), Loader())
    train(config(tmp_path, resume=True), Toy(), changed())  # the file differs, its rows do not
    now = changed(rows=18, marks="0123456789abcdef" * 2 + "f" * 16 + "0123456789abcdef" * 2)
    with pytest.raises(CheckpointError, match=r"(?s)training data changed.*'corpus1': a.json: 20 rows, now 18, the first that differs "
                                              r"among rows 8 to 11.*put the old data back.*--resume_changed_data true") as error:
        train(config(tmp_path, resume=True), Toy(), now)
    assert "corpus0" not in str(error.value)


def test_changed_data_that_are_accepted_go_on(tmp_path, caplog):
    """With the steps that were planned, though an epoch of other rows would have others; unreadable clips are counted anew."""
    loader = Loader()
    loader.unreadable = {1: 3}
    train(config(tmp_path, save_every=3, keep_last=8), Toy(), loader)
    for path in (tmp_path / "ckpt").glob("*_step_[4-8].pt"):
        path.unlink()
    now = changed(total=6, marks="f" * 80)
    summary = train(config(tmp_path, resume=True, resume_changed_data=True), Toy(), now)
    assert summary["resumed_from"] == 3 and summary["step"] == 8 and "the training data changed, which" in caplog.text
    state = torch.load(tmp_path / "ckpt" / "state_step_8.pt", weights_only=True)
    assert state["counters"]["unreadable"] == 0 and state["data"]["corpus1"]["marks"] == "f" * 80 and state["plan"] == [[4, 4]]
    train(config(tmp_path, resume=True), Toy(), changed(total=6, marks="f" * 80))  # from now on these are its data


def test_a_checkpoint_of_an_older_version_is_not_compared(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "omnivast"):
        assert not continuing.check_data({}, Loader().corpora, False, tmp_path)
    assert "older version" in caplog.text


def test_a_finished_run_is_made_longer(tmp_path, caplog):
    """Weights, optimiser and order of the data go on, the learning rate as the longer schedule says."""
    train(config(tmp_path, num_train_steps=8), Toy(), Loader())
    steps = []
    loader = Loader(total=12)
    loader.on_step = steps.append
    again = config(tmp_path, num_train_steps=12, resume=True)
    summary = train(again, Toy(), loader)
    assert summary["resumed_from"] == 8 and summary["step"] == 12 and steps == [8, 9, 10, 11]
    assert ("the run is made longer: 12 steps instead of 8, 8 of them done" in caplog.text
            and "was 0.123 of its peak at step 8, is 0.342 at step 9, and falls towards 0 until step 12" in caplog.text)
    rows = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13)) and max(rows[8]["lr"].values()) == pytest.approx(0.01 * (1 - 9 / 13) / 0.9)
    assert json.loads((tmp_path / "log" / "hps.json").read_text())["run_cfg"]["num_train_steps"] == 12
    state = torch.load(tmp_path / "ckpt" / "state_step_12.pt", weights_only=True)
    assert state["plan"] == [[4, 4], [6, 6]]
    assert state["optimizer"]["state"][0]["step"] == 12
    train(again, Toy(), Loader(total=12))  # nothing is left, and nothing is refused


def test_a_run_cannot_be_made_shorter_nor_changed_otherwise(tmp_path):
    train(config(tmp_path, num_train_steps=8), Toy(), Loader())
    with pytest.raises(CheckpointError, match="'corpus0' 4 → 3, 'corpus1' 4 → 3, 8 steps are done, 6 asked for. Give at least as many"):
        train(config(tmp_path, num_train_steps=6, resume=True), Toy(), Loader(total=6))
    with pytest.raises(CheckpointError, match="run_cfg.seed: 50, now 51"):
        train(config(tmp_path, num_train_steps=12, seed=51, resume=True), Toy(), Loader(total=12))


def test_older_checkpoints_are_made_longer_where_the_order_is_known(tmp_path):
    one, two = Loader(total=12, tasks=("ret%tv",)).corpora, Loader(total=12).corpora
    assert continuing.plan_of({"step": 8}, one, True, tmp_path) == [[8], [12]]
    assert continuing.plan_of({"step": 8}, two, False, tmp_path) == [[6, 6]]
    with pytest.raises(CheckpointError, match="older version"):
        continuing.plan_of({"step": 8}, two, True, tmp_path)
    with pytest.raises(CheckpointError, match="14 steps are done, 12 asked for"):
        continuing.plan_of({"step": 14}, one, True, tmp_path)


def test_a_longer_warm_up_is_told(tmp_path, caplog):
    continuing.tell_longer([[2], [100]], 2, config(tmp_path).run_cfg)
    assert "is 0.297 at step 3, and rises until step 10 (warmup_ratio) and then falls towards 0 until step 100" in caplog.text
