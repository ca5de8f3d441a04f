"""What is wrong is named, before any training starts where possible, in words that a newcomer understands, and with status 2."""

import json
import os
import pickle
import shutil
import signal

import pytest
import torch

from omnivast.utils.log import read_jsonl
from tests.e2e.program import ROOT, TINY, finish, launch, results
from tests.media_factory import write_video


@pytest.fixture
def refused(run_program):
    """Runs what must be refused, and returns the message."""

    def run(arguments):
        outcome = run_program(arguments)
        assert outcome.status == 2, outcome.text
        assert "Traceback" not in outcome.text
        return outcome.text

    return run


@pytest.fixture
def tiny(tmp_path):
    """Writes a changed config/debug/tiny.json."""

    def write(change=None, text=None):
        content = json.loads((ROOT / TINY).read_text())
        if change:
            change(content)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(content) if text is None else text)
        return ["--config", str(path), "--output_dir", str(tmp_path / "out")]

    return write


def changed_clips(clips, folder, changes):
    """The folder of clips with other bytes, or nothing (None), for some."""
    folder.mkdir()
    for path in (clips.folder / "clips").iterdir():
        content = changes.get(path.stem, path)
        if content is path:
            os.symlink(path, folder / path.name)
        elif content is not None:
            (folder / path.name).write_bytes(content)
    return folder


def with_vision(folder, which, number):
    return [word for index in range(number) for word in (f"--data_cfg.{which}.{index}.vision", str(folder))]


# ------------------------------------------------------------------------------------------------------- as a real process


