"""The command that captions one's own clips: which model, which groups, which config, and what is added later."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from omnivast import label as verb
from omnivast.config.load import load_config
from omnivast.config.tasks import Group, Modality
from omnivast.data.annotations.own_clips import OwnClip
from omnivast.evaluation import label
from tests.media_factory import write_image, write_json, write_video, write_wav

TRAIN = [{"name": "a", "task": "ret%tv_cap%tv%tva", "vision_sample_num": 4, "audio_sample_num": 2, "vision_transforms": "crop_flip"},
         {"name": "b", "task": "cap%ta_qa%tvas", "audio_sample_num": 3}, {"name": "old", "task": "something else"}]


@pytest.fixture
def run(tmp_path) -> Path:
    """The output folder of a training with the released defaults, without weights."""
    write_json(tmp_path / "run" / "log" / "hps.json", {"model_cfg": {"contra_dim": 99, "max_video_sample_num": 4},
                                                       "data_cfg": {"train": TRAIN}})
    (tmp_path / "run" / "ckpt").mkdir()
    (tmp_path / "run" / "ckpt" / "best_x.pt").write_bytes(b"x")
    return tmp_path / "run"


@pytest.fixture
def clips(tmp_path) -> Path:
    write_video(tmp_path / "clips" / "b" / "seen.mp4", frames=4, size=32, sound=False)
    write_video(tmp_path / "clips" / "both.mp4", frames=4, size=32)
    write_wav(tmp_path / "clips" / "heard.wav", seconds=0.2)
    write_image(tmp_path / "clips" / "picture.png", 32)
    return tmp_path / "clips"


@pytest.fixture
def labelled(monkeypatch):
    """run.py, replaced by one that captions every clip but the silent; the configs and flags that it was given."""
    calls = []

    def run(config, gpus, flags):
        calls.append((load_config(["--config", str(config), *flags]), gpus))
        for dataset in calls[-1][0].data_cfg.val:
            rows = json.loads(Path(dataset.txt).read_text())
            keys = [label.KEYS[group.caption_kind] for group in label.Task.parse(dataset.task).all_groups]
            ids = [label._id(row) for row in rows]
            folder = Path(calls[-1][0].run_cfg.output_dir, "results", dataset.name)
            made = [{"clip_id": own, **{key: [f"{key} of {own}"] for key in keys}} for own in ids if "seen" not in own]
            write_json(folder / "labels.json", made)
            write_json(folder / "unreadable.json", [{"clip_id": own, "reason": "dark"} for own in ids if "seen" in own])
        return 0

    monkeypatch.setattr(verb, "_run", run)
    return calls


def table(output: Path) -> list[list[str]]:
    with open(output / "labels.csv", encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def test_every_clip_by_the_group_that_fits(run, clips, labelled, tmp_path):
    assert verb.main([str(clips), "--model", str(run), "--output", str(tmp_path / "out"), "--seed", "3"]) == 0
    (config, gpus), = labelled
    found = {own.name: own for own in config.data_cfg.val}
    assert set(found) == {"videos_tv", "videos_tva", "sounds_ta", "images_tv"}
    both = found["videos_tva"]
    assert (both.vision, both.vision_sample_num, both.audio_sample_num, both.vision_transforms) == (str(clips), 4, 2, "crop_flip")
    assert found["images_tv"].vision_format == "image_rawimage" and found["images_tv"].vision_sample_num == 1
    assert (found["sounds_ta"].audio, found["sounds_ta"].vision, found["sounds_ta"].audio_sample_num) == (str(clips), None, 3)
    model = config.model_cfg
    assert (model.contra_dim, model.max_vision_sample_num) == (99, 4)  # as it was trained, older spellings too
    assert config.run_cfg.captioner_mode and (config.run_cfg.generate_nums, config.run_cfg.generate_by) == (1, "beam")
    assert config.run_cfg.seed == 3 and config.run_cfg.pretrain_dir == str(run) and config.run_cfg.checkpoint is None
    assert table(tmp_path / "out") == [
        ["clip", "kind", "group", "caption", "problem"], ["both.mp4", "video", "tva", "vast_cap of both.mp4", ""],
        ["heard.wav", "sound", "ta", "audio_cap of heard.wav", ""], ["picture.png", "image", "tv", "vision_cap of picture.png", ""],
        ["b/seen.mp4", "video", "", "", "dark"]]
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [row["clip_id"] for row in labels] == ["both.mp4", "heard.wav", "picture.png"]
    assert json.loads((tmp_path / "out" / "unreadable.json").read_text()) == [{"clip_id": "b/seen.mp4", "reason": "dark"}]


def test_what_was_added_gets_lists_of_its_own_and_other_wishes_are_refused(run, clips, labelled, tmp_path, caplog):
    command = [str(clips), "--model", str(run / "ckpt" / "best_x.pt"), "--output", str(tmp_path / "out")]
    assert verb.main(command) == 0 and labelled[0][0].run_cfg.checkpoint == str(run / "ckpt" / "best_x.pt")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "lists").iterdir()}
    os.rename(clips / "picture.png", clips / "other.png")
    write_video(clips / "new.mp4", frames=4, size=32)
    (clips / "both.srt").write_text("1\n00:00:01,0 --> 00:00:02,0\nhello\n")
    assert verb.main(command) == 0
    after = {path.name: path.read_bytes() for path in (tmp_path / "out" / "lists").iterdir()}
    assert after.items() > before.items() and json.loads(after["videos_tva-2.json"]) == ["new.mp4"]
    assert json.loads(after["images_tv-2.json"]) == ["other.png"] and len(after) == len(before) + 2
    for words, told in ((["--groups", "tv"], "holds labels by other groups: chosen by clip, now tv"),
                        ([str(tmp_path)], f"holds labels of clips in {clips}, now {tmp_path}")):
        caplog.clear()
        assert verb.main([*command[:1], *words, *command[1:]]) == 2 and told in caplog.text


def test_groups_that_are_asked_for(run, clips, labelled, tmp_path, caplog):
    command = [str(clips), "--model", str(run), "--output", str(tmp_path / "out")]
    assert verb.main([*command, "--captions", "2", "--groups", "va", "v", "ta"]) == 0
    config = labelled[0][0]
    assert {own.name: own.task for own in config.data_cfg.val} == {
        "videos_tva_tv": "cap%tva%tv", "videos_tva_tv_ta": "cap%tva%tv%ta", "sounds_ta": "cap%ta", "images_tv": "cap%tv"}
    assert (config.run_cfg.generate_nums, config.run_cfg.generate_by) == (2, "sample")
    assert ["both.mp4", "video", "tva", "vast_cap of both.mp4", ""] in table(tmp_path / "out")
    assert ["both.mp4", "video", "ta", "audio_cap of both.mp4", ""] in table(tmp_path / "out")
    assert verb.main([str(clips), "--model", str(run), "--output", str(tmp_path / "s"), "--groups", "tvs"]) == 0
    assert "was not trained to caption by tvs (but by tv, tva, ta): expect poor captions" in caplog.text
    assert "1 sound(s) are left out: nothing in them is what captions are made of here (tvs)" in caplog.text
    rows = json.loads((tmp_path / "s" / "lists" / "images_tvs.json").read_text())
    assert rows == [{"clip_id": "picture.png", "subtitle": ""}]


@pytest.mark.parametrize(("kind", "present", "groups", "chosen"), [
    ("video", "vas", "tv tva tvas", "tvas"), ("video", "va", "tv tvas tva", "tva"), ("video", "v", "tva tvas", "tva"),
    ("video", "a", "tv ta", "ta"), ("video", "v", "ta", ""), ("image", "v", "tva ta", ""), ("image", "v", "tvs tva", "tvs"),
    ("sound", "a", "tva tas", "tas"), ("sound", "as", "ta tas", "tas"), ("video", "vs", "tva tvs", "tvs")])
def test_the_group_that_lacks_least(kind, present, groups, chosen):
    clip = OwnClip("x", kind, frozenset(map(Modality, present)))
    assert list(map(str, label.choose(clip, [Group.parse(group) for group in groups.split()], every=False))) == chosen.split()


def test_models_that_cannot_label(run, clips, labelled, tmp_path, caplog):
    def told(model: Path, *flags: str) -> str:
        caplog.clear()
        assert verb.main([str(clips), "--model", str(model), "--output", str(tmp_path / "out"), *flags]) == 2
        assert len(caplog.messages) == 1 and not (tmp_path / "out").exists()
        return caplog.text

    assert "there is nothing at this path" in told(run / "ckpt" / "model_step_9.pt") and "expected the output folder" in told(clips)
    write_json(tmp_path / "test" / "log" / "hps_testing.json", {"run_cfg": {"checkpoint": "some/model.pt"}})
    assert "it holds a test of some/model.pt: name that" in told(tmp_path / "test")
    write_json(run / "log" / "hps.json", {"data_cfg": {"train": [{"task": "qa%tv"}]}})
    assert "was not trained to caption: no task of its data_cfg.train has 'cap' (qa%tv)" in told(run)
    write_json(run / "log" / "hps.json", {"data_cfg": {"train": TRAIN}})
    assert "unknown letter(s) x" in told(run, "--groups", "tx") and "at most one group" in told(run, "--groups", "tva", "tvas")
    (clips / "both.mp4").unlink()
    write_json(run / "log" / "hps.json", {"data_cfg": {"train": [{"task": "cap%ts"}]}})
    caplog.clear()
    assert verb.main([str(clips), "--model", str(run), "--output", str(tmp_path / "out")]) == 2
    assert "nothing to label" in caplog.text and not labelled


def test_the_command_line(run, capsys, monkeypatch):
    for pattern, name in (("clips/*.mp4", "clips"), ("list.txt", "list"), ("a/b/", "b")):
        assert verb._options([pattern, "--model", "x"])[0].output == Path("output/captions", name)
    options, flags = verb._options(["a", "b", "--model", "~/x", "--output_dir", "o", "--test_batch_size", "4"])
    assert (options.clips, flags, options.output) == (["a", "b"], ["--test_batch_size", "4"], Path("o")) and "~" not in str(options.model)
    for wrong in (["a"], ["a", "--model", "x", "--captions", "0"], ["a", "--model", "x", "--config", "c"]):
        with pytest.raises(SystemExit):
            verb._options(wrong)
    assert "--config: this command sets that itself" in capsys.readouterr().err
