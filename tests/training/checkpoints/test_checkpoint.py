import json
import os
import pickle
import random
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import omnivast
from omnivast.training.checkpoints import checkpoint
from omnivast.training.checkpoints.checkpoint import (
    CheckpointError,
    OutputDirError,
    check_config,
    check_output_dir,
    load_latest,
    mark_best,
    save,
)


def model(step):
    return {"weight": torch.full((3,), float(step)), "steps": torch.tensor(step)}


def state(step):
    return {"step": step, "config_hash": "abc", "config": {"run_cfg": {"seed": 1}}, "optimizer": {"state": {}, "param_groups": []},
            "scaler": {}, "random": checkpoint.random_states(), "counters": {}, "best": None, "processes": 1}


def write(folder, *steps, keep=True):
    for step in steps:
        save(folder, step, model(step), state(step), keep=None if keep else 1)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path):
    write(tmp_path, 5)
    loaded = load_latest(tmp_path)
    assert loaded.step == 5 and loaded.model["weight"].tolist() == [5.0] * 3
    assert loaded.state["config"] == {"run_cfg": {"seed": 1}} and loaded.state["counters"] == {}
    record = json.loads((tmp_path / "latest.json").read_text())
    assert record["step"] == 5 and record["pairs"][0]["model"]["bytes"] == (tmp_path / "model_step_5.pt").stat().st_size


def test_the_model_file_is_a_plain_state_dict(tmp_path):
    write(tmp_path, 5)
    assert torch.load(tmp_path / "model_step_5.pt", weights_only=True).keys() == {"weight", "steps"}


def test_the_state_notes_the_version_that_wrote_it_and_nothing_needs_it(tmp_path):
    write(tmp_path, 5)
    state = load_latest(tmp_path).state
    assert state["version"] == omnivast.__version__ and "version" not in checkpoint.STATE_KEYS
    del state["version"]  # as older ones are
    torch.save(state, tmp_path / "state_step_5.pt")
    (tmp_path / "latest.json").unlink()
    assert load_latest(tmp_path).state.keys() == state.keys()


def test_older_ones_are_removed_only_when_asked(tmp_path):
    write(tmp_path, 1, 2)
    assert names(tmp_path) == ["latest.json", "model_step_1.pt", "model_step_2.pt", "state_step_1.pt", "state_step_2.pt"]
    write(tmp_path, 3, keep=False)
    assert names(tmp_path) == ["latest.json", "model_step_3.pt", "state_step_3.pt"]


def test_nothing_there(tmp_path):
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "absent") is None


def test_generators_go_on_where_they_were():
    states = checkpoint.random_states()
    drawn = [torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()]
    checkpoint.set_random_states(states)
    assert [torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()] == drawn


@pytest.mark.parametrize("name", ["model", "state"])
@pytest.mark.parametrize(("damage", "word"), [("truncate", "truncated"), ("edit", "changed"), ("remove", "missing")])
def test_damaged_alone_is_refused_with_its_name(tmp_path, name, damage, word):
    write(tmp_path, 5)
    path = tmp_path / f"{name}_step_5.pt"
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[:-100])
    elif damage == "edit":
        path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=f"(?s){name}_step_5.pt.*{word}.*(Restore the files)"):
        load_latest(tmp_path)


def test_damaged_falls_back_to_the_one_before_and_says_so(tmp_path, caplog):
    write(tmp_path, 1, 2)
    (tmp_path / "model_step_2.pt").write_bytes(b"short")
    assert load_latest(tmp_path).step == 1
    assert "model_step_2.pt" in caplog.text and "using the checkpoint of step 1" in caplog.text