def test_the_command_line_ends_with_status_2_and_no_traceback(clips, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    status, text = finish(launch(clips.test(tmp_path / "evil.pt", tmp_path / "out")))
    assert status == 2 and "could run code when read" in text and "Traceback" not in text, text
    assert not (tmp_path / "executed").exists()


# ---------------------------------------------------------------------------------------------------------- configs, flags


def test_misspelt_key(refused, tiny):
    text = refused(tiny(lambda c: c["model_cfg"].update(contra_dmi=64)))
    assert "config.json: unknown key 'contra_dmi' in model_cfg" in text and "'contra_dim'" in text


@pytest.mark.parametrize(("flags", "words"), [
    (["--train_btach_size", "4"], "Did you mean '--train_batch_size'?"),
    (["--model_cfg.contra_dims", "4"], "Did you mean '--model_cfg.contra_dim'?"),
    (["--learning_rate", "fast"], "--learning_rate: expected float, got 'fast'"),
    (["--train_steps", "2.5"], "--train_steps: expected int or null, got '2.5'"),
    (["--train_task", "ret%tvx"], "tvx"),
    (["--train_task", "ret%"], "group"),
    (["--train_task", "rte%tv"], "ret"),
    (["--data_cfg.train.0.vision", "null"], "'vision', the folder of videos or images, is not set"),
    (["--data_cfg.train.0.audio_sample_num", "null"], "'audio_sample_num', the sound slices per clip, is not set"),
    (["--model_cfg.audio_encoder_type", "null"], "needs audio"),
])
def test_flags(refused, clips, tmp_path, flags, words):
    assert words in refused(clips.train(tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


def test_wrong_type_in_a_file(refused, tiny):
    text = refused(tiny(lambda c: c["data_cfg"]["train"][0].update(batch_size="eight")))
    assert "config.json: data_cfg.train[0].batch_size: expected int, got 'eight'" in text


def test_missing_default_file_and_cycle(refused, tiny, tmp_path):
    missing = tmp_path / "nowhere.json"
    text = refused(tiny(lambda c: c["run_cfg"].update(default=str(missing))))
    assert f"the default file {missing} does not exist" in text and "config.json" in text
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps({"default": str(two)}))
    two.write_text(json.dumps({"default": str(one)}))
    text = refused(tiny(lambda c: c["run_cfg"].update(default=str(one))))
    assert "form a cycle" in text and f"{one} -> {two} -> {one}" in text


def test_config_that_is_absent_or_no_json(refused, tiny, tmp_path):
    assert "absent.json: no such file" in refused(["--config", str(tmp_path / "absent.json")])
    assert "config.json: not JSON: line 2" in refused(tiny(text='{"run_cfg": {},\n model_cfg: {}}'))


# -------------------------------------------------------------------------------------------------- annotations and folders


def rows_of(clips):
    return json.loads((clips.folder / "pretrain_train.json").read_text())


def without(row, *keys):
    return {key: value for key, value in row.items() if key not in keys}


@pytest.mark.parametrize(("change", "words"), [
    (lambda rows: [without(rows[0], "clip_id"), *rows[1:]], "has no id"),
    (lambda rows: [rows[0], without(rows[1], "vast_cap", "vision_cap", "audio_cap"), *rows[2:]], "no caption"),
    (lambda rows: [{**rows[0], "subtitel": "x"}, *rows[1:]], "unknown field 'subtitel'"),
    (lambda rows: [], "the list is empty"),
    (lambda rows: {"a": 1}, "expected a JSON list"),
])
def test_annotations(refused, clips, tmp_path, change, words):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(change(rows_of(clips))))
    text = refused(clips.train(tmp_path / "out", "--data_cfg.train.0.txt", str(file)))
    assert words in text and str(file) in text
    assert not list((tmp_path / "out").rglob("metrics.jsonl"))


def test_annotations_that_are_no_json_or_absent(refused, clips, tmp_path):
    file = tmp_path / "rows.json"
    file.write_text("[{\n'clip_id': 1}]")
    assert f"{file}: not JSON: line 2" in refused(clips.train(tmp_path / "out", "--data_cfg.train.0.txt", str(file)))
    assert "no such annotation file" in refused(clips.train(tmp_path / "out", "--data_cfg.val.0.txt", str(tmp_path / "absent.json")))


def test_missing_or_wrong_media_folder(refused, clips, tmp_path):
    text = refused(clips.train(tmp_path / "out", *with_vision(tmp_path / "absent", "train", 1)))
    assert f"its vision folder '{tmp_path / 'absent'}' does not exist" in text
    (tmp_path / "empty").mkdir()
    assert "none of its first" in refused(clips.train(tmp_path / "out", *with_vision(tmp_path / "empty", "val", 1)))


# ------------------------------------------------------------------------------------------------------------ broken clips


@pytest.fixture
def broken(clips, tmp_path):
    """Of the 12 test clips one is empty, one truncated, one text, and one is not there."""
    whole = (clips.folder / "clips" / "test00001.mp4").read_bytes()
    changes = {"test00000": b"", "test00001": whole[:len(whole) // 2], "test00002": b"this is not a video\n" * 50, "test00003": None}
    return changed_clips(clips, tmp_path / "broken", changes)


def test_broken_clips_end_a_test_with_the_list(refused, clips, weights, broken, tmp_path):
    text = refused(clips.test(weights, tmp_path / "out", *with_vision(broken, "val", 3)))
    assert "skip_unreadable" in text and "testing omnistamps_ret" not in text  # before any clip is tested
    for number, reason in ((0, "the file is empty"), (1, "truncated"), (3, "no such")):
        assert f"test0000{number}" in text and reason in text
    assert not list((tmp_path / "out").rglob("results/*.json"))


def test_broken_clips_are_left_out_when_told(run_program, clips, weights, broken, tmp_path):
    outcome = run_program(clips.test(weights, tmp_path / "out", *with_vision(broken, "val", 3), "--skip_unreadable", "true"))
    assert outcome.status == 0 and "4 unreadable clips were left out" in outcome.text
    for path in (tmp_path / "out" / "results").glob("*.json"):
        content = json.loads(path.read_text())
        assert {clip for clip, _ in content["protocol"]["unreadable"]} == {f"test0000{n}" for n in range(4)}
        assert {entry["clip_id"] for entry in content["predictions"]} == {f"test{n:05d}" for n in range(4, 12)}


def test_broken_test_clips_are_told_of_before_the_training(refused, clips, broken, tmp_path):
    text = refused(clips.train(tmp_path / "out", *with_vision(broken, "val", 3)))
    assert "dataset 'omnistamps_ret': 3 unreadable clip(s)" in text and "skip_unreadable" in text and "the file is empty" in text
    assert not list((tmp_path / "out").rglob("metrics.jsonl"))


def test_a_test_that_is_interrupted_ends_in_a_line(run_program, clips, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("omnivast.launch.evaluate_weights", lambda *_: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which is another one where tests run in the background
    try:
        outcome = run_program(clips.test(weights, tmp_path / "out"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.status == 130 and "KeyboardInterrupt: stopped" in outcome.text and "Traceback" not in outcome.text


def test_a_broken_clip_is_replaced_in_training(run_program, clips, tmp_path):
    folder = changed_clips(clips, tmp_path / "broken", {"train00007": b"", "train00008": b"text"})
    outcome = run_program(clips.only_train(tmp_path / "out", *with_vision(folder, "train", 2)))
    assert outcome.status == 0 and "could not be read so far and were replaced" in outcome.text
    rows = read_jsonl(tmp_path / "out" / "log" / "unreadable.jsonl")
    assert {row["clip_id"] for row in rows} == {"train00007", "train00008"}
    assert set(rows[0]) == {"step", "corpus", "clip_id", "reason"} and any("empty" in row["reason"] for row in rows)
    assert len(read_jsonl(tmp_path / "out" / "log" / "metrics.jsonl")) == 10


def test_too_many_broken_clips_end_a_training(refused, clips, tmp_path):
    folder = changed_clips(clips, tmp_path / "broken", {f"train{n:05d}": b"" for n in range(0, 40, 4)})
    text = refused(clips.only_train(tmp_path / "out", *with_vision(folder, "train", 2), "--train_steps", "20"))
    assert "max_unreadable" in text and "unreadable.jsonl" in text
    assert len(read_jsonl(tmp_path / "out" / "log" / "metrics.jsonl")) < 40


def test_clips_without_sound_or_with_few_frames_are_fine(run_program, clips, weights, tmp_path):
    silent = write_video(tmp_path / "silent.mp4", frames=16, size=64, sound=False).read_bytes()
    short = write_video(tmp_path / "short.mp4", frames=1, size=64, sound=True).read_bytes()
    folder = changed_clips(clips, tmp_path / "odd", {"test00000": silent, "test00001": short, "train00000": silent, "train00001": short})
    outcome = run_program(clips.test(weights, tmp_path / "test", *with_vision(folder, "val", 3)))
    assert outcome.status == 0, outcome.text
    assert len(results(tmp_path / "test" / "results")["omnistamps_cap.cap"]["predictions"]) == 12
    outcome = run_program(clips.only_train(tmp_path / "train", *with_vision(folder, "train", 2)))
    assert outcome.status == 0, outcome.text
    assert not read_jsonl(tmp_path / "train" / "log" / "unreadable.jsonl")


# ------------------------------------------------------------------------------------------------------------- checkpoints


def test_absent_checkpoint(refused, clips, trained, tmp_path):
    absent = trained / "ckpt" / "model_step_11.pt"
    assert f"no weights at {absent}" in refused(clips.test(absent, tmp_path / "out"))
    text = refused(clips.train(tmp_path / "out", "--pretrain_dir", str(tmp_path / "nothing")))
    assert str(tmp_path / "nothing") in text


def test_checkpoint_of_another_shape(refused, clips, weights, tmp_path):
    text = refused(clips.test(weights, tmp_path / "out", "--model_cfg.contra_dim", "32"))
    assert "have another shape" in text and "contra_head_t.linear.weight: file (64, 64), model (32, 64)" in text


def test_truncated_checkpoint(refused, clips, weights, tmp_path):
    (tmp_path / "half.pt").write_bytes(weights.read_bytes()[:5000])
    assert "not a readable checkpoint" in refused(clips.test(tmp_path / "half.pt", tmp_path / "out"))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_checkpoint_is_not_executed(refused, clips, tmp_path, legacy):
    file = tmp_path / "evil.pt"
    if legacy:
        file.write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    else:
        torch.save({"weight": torch.zeros(1), "x": Evil(tmp_path / "executed")}, file)
    text = refused(clips.train(tmp_path / "out", "--checkpoint", str(file)))
    assert str(file) in text and "refused" in text
    assert not (tmp_path / "executed").exists()


def test_malicious_state_is_not_executed_when_resuming(refused, clips, trained, tmp_path):
    shutil.copytree(trained / "ckpt", tmp_path / "out" / "ckpt")
    torch.save({"step": 10, "x": Evil(tmp_path / "executed")}, tmp_path / "out" / "ckpt" / "state_step_10.pt")
    (tmp_path / "out" / "ckpt" / "latest.json").unlink()
    text = refused(clips.train(tmp_path / "out", "--resume", "true"))
    assert "state_step_10.pt" in text and "refused" in text
    assert not (tmp_path / "executed").exists()


# ------------------------------------------------------------------------------------------------------------------ output


def test_output_folder_that_cannot_be_written(refused, clips, tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        text = refused(clips.train(output))
        assert f"the output folder '{output}' cannot be written" in text and "--output_dir" in text
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ckpt").write_text("")
    assert "cannot be written" in refused(clips.train(tmp_path / "out"))
