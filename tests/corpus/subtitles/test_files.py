"""Subtitle files and tracks → cues."""

from __future__ import annotations

import json
from fractions import Fraction

import av
import numpy as np
import pytest

from omnivast.corpus.subtitles.cues import Cue, clean, language_of
from omnivast.corpus.subtitles.files import cues_of_json, read_files, sidecars
from omnivast.corpus.subtitles.tracks import read_track
from tests.corpus.videos import GREY, write

TWO = [Cue(0.2, 1.0, "first words"), Cue(1.7, 3.0, "other words")]


@pytest.mark.parametrize("content, language", [
    ({"language": "en", "segments": [{"start": 0.2, "end": 1.0, "text": " first words"},
                                     {"start": 1.7, "end": 3.0, "text": "other words"}]}, "en"),
    ({"chunks": [{"timestamp": [0.2, 1.0], "text": "first words"}, {"timestamp": [1.7, 3.0], "text": "other\nwords"}]}, None),
    ({"transcription": [{"timestamps": {"from": "00:00:00,200", "to": "00:00:01,000"}, "offsets": {"from": 200, "to": 1000},
                         "text": " first words"}, {"offsets": {"from": 1700, "to": 3000}, "text": "other words"}],
      "result": {"language": "de"}}, "de"),
    ({"wireMagic": "pb3", "events": [{"tStartMs": 0, "dDurationMs": 9000, "id": 1}, {"tStartMs": 200, "dDurationMs": 800, "segs": [
        {"utf8": "first"}, {"utf8": " words", "tOffsetMs": 300}]}, {"tStartMs": 1000, "aAppend": 1, "segs": [{"utf8": "\n"}]},
        {"tStartMs": 1700, "dDurationMs": 1300, "segs": [{"utf8": "other words"}]}]}, None),
    ([{"start": 1.7, "duration": 1.3, "text": "other words"}, {"start": 0.2, "duration": 0.8, "text": "<i>first</i> words"}], None),
])
def test_json_with_times(content, language):
    found = cues_of_json(content)
    assert [(cue.start, pytest.approx(cue.end), cue.text) for cue in TWO] == [(cue.start, cue.end, cue.text) for cue in found.cues]
    assert found.language == language


def test_other_json_is_none():
    assert cues_of_json({"title": "a film", "duration": 3}) is None and cues_of_json([{"caption": "a dog"}]) is None
    assert cues_of_json("text") is None and cues_of_json({"segments": []}).cues == []


def test_confidence_is_kept():
    rows = [{"start": 0, "end": 1, "text": "a", "avg_logprob": -0.5}, {"start": 1, "end": 2, "text": "b", "confidence": 0.25},
            {"start": 2, "end": 3, "text": "c", "words": [{"word": "c", "probability": 0.5}, {"word": "c", "probability": 1}]},
            {"start": 3, "end": 4, "text": "d", "score": 17}]
    assert [cue.confidence for cue in cues_of_json(rows).cues] == [pytest.approx(0.60653, abs=1e-4), 0.25, 0.75, None]


def test_what_is_no_words_is_left_out():
    rows = [Cue(3, 4, "(laughs) come\n in"), Cue(0, 1, "[Music]"), Cue(1, 2, "♪♪"), Cue(2, 3, "♪ la la ♪"), Cue(5, 4, "back"),
            Cue(4, 5, " ")]
    assert [cue.text for cue in clean(rows)] == ["la la", "(laughs) come in"]


def test_languages_by_their_short_code():
    codes = ("eng", "en-US", "en_orig", "ger", "de", "und", "", None)
    assert [language_of(code) for code in codes] == ["en", "en", "en", "de", "de", None, None, None]


def test_the_first_file_that_has_words_counts(tmp_path):
    """A description of the video beside it, and a file without words, are none."""
    video = tmp_path / "a.mp4"
    srt = "1\n00:00:00,200 --> 00:00:01,000\n{}\n"
    (tmp_path / "a.json").write_text(json.dumps({"title": "a film"}))
    (tmp_path / "a.info.json").write_text(json.dumps({"segments": [{"start": 0, "end": 1, "text": "no"}]}))
    (tmp_path / "a.en.json3").write_text(json.dumps({"events": [{"tStartMs": 0, "dDurationMs": 9, "segs": [{"utf8": "from JSON"}]}]}))
    names = [path.name for path in sidecars("en").all(video)]
    assert names == ["a.json", "a.en.json3"]
    found = read_files(video, names)
    assert (found.cues[0].text, found.language, found.source, found.detail) == ("from JSON", "en", "json", "a.en.json3")
    (tmp_path / "a.de.vtt").write_text("WEBVTT\nKind: captions\nLanguage: de-DE\n\n00:00.2 --> 00:01.0\n<v Ann>hallo\n")
    (tmp_path / "a.srt").write_text(srt.format("[Music]"))
    found = read_files(video, [path.name for path in sidecars("en").all(video)])
    assert (found.cues, found.language, found.source) == ([Cue(0.2, 1.0, "hallo")], "de", "vtt")
    (tmp_path / "b.vtt").write_text("WEBVTT\nKind: captions\nLanguage: fr\n\n00:00.2 --> 00:01.0\nbonjour\n")
    assert read_files(tmp_path / "b.mp4", ["b.vtt"]).language == "fr" and read_files(video, []) is None


ASS = (b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,16\n\n[Events]\n"
       b"Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n")


def add_tracks(path, source, codec, tracks):
    """``source`` with tracks of subtitles, [(language, [(start, end in ms, bytes of the packet)])]."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        video = old.streams.video[0]
        kept, added = new.add_stream_from_template(video), []
        for language, _ in tracks:
            stream = new.add_stream(codec)
            stream.time_base, stream.metadata["language"] = Fraction(1, 1000), language
            stream.codec_context.subtitle_header = ASS if codec == "ass" else b"-"
            added.append(stream)
        for packet in old.demux(video):
            if packet.dts is not None:
                packet.stream = kept
                new.mux(packet)
        for stream, (_, cues) in zip(added, tracks):
            for start, end, content in cues:
                packet = av.Packet(content)
                packet.pts = packet.dts = start
                packet.duration, packet.time_base, packet.stream = end - start, Fraction(1, 1000), stream
                new.mux(packet)
    return path


@pytest.mark.parametrize("codec, name, wrap", [
    ("mov_text", "a.mp4", lambda text: len(text).to_bytes(2, "big") + text), ("subrip", "a.mkv", bytes), ("webvtt", "a.webm", bytes),
    ("ass", "a.mkv", lambda text: b"0,0,Default,,0,0,0,," + text.replace(b"\n", b"\\N")),
])
def test_tracks_inside_the_container(tmp_path, codec, name, wrap):
    plain = write(tmp_path / f"plain{name[1:]}", [GREY] * 75, sound=False, codec="libvpx-vp9" if name.endswith("webm") else "libx264",
                  options={})
    tracks = [(language, [(200, 1000, wrap(b"first <i>%s</i>" % word)), (1700, 3000, wrap(b"{\\an8}other\n%s" % word))])
              for language, word in (("ger", b"Worte"), ("eng", b"words"))]
    path = add_tracks(tmp_path / name, plain, codec, tracks)
    found = read_track(path, "en")
    assert (found.cues, found.language, found.source) == (TWO, "en", "track")
    assert read_track(path, "de").cues[0].text == "first Worte" and read_track(path, "fr").language == "de"
    assert read_track(plain, "en") is None
    assert np.isclose(float(found.cues[1].end), 3.0)