def test_damaged_record_is_replaced_by_what_the_pairs_say(tmp_path, caplog):
    write(tmp_path, 1, 2)
    (tmp_path / "latest.json").write_text('{"step": ')
    assert load_latest(tmp_path).step == 2
    (tmp_path / "model_step_2.pt").write_bytes(b"short")
    assert load_latest(tmp_path).step == 1
    assert "latest.json' is damaged" in caplog.text


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, recorded, plain):
    proof, folder = tmp_path / "executed", tmp_path / "ckpt"
    write(folder, 5)
    path = folder / "state_step_5.pt"
    if plain:
        path.write_bytes(pickle.dumps(Evil(proof)))
    else:
        torch.save({"step": 5, "evil": Evil(proof)}, path)
    if recorded:
        record = json.loads((folder / "latest.json").read_text())
        record["pairs"][0]["state"] |= {"bytes": path.stat().st_size, "sha256": checkpoint.sha256_file(path)}
        (folder / "latest.json").write_text(json.dumps(record))
    else:
        (folder / "latest.json").unlink()
    with pytest.raises(CheckpointError, match="refused and nothing in it was run"):
        load_latest(folder)
    assert not proof.exists()


def test_a_state_that_lacks_parts_is_refused(tmp_path):
    save(tmp_path, 3, model(3), {"step": 3})
    with pytest.raises(CheckpointError, match="lacks best, config"):
        load_latest(tmp_path)


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("keep", [None, 1, 2])
def test_killed_between_any_two_writes_the_old_one_stays_usable(tmp_path, monkeypatch, call, moment, keep):
    write(tmp_path, 0, 1)
    original, calls = checkpoint.write_atomically, []

    def killed(path, content):
        calls.append(path)
        if len(calls) == call and moment == "before":
            raise KeyboardInterrupt
        original(path, content)
        if len(calls) == call:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2, model(2), state(2), keep=keep)
    monkeypatch.undo()
    assert load_latest(tmp_path).step == (2 if (call, moment) == (3, "after") else 1)
    write(tmp_path, 2, keep=False)
    assert load_latest(tmp_path).step == 2 and names(tmp_path) == ["latest.json", "model_step_2.pt", "state_step_2.pt"]


def test_a_full_disk_is_a_clear_error(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(CheckpointError, match="No space left.*checkpoint of step 1 is intact.*--resume true"):
        write(tmp_path, 2)


@contextmanager
def files_of_at_most(size):
    """The system refuses to let any file grow beyond ``size`` bytes, as a disk that is full in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("part", ["model", "state"])
def test_a_disk_that_fills_in_the_middle_of_a_file(tmp_path, part):
    """What torch says when its archive cannot be ended does not hide the disk's error."""
    write(tmp_path, 1, 2)
    large = torch.zeros(500_000)
    content = {**model(3), **({"large": large} if part == "model" else {})}, {**state(3), **({"large": large} if part == "state" else {})}
    with files_of_at_most(1_000_000), pytest.raises(CheckpointError, match="step 3 could not be written.*File too large.*step 2 is intact"):
        save(tmp_path, 3, *content, keep=2)
    assert load_latest(tmp_path).step == 2 and not list(tmp_path.glob(".*"))
    save(tmp_path, 3, *content, keep=2)
    assert [pair.step for pair in checkpoint.committed(tmp_path)] == [3, 2] and load_latest(tmp_path).step == 3


@pytest.mark.parametrize("keep", [1, 3])
def test_a_folder_that_has_become_read_only(tmp_path, monkeypatch, keep, caplog):
    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    write(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("omnivast.utils.files.tempfile.mkstemp", refuse)
        with pytest.raises(CheckpointError, match="Read-only file system.*step 1 is intact.*make the folder writable.*--resume true"):
            save(tmp_path, 2, model(2), state(2), keep=keep)
        with pytest.raises(CheckpointError, match="best model could not be kept.*Read-only file system.*step 1 is intact"):
            mark_best(tmp_path, 1, [1], {"metric": "r1"})
    assert load_latest(tmp_path).step == 1
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Path, "unlink", refuse)
        save(tmp_path, 2, model(2), state(2), keep=1)
    assert load_latest(tmp_path).step == 2 and "an older checkpoint could not be removed" in caplog.text
    save(tmp_path, 3, model(3), state(3), keep=1)
    assert names(tmp_path) == ["best_r1.pt", "latest.json", "model_step_3.pt", "state_step_3.pt"]


def test_a_best_model_marked_again_leaves_no_temporary_name(tmp_path):
    """Renaming one name of a file to another of its names does nothing, and leaves both."""
    write(tmp_path, 1)
    for _ in range(2):
        mark_best(tmp_path, 1, [1], {"metric": "r1"}, keep=2)
    assert names(tmp_path) == ["best.json", "best_r1.pt", "best_r1_step_1.pt", "latest.json", "model_step_1.pt", "state_step_1.pt"]


def test_best_is_kept_when_its_step_is_removed(tmp_path):
    write(tmp_path, 1)
    mark_best(tmp_path, 1, [1], {"metric": "r1", "value": 3.0})
    write(tmp_path, 2, keep=False)
    assert torch.load(tmp_path / "best_r1.pt", weights_only=True)["weight"].tolist() == [1.0] * 3
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 1, "metric": "r1", "value": 3.0}


