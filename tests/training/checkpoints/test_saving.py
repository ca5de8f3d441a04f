"""Which checkpoints and best models are kept, saving by the clock, and saving in the background."""

import json
import os
import signal
import threading
import time

import pytest
import torch

from omnivast.training.checkpoints import checkpoint, saving
from omnivast.training.checkpoints.checkpoint import CheckpointError, OutputDirError
from omnivast.training.checkpoints.saving import HostCopies, Saver
from omnivast.training.loop import train
from omnivast.utils.log import JsonlWriter, read_jsonl
from tests.training.checkpoints.test_checkpoint import files_of_at_most
from tests.training.test_loop import KilledError, kill_at, metrics, same, scores
from tests.training.toy import Loader, Toy, config


def steps_on_disk(folder):
    return sorted(int(path.stem.split("_")[-1]) for path in (folder / "ckpt").glob("state_step_*.pt"))


def committed(folder):
    return [pair.step for pair in checkpoint.committed(folder / "ckpt")]


@pytest.mark.parametrize(("settings", "kept"), [
    ({}, [8]), ({"remove_before_ckpt": False}, [2, 4, 6, 8]), ({"keep_last": 1}, [8]), ({"keep_last": 3}, [4, 6, 8]),
    ({"keep_last": 3, "async_save": True}, [4, 6, 8]), ({"keep_last": 9}, [2, 4, 6, 8])])
def test_the_newest_checkpoints_are_kept(tmp_path, settings, kept):
    train(config(tmp_path, save_every=2, **settings), Toy(), Loader())
    assert steps_on_disk(tmp_path) == kept and committed(tmp_path) == kept[::-1]


def test_of_those_kept_any_good_one_is_resumed_from(tmp_path, caplog):
    train(config(tmp_path, save_every=1, keep_last=3), model := Toy(), Loader())
    for step in (7, 8):
        (tmp_path / "ckpt" / f"model_step_{step}.pt").write_bytes(b"damaged")
    summary = train(config(tmp_path, save_every=1, keep_last=3, resume=True), resumed := Toy(), Loader())
    assert summary["resumed_from"] == 6 and "using the checkpoint of step 6" in caplog.text
    same(model.state_dict(), resumed.state_dict())
    assert steps_on_disk(tmp_path) == [6, 7, 8]


def best_of(values):
    return lambda step: {"toy.r1": values[step]}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_best_models_are_kept(tmp_path, asynchronous):
    values = {1: 3.0, 2: 5.0, 3: 5.0, 4: 1.0, 5: float("nan"), 6: 9.0, 7: 4.0, 8: 2.0}
    all_kept = {"remove_before_ckpt": False, "valid_freq": 8, "async_save": asynchronous}
    train(config(tmp_path, keep_best=3, **all_kept), Toy(), Loader(), evaluate=best_of(values))
    ckpt = tmp_path / "ckpt"
    assert sorted(path.name for path in ckpt.glob("best*")) == [
        "best.json", "best_toy.r1.pt", *(f"best_toy.r1_step_{step}.pt" for step in (2, 3, 6))]
    for step in (2, 3, 6):
        assert (ckpt / f"best_toy.r1_step_{step}.pt").read_bytes() == (ckpt / f"model_step_{step}.pt").read_bytes()
    assert (ckpt / "best_toy.r1.pt").read_bytes() == (ckpt / "model_step_6.pt").read_bytes()
    assert json.loads((ckpt / "best.json").read_text()) == {
        "step": 6, "metric": "toy.r1", "value": 9.0, "metrics": {"toy.r1": 9.0}, "kept": [6, 2, 3]}


def test_the_best_models_of_a_resumed_run_are_those_of_an_unbroken_one(tmp_path):
    values = {1: 3.0, 2: 5.0, 3: 4.0, 4: 1.0, 5: 4.5, 6: 3.0, 7: 4.0, 8: 9.0}
    settings = {"keep_best": 2, "valid_freq": 8}
    train(config(tmp_path / "unbroken", **settings), Toy(), Loader(), evaluate=best_of(values))
    for kill in (4, 5, 7):
        kill_at(loader := Loader(), kill)
        with pytest.raises(KilledError):
            train(config(tmp_path / "broken", resume=True, **settings), Toy(), loader, evaluate=best_of(values))
    train(config(tmp_path / "broken", resume=True, **settings), Toy(), Loader(), evaluate=best_of(values))
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / name / "ckpt").glob("best*")} for name in ("unbroken", "broken"))
    assert one == other and {name for name in one if "step" in name} == {f"best_toy.r1_step_{step}.pt" for step in (2, 8)}


