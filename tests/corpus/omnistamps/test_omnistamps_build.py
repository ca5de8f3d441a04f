"""The OmniStamps builder: media, files, and going on after a kill."""

from __future__ import annotations

import json
import logging
import shutil

import av
import numpy as np
import pytest

from omnivast.corpus.omnistamps.__main__ import main
from omnivast.corpus.omnistamps.build import SOURCE, BuildError, build
from omnivast.corpus.omnistamps.compose import COLOURS, Job, frames_of, sound_of
from omnivast.corpus.omnistamps.facts import size_named


@pytest.fixture(scope="module")
def debug_set(tmp_path_factory):
    return build("debug", tmp_path_factory.mktemp("omnistamps") / "debug", workers=1)


def _decode(path):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        assert (stream.rate, stream.layout.name, stream.codec_context.name) == (16000, "mono", "aac")
        assert container.streams.video[0].codec_context.name == "h264"
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return np.stack(frames), sound


def test_decoded_media(debug_set):
    truth = json.loads((debug_set / "clips.json").read_text())
    assert len(truth) == 44
    for row in truth[::8]:
        frames, sound = _decode(debug_set / "clips" / f"{row['clip_id']}.mp4")
        assert frames.shape == (16, 128, 128, 3)
        assert 1.95 <= len(sound) / 16000 <= 2.2 and np.sqrt(np.mean(sound**2)) > 0.005
        corner = np.median(frames[:, :6, :6].reshape(-1, 3), axis=0)
        nearest = min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - corner).sum())
        assert nearest == row["background"]


def _centres(motion):
    job = Job("x", "images/cow.png", motion, "blue", "sounds/cow.ogg", 5)
    frames = frames_of(job, str(SOURCE), np.random.default_rng(5)).astype(int)
    masks = np.abs(frames - np.array(COLOURS["blue"])).sum(-1) > 120
    places = [np.argwhere(mask) for mask in masks]
    assert min(len(place) for place in places) > 1500, "the stamp is large in every frame"
    return np.array([place.mean(0) for place in places]), np.array([len(place) for place in places])


@pytest.mark.parametrize("motion,axis,sign", [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)])
def test_the_stamp_moves_as_told(motion, axis, sign):
    centres, _ = _centres(motion)
    shift = centres[-1] - centres[0]
    assert sign * shift[axis] > 25 and abs(shift[1 - axis]) < 8


def test_the_stamp_grows_and_shrinks():
    _, growing = _centres("growing")
    _, shrinking = _centres("shrinking")
    assert growing[-1] > 2 * growing[0] and shrinking[0] > 2 * shrinking[-1]