def test_best_without_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("no links here")

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    write(tmp_path, 1)
    mark_best(tmp_path, 1, [1], {"metric": "a/b c.ret.r1"})
    assert (tmp_path / "best_a_b_c.ret.r1.pt").read_bytes() == (tmp_path / "model_step_1.pt").read_bytes()


def test_leftovers_of_killed_saves_are_removed(tmp_path):
    write(tmp_path, 1)
    (tmp_path / ".model_step_2.pt.abc.tmp").write_bytes(b"half")
    checkpoint.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["latest.json", "model_step_1.pt", "state_step_1.pt"]


def test_another_config_is_refused_with_its_differences(tmp_path):
    from omnivast.training.loop import config_hash, resolved
    from tests.training.toy import config

    old, new = config(tmp_path), config(tmp_path, learning_rate=0.5)
    saved = {"config_hash": config_hash(old), "config": resolved(old)}
    check_config(saved, config_hash(config(tmp_path / "elsewhere", log_steps=7)), resolved(new), tmp_path)
    with pytest.raises(CheckpointError, match="(?s)another config.*run_cfg.learning_rate: 0.01, now 0.5.*--output_dir") as error:
        check_config(saved, config_hash(new), resolved(new), tmp_path)
    assert "seed" not in str(error.value)
    longer = config(tmp_path, num_train_steps=9)
    assert check_config(saved, config_hash(longer), resolved(longer), tmp_path) and not check_config(saved, config_hash(old), {}, tmp_path)


def test_the_precision_of_a_run_is_read_from_its_newest_good_state(tmp_path):
    assert checkpoint.kept_precision(tmp_path) is None
    folder = tmp_path / "ckpt"
    folder.mkdir()
    for step, run in ((2, {"bf16": False, "fp16": False}), (4, {"precision": "bf16"})):
        torch.save({"config": {"run_cfg": run}, "optimizer": torch.zeros(9)}, folder / f"state_step_{step}.pt")
    assert checkpoint.kept_precision(tmp_path) == "bf16"
    (folder / "state_step_4.pt").write_bytes((folder / "state_step_4.pt").read_bytes()[:200])
    assert checkpoint.kept_precision(tmp_path) == "float32"


def test_output_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputDirError, match="file/run' cannot be written.*--output_dir"):
        check_output_dir(tmp_path / "file" / "run")


def test_output_dir_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied", str(tmp_path / "ckpt"))

    monkeypatch.setattr(checkpoint.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OutputDirError, match="Permission denied"):
        check_output_dir(tmp_path)


def test_output_dir_of_another_run(tmp_path):
    check_output_dir(tmp_path, new_run=True)
    check_output_dir(tmp_path, new_run=True)
    write(tmp_path / "ckpt", 7)
    check_output_dir(tmp_path)
    with pytest.raises(OutputDirError, match="step 7.*--resume true, or choose another --output_dir"):
        check_output_dir(tmp_path, new_run=True)
