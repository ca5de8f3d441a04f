"""The stage ``subtitles`` of a corpus."""

from __future__ import annotations

import sys

import pytest

from omnivast.corpus.engine.here import one_by_one, run_here
from omnivast.corpus.engine.results import read_rows
from omnivast.corpus.plan import Plan
from omnivast.corpus.subtitles import stage as module
from omnivast.corpus.subtitles.cues import Cue
from omnivast.corpus.subtitles.speech import SpeechError
from omnivast.corpus.subtitles.stage import Speech, subtitles_stage, told
from tests.corpus.subtitles.test_speech import Always
from tests.corpus.videos import GREY, write

SRT = "1\n00:00:00,200 --> 00:00:01,000\n{}\n"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a", "b", "c"):
        write(folder / f"{name}.mp4", [GREY] * 30)
    return folder


def done(output, how):
    stage = subtitles_stage(output, how)
    run_here(stage, one_by_one(stage))
    return stage, list(read_rows(stage.folder / "00000.jsonl"))


@pytest.fixture
def output(tmp_path, videos):
    for path in videos.glob("*.srt"):
        path.unlink()
    (videos / "b.srt").write_text(SRT.format("hello"))
    Plan(tmp_path / "out").open([str(videos)], "none")
    return tmp_path / "out"


def test_a_row_of_each_source(output, videos):
    stage, rows = done(output, Speech())
    assert rows == [{"id": "a.mp4", "cues": [], "language": None, "from": None, "detail": None},
                    {"id": "b.mp4", "cues": [{"start": 0.2, "end": 1.0, "text": "hello", "confidence": None}], "language": None,
                     "from": "srt", "detail": "b.srt"}, {**rows[0], "id": "c.mp4"}]
    assert told(rows) == {"from": {"none": 2, "srt": 1}, "languages": {"not said": 1}, "failed": {}}


def test_files_that_come_or_change_are_read_again(output, videos, monkeypatch):
    done(output, Speech())
    seen = []
    real = module.subtitles_of

    def noted(path, *rest):
        seen.append(path.name)
        return real(path, *rest)

    monkeypatch.setattr(module, "subtitles_of", noted)
    done(output, Speech())
    assert seen == []
    (videos / "b.srt").write_text(SRT.format("hello again"))
    _, rows = done(output, Speech())
    assert seen == ["b.mp4", "c.mp4"] and rows[1]["cues"][0]["text"] == "hello again"
    (videos / "c.en.vtt").write_text("WEBVTT\n\n00:00.2 --> 00:01.0\nnew\n")
    (videos / "b.srt").unlink()
    _, rows = done(output, Speech())
    assert [row["from"] for row in rows] == [None, None, "vtt"]
    (videos / "c.en.vtt").unlink()


def test_speech_where_there_is_nothing_else(output, monkeypatch):
    """One source is silent, the recogniser fails on another: both are results."""
    class By:
        def words(self, stretches, language):
            if stretches[0].start > 0:
                raise SpeechError("it broke")
            return [[Cue(0.1, 0.5, "spoken", 0.75)]], "en"

    class Hears(Always):
        def stretches(self, path):
            self.spans = ((0.0, 1.0),) if path.name == "a.mp4" else ((0.2, 1.0),)
            return super().stretches(path)

    monkeypatch.setattr(module, "tools", lambda asr: asr and (Hears(), By()))
    stage, rows = done(output, Speech("says"))
    assert rows[0] == {"id": "a.mp4", "cues": [{"start": 0.1, "end": 0.5, "text": "spoken", "confidence": 0.75}], "language": "en",
                       "from": "speech", "detail": "says"}
    assert rows[1]["from"] == "srt" and rows[2] == {"id": "c.mp4", "failed": "it broke"}
    assert told(rows)["failed"] == {"it broke": 1}
    assert subtitles_stage(output, Speech()).folder != stage.folder == subtitles_stage(output, Speech("says")).folder
    assert Speech(f"{sys.executable} asr.py").name == f"{sys.executable} asr.py" and Speech("whisper:models/tiny").name == "whisper:tiny"