def test_another_primary_metric_begins_another_ranking(tmp_path):
    kill_at(loader := Loader(), 5)
    with pytest.raises(KilledError):
        train(config(tmp_path, save_best=True), Toy(), loader, evaluate=lambda step: {"a.ret.tv.itm.r1": 50.0})
    summary = train(config(tmp_path, save_best=True, resume=True), Toy(), Loader(), evaluate=lambda step: {"b.cap.tv.cider": 2.0})
    assert summary["best"] == {"step": 8, "metric": "b.cap.tv.cider", "value": 2.0}
    assert {path.name for path in (tmp_path / "ckpt").glob("best_*")} == {"best_a.ret.tv.itm.r1.pt", "best_b.cap.tv.cider.pt"}


def test_minutes_are_counted_from_the_last_save(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    saver = Saver(tmp_path, config(tmp_path, save_minutes=2.0).run_cfg, lambda: None)
    seen = []
    for now[0] in (100.0, 219.0, 220.0, 300.0):
        seen.append(saver.due())
    monkeypatch.setattr(checkpoint, "save", lambda *given, **named: None)
    saver.save(1, lambda: ({}, {}))
    for now[0] in (300.0, 419.0, 420.0):
        seen.append(saver.due())
    assert seen == [False, False, True, True, False, False, True]
    assert not Saver(tmp_path, config(tmp_path).run_cfg, lambda: None).due()


def test_a_training_saves_by_the_clock(tmp_path, monkeypatch):
    answers = iter([False, True, False, False, True, False, False, False])
    monkeypatch.setattr(Saver, "due", lambda self: next(answers))
    train(config(tmp_path, save_minutes=5.0, valid_freq=0, remove_before_ckpt=False), Toy(), Loader())
    assert steps_on_disk(tmp_path) == [2, 5, 8]


def test_copies_share_what_the_originals_share_and_nothing_else(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    wide = torch.arange(12.0).view(3, 4)
    state = {"model": model.state_dict(), "more": [wide.T, wide[1], (torch.empty(0), torch.tensor(3)), "text", None, 1.5]}
    copies = HostCopies()
    copy = copies.take(state)
    for name, content in (("one", state), ("two", copy)):
        torch.save(content, tmp_path / name)
    assert len((tmp_path / "one").read_bytes()) == len((tmp_path / "two").read_bytes())
    assert copy["model"]._metadata == state["model"]._metadata and copy["more"][3:] == ["text", None, 1.5]
    assert copy["model"]["0.weight"].data_ptr() == copy["model"]["1.weight"].data_ptr() != model[0].weight.data_ptr()
    assert torch.equal(copy["more"][0], wide.T) and copy["more"][0].stride() == wide.T.stride()
    with torch.no_grad():
        model[0].weight.zero_()
        wide.zero_()
    assert copy["model"]["0.weight"].abs().sum() > 0 and copy["more"][1].tolist() == [4.0, 5.0, 6.0, 7.0]
    again = copies.take(state)
    assert again["model"]["0.weight"].data_ptr() == copy["model"]["0.weight"].data_ptr() and again["more"][1].sum() == 0


@pytest.fixture
def gate(monkeypatch):
    """Holds each write back until the event is set; tells whether it was, in time."""
    event, in_time, original = threading.Event(), [], checkpoint.save

    def save(*given, **named):
        in_time.append(event.wait(300))
        original(*given, **named)

    monkeypatch.setattr(checkpoint, "save", save)
    return event, in_time


def test_steps_go_on_while_a_save_is_written_and_it_holds_the_weights_of_its_step(tmp_path, gate):
    """Each write ends only two steps later, when the weights have changed twice."""
    event, in_time = gate
    loader = Loader(total=12)

    def on_step(step):
        (event.clear if step % 3 == 0 else event.set if step % 3 == 2 else lambda: None)()

    loader.on_step = on_step
    settings = {"save_every": 3, "valid_freq": 0, "remove_before_ckpt": False}
    event.set()
    train(config(tmp_path / "sync", **settings), Toy(), Loader(total=12))
    in_time.clear()
    train(config(tmp_path / "async", async_save=True, **settings), Toy(), loader)
    assert in_time == [True] * 4
    assert metrics(tmp_path / "sync") == metrics(tmp_path / "async")
    for step in (3, 6, 9, 12):
        one, other = (tmp_path / name / "ckpt" / f"model_step_{step}.pt" for name in ("sync", "async"))
        assert one.read_bytes() == other.read_bytes()
        states = [torch.load(tmp_path / name / "ckpt" / f"state_step_{step}.pt") for name in ("sync", "async")]
        for index, values in states[0]["optimizer"]["state"].items():
            same(values, states[1]["optimizer"]["state"][index])
        assert states[0]["random"]["python"] == states[1]["random"]["python"] and states[0]["spikes"] == states[1]["spikes"]


@pytest.fixture
def slow(monkeypatch):
    original = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *given, **named: (time.sleep(0.1), original(*given, **named)))


def test_evaluations_and_the_end_wait_for_the_save(tmp_path, slow):
    seen = []
    train(config(tmp_path, async_save=True, save_best=True), Toy(), Loader(),
          evaluate=lambda step: seen.append((step, committed(tmp_path))) or scores(step))
    assert seen == [(4, [4]), (8, [8])] and (tmp_path / "ckpt" / "best_toy.ret.tv.itm.r1.pt").exists()
    train(config(tmp_path / "plain", async_save=True, valid_freq=0), Toy(), Loader())
    assert committed(tmp_path / "plain") == [8]


def test_being_stopped_waits_for_the_save(tmp_path, slow):
    loader = Loader()
    loader.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None
    with pytest.raises(SystemExit) as stopped:
        train(config(tmp_path, async_save=True), Toy(), loader)
    assert stopped.value.code == 143 and committed(tmp_path) == [3]


def test_an_error_in_training_lets_the_save_end(tmp_path, slow):
    kill_at(loader := Loader(), 3)
    with pytest.raises(KilledError):
        train(config(tmp_path, async_save=True, save_every=3), Toy(), loader)
    assert committed(tmp_path) == [3]
    assert train(config(tmp_path, async_save=True, save_every=3, resume=True), Toy(), Loader())["resumed_from"] == 3


def test_a_failed_save_is_raised_within_the_next_steps_and_the_one_before_is_good(tmp_path, monkeypatch):
    original, done = checkpoint.write_atomically, []

    def full(path, content):
        if path.name.startswith("state_step_4"):
            raise OSError(28, "No space left on device")
        return original(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    loader = Loader(total=40)
    loader.on_step = lambda step: done.append(step) or time.sleep(0.02)
    settings = {"async_save": True, "save_every": 2, "valid_freq": 0}
    with pytest.raises(CheckpointError, match="step 4 could not be written.*No space left.*step 2 is intact.*--resume true"):
        train(config(tmp_path, **settings), Toy(), loader)
    assert done[-1] < 8 and committed(tmp_path) == [2]
    monkeypatch.undo()
    assert train(config(tmp_path, resume=True, **settings), Toy(), Loader(total=40))["resumed_from"] == 2
    assert [row["step"] for row in read_jsonl(tmp_path / "log" / "metrics.jsonl")] == list(range(1, 41))


def test_a_disk_that_fills_under_a_save_in_the_background(tmp_path):
    train(config(tmp_path, save_every=2, keep_last=2, num_train_steps=4), Toy(), Loader(total=4))
    saver = Saver(tmp_path / "ckpt", config(tmp_path, async_save=True, keep_last=2).run_cfg, lambda: None)
    content = {"weight": torch.zeros(500_000)}, torch.load(tmp_path / "ckpt" / "state_step_4.pt")
    with files_of_at_most(1_000_000), saver:
        saver.save(6, lambda: content)
        with pytest.raises(CheckpointError, match="step 6 could not be written.*File too large.*step 4 is intact"):
            saver.wait()
    assert committed(tmp_path) == [4, 2] and not list((tmp_path / "ckpt").glob(".*"))
    saver.save(6, lambda: content)
    saver.wait()
    assert committed(tmp_path) == [6, 4] and checkpoint.load_latest(tmp_path / "ckpt").step == 6


def test_a_log_that_cannot_be_written_ends_the_run_with_what_to_do(tmp_path, monkeypatch):
    def full(self, row=None):
        if row is None or row["step"] == 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JsonlWriter, "append", full)
        with pytest.raises(OutputDirError, match="metrics.jsonl' cannot be written .No space left on device.*--resume true"):
            train(config(tmp_path, save_every=2), Toy(), Loader())
    assert committed(tmp_path) == [2]
    for asynchronous in (False, True):
        monkeypatch.setattr(JsonlWriter, "sync", full)
        with pytest.raises(OutputDirError, match="metrics.jsonl' cannot be written"):
            train(config(tmp_path, save_every=2, async_save=asynchronous, resume=True), Toy(), Loader())
    assert committed(tmp_path) == [2]


def test_saving_more_often_than_can_be_written_is_told_once(tmp_path, slow, caplog):
    train(config(tmp_path, async_save=True, save_every=1), Toy(), Loader())
    assert caplog.text.count("save less often") == 1 and committed(tmp_path) == [8]