def test_sound_depends_on_its_seed_alone():
    job = Job("x", "images/cow.png", "left", "blue", "sounds/dog.ogg", 5)
    first, again, other = (sound_of(job, str(SOURCE), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (32000,) and np.array_equal(first, again) and not np.array_equal(first, other)


def test_annotation_formats(debug_set):
    def read(name):
        return json.loads((debug_set / name).read_text())

    row = read("pretrain_train.json")[0]
    assert list(row) == ["clip_id", "vision_cap", "audio_cap", "vast_cap", "subtitle"]
    assert isinstance(row["vision_cap"], list) and isinstance(row["vast_cap"], str)
    for split, count in size_named("debug").clips.items():
        retrieval, caption = read(f"ret_{split}.json"), read(f"cap_{split}.json")
        assert len(retrieval) == len(caption) == count
        assert isinstance(retrieval[0]["desc"], str) and len(caption[0]["desc"]) >= 3
        assert all((debug_set / "clips" / f"{row['video_id']}.mp4").stat().st_size for row in retrieval)
    train, test = read("qa_train.json"), read("qa_test.json")
    assert all(isinstance(row["question"], str) and row["subtitle"] for row in train)
    assert all(len(row["question"]) == len(row["answer"]) == len(row["question_type"]) for row in test)
    references = read("cap_test_references.json")
    own = {image["id"] for image in references["images"]}
    assert own == {row["video_id"] for row in test} == {a["image_id"] for a in references["annotations"]}
    assert set(read("ceilings.json")) == {"clips", "chance", "v", "a", "s", "va", "vs", "as", "vas"}


def test_a_finished_set_is_reused(debug_set, caplog):
    before = {path: path.stat().st_mtime_ns for path in debug_set.rglob("*")}
    with caplog.at_level(logging.INFO, "omnivast"):
        build("debug", debug_set, workers=1)
    assert "reusing the finished set" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in debug_set.rglob("*")}


def test_an_interrupted_build_goes_on_and_ends_the_same(debug_set, tmp_path, monkeypatch, caplog):
    done = 0

    def stop_after_ten(job, source, folder):
        nonlocal done
        if done == 10:
            (tmp_path / "set" / "clips" / ".left.1.tmp").write_bytes(b"half a clip")
            raise KeyboardInterrupt
        done += 1
        return real(job, source, folder)

    from omnivast.corpus.omnistamps import build as module

    real = module.compose
    monkeypatch.setattr(module, "compose", stop_after_ten)
    with pytest.raises(KeyboardInterrupt):
        build("debug", tmp_path / "set", workers=1)
    monkeypatch.setattr(module, "compose", real)
    assert not (tmp_path / "set" / "build.json").exists()
    (tmp_path / "set" / "clips" / "train00003.mp4").write_bytes(b"")
    with caplog.at_level(logging.INFO, "omnivast"):
        build("debug", tmp_path / "set", workers=1)
    assert "reusing 9 finished clips, 35 to make" in caplog.text
    first, second = (json.loads((folder / "build.json").read_text()) for folder in (debug_set, tmp_path / "set"))
    assert first == second
    assert not list((tmp_path / "set" / "clips").glob(".*")) and not (tmp_path / "set" / "building.json").exists()


def test_a_damaged_set_is_mended(tmp_path, debug_set):
    folder = build("debug", tmp_path / "set", workers=1)
    (folder / "clips" / "test00001.mp4").unlink()
    (folder / "vocab.txt").write_text("nothing")
    build("debug", folder, workers=1)
    assert (folder / "build.json").read_text() == (debug_set / "build.json").read_text()
    assert (folder / "vocab.txt").read_text() == (debug_set / "vocab.txt").read_text()


def test_clips_that_were_changed_are_made_again(tmp_path, debug_set, caplog):
    mine = tmp_path / "mine"
    shutil.copytree(debug_set, mine)
    (mine / "clips" / "test00003.mp4").write_bytes((mine / "clips" / "test00004.mp4").read_bytes())
    build("debug", mine, workers=1)
    assert "some clips are not those that were built" in caplog.text
    assert (mine / "clips" / "test00003.mp4").read_bytes() == (debug_set / "clips" / "test00003.mp4").read_bytes()
    assert (mine / "build.json").read_text() == (debug_set / "build.json").read_text()


def test_the_number_of_workers_does_not_matter(debug_set, tmp_path, monkeypatch):
    from omnivast.corpus.omnistamps import build as module

    monkeypatch.setattr(module, "_FEW", 1)
    folder = build("debug", tmp_path / "set", workers=2)
    assert (folder / "build.json").read_text() == (debug_set / "build.json").read_text()


def test_another_seed_or_size_is_refused(debug_set):
    with pytest.raises(BuildError, match=r"holds another set: seed 0 \(asked: 1\).*--fresh"):
        build("debug", debug_set, seed=1)
    with pytest.raises(BuildError, match=r"size 'debug' \(asked: 'quick'\)"):
        build("quick", debug_set)


def test_fresh_replaces_but_never_foreign_files(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="did not write"):
        build("debug", tmp_path / "mine", fresh=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(BuildError, match="is a file"):
        build("debug", tmp_path / "mine" / "thesis.txt")
    folder = build("debug", tmp_path / "set", workers=1)
    build("debug", folder, seed=1, workers=1, fresh=True)
    assert json.loads((folder / "build.json").read_text())["seed"] == 1


def test_command_line(debug_set, tmp_path, capsys):
    assert main(["--size", "debug", "--output", str(debug_set), "--workers", "1"]) == 0
    assert main(["--size", "debug", "--output", str(debug_set), "--seed", "9"]) == 2
    assert "--fresh" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--size", "huge", "--output", str(tmp_path / "x")])
