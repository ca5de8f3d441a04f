"""Long videos composed from a set's clips: their scenes, words and subtitles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from omnivast.corpus.omnistamps import long
from omnivast.corpus.omnistamps.long import PAUSE, RATE, compose_all, main, speech_of, videos_of
from omnivast.data.annotations.sidecars import read_cues
from omnivast.data.media.decode import hear
from omnivast.data.media.soundtrack import Hearing

DATA = Path("datasets/omnistamps/debug")


def composed(folder, **changes):
    return compose_all(DATA, folder, **{"clips": 3, "speaks": False, "srt": True, "workers": 1, **changes})


def test_scenes_follow_each_other_and_are_told_to_the_frame(tmp_path, monkeypatch):
    monkeypatch.setattr(long, "SCENES", 2)
    scenes = composed(tmp_path / "v")
    assert [scene["video"] for scene in scenes] == ["long0000.mp4"] * 2 + ["long0001.mp4"]
    assert scenes == json.loads((tmp_path / "v" / "scenes.json").read_text()) and len({scene["clip_id"] for scene in scenes}) == 3
    first, second = scenes[:2]
    assert first["first"] == 0 and second["first"] == first["last"] + 1 and second["start"] == round(second["first"] / RATE, 6)
    with av.open(str(tmp_path / "v" / "long0000.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == second["last"] + 1
    edge = [np.abs(frames[n].astype(int) - frames[n - 1]).mean() for n in range(1, len(frames))]
    assert int(np.argmax(edge)) + 1 == second["first"]
    assert abs(len(hear(tmp_path / "v" / "long0000.mp4", Hearing()).waveform) / 16000 - second["end"]) < 0.2
    cues = read_cues(tmp_path / "v" / "long0000.srt")
    assert [cue.lines for cue in cues] == [(first["subtitle"],), (second["subtitle"],)]
    assert all(scene["start"] < cue.start < cue.end < scene["end"] for scene, cue in zip(scenes, cues))


def test_what_is_composed_is_kept_and_the_same_again(tmp_path):
    composed(tmp_path / "v", clips=2)
    video = tmp_path / "v" / "long0000.mp4"
    before = video.read_bytes(), video.stat().st_mtime_ns
    composed(tmp_path / "v", clips=2)
    assert (video.read_bytes(), video.stat().st_mtime_ns) == before
    composed(tmp_path / "w", clips=2)
    assert (tmp_path / "w" / "long0000.mp4").read_bytes() == before[0]
    composed(tmp_path / "v", clips=1, srt=False)
    assert not (tmp_path / "v" / "long0000.srt").exists() and len(json.loads((tmp_path / "v" / "scenes.json").read_text())) == 1


def test_a_scene_is_as_long_as_its_words_need(tmp_path, monkeypatch):
    monkeypatch.setattr(long, "speech_of", lambda text: np.full(9 * 16000, 0.5, np.float32))
    scene = composed(tmp_path / "v", clips=1, speaks=True)[0]
    assert scene["end"] - scene["start"] == pytest.approx(9 + 2 * PAUSE, abs=1 / RATE) and scene["said"] == [PAUSE, PAUSE + 9]
    wave = np.asarray(hear(tmp_path / "v" / "long0000.mp4", Hearing()).waveform)
    assert np.abs(wave[2 * 16000 : 8 * 16000].mean()) > 0.2 > np.abs(wave[: 16000 // 4].mean())


def test_the_words_are_spoken():
    if shutil.which(long.SPEAKER) is None:
        pytest.skip("espeak-ng is not installed (Debian: apt-get install espeak-ng)")
    few, many = speech_of("a cow"), speech_of("a cow was asked seven questions about an electric guitar")
    assert few.dtype == np.float32 and len(many) > 2 * len(few) > 8000 and 0.05 < np.abs(many).max() <= 1


def test_every_clip_has_one_scene():
    videos = videos_of(DATA, None)
    names = [scene.job.clip_id for video in videos for scene in video.scenes]
    assert sorted(names) == [f"train{n:05d}" for n in range(24)] and names != sorted(names)


def test_texts_alone_are_as_those_of_a_set(tmp_path):
    long.draw_texts("debug", 0, tmp_path / "t")
    for name in ("clips.json", "ret_train.json", "pretrain_train.json"):
        assert json.loads((tmp_path / "t" / name).read_text()) == json.loads((DATA / name).read_text())
    assert main(["--data", str(tmp_path / "u"), "--draw", "debug", "--seed", "1", "--output", str(tmp_path / "v"), "--clips", "1",
                 "--silent"]) == 0
    assert json.loads((tmp_path / "u" / "clips.json").read_text()) != json.loads((DATA / "clips.json").read_text())


def test_bad_input_is_one_message(tmp_path, monkeypatch, caplog):
    (tmp_path / "x").write_text("mine")
    assert main(["--data", str(DATA), "--output", str(tmp_path), "--silent"]) == 2 and "did not write" in caplog.text
    assert (tmp_path / "x").exists()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["--data", str(DATA), "--output", str(tmp_path / "v"), "--no-srt"]) == 2 and "apt-get install espeak-ng" in caplog.text
    assert main(["--data", str(tmp_path), "--output", str(tmp_path / "v")]) == 2
