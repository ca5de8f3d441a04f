"""Videos → clips: ``split``, ``build`` and the files that they write."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest

from omnivast.corpus import build as build_module
from omnivast.corpus import cli
from omnivast.corpus.build import Choice, build
from omnivast.corpus.cut import cut_item
from omnivast.corpus.engine.workers import work
from omnivast.corpus.fusion import stage as stage_module
from omnivast.corpus.fusion.fuse import settings_of
from omnivast.corpus.plan import BuildError
from omnivast.data.media.decode import hear
from omnivast.data.media.soundtrack import Hearing
from tests.corpus.videos import BLUE, GREEN, GREY, RED, hertz, write
from tests.utils.chat_server import chat_server, said

LONG = [RED] * 40 + [GREEN] * 40 + [BLUE] * 40


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write(folder / "a.mp4", LONG)
    write(folder / "deep" / "b.mp4", [GREY] * 30 + LONG, sound=False)
    write(folder / "c.mkv", LONG).write_bytes((folder / "c.mkv").read_bytes()[:9000])
    (folder / "a.srt").write_text("1\n00:00:00,200 --> 00:00:01,000\nfirst words\n\n2\n00:00:01,700 --> 00:00:03,000\nother words\n")
    (folder / "notes.txt").write_text("nothing to see")
    return folder


@pytest.fixture
def here(monkeypatch):
    """Stages run in this process: starting others takes seconds, and tests/corpus/engine does it."""
    def run(stage, workers):
        stage.leases.open(list(stage.sizes))
        work(stage)

    monkeypatch.setattr(build_module, "run", run)


def test_split_says_frames_and_seconds(videos, tmp_path, capsys):
    assert cli.split([str(videos / "a.mp4"), "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert list(found) == ["fps", "frames", "boundaries", "clips"] and (found["fps"], found["frames"]) == (25.0, 120)
    assert [(one["first"], one["last"], one["kind"]) for one in found["boundaries"]] == [(40, 40, "cut"), (80, 80, "cut")]
    assert found["clips"] == [{"start": 0.0, "end": 1.6}, {"start": 1.6, "end": 3.2}, {"start": 3.2, "end": 4.8}]
    assert cli.split([str(videos / "a.mp4")]) == 0 and json.loads(capsys.readouterr().out) == found


def test_split_of_a_folder_names_what_it_cannot_read(videos, tmp_path, caplog):
    assert cli.split([str(videos), "--json", str(tmp_path), "--recipe", "fixed"]) == 1
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")) == ["a.mp4.json", "deep/b.mp4.json"]
    assert "c.mkv: truncated" in caplog.text
    assert cli.split([str(videos / "notes.txt")]) == 2 and cli.split([str(videos / "nothing")]) == 2


def test_a_corpus_and_what_is_said_of_it(videos, tmp_path, here):
    summary = build([str(videos)], tmp_path / "one", "shots")
    rows = [json.loads(line) for line in (tmp_path / "one" / "clips.jsonl").read_text().splitlines()]
    assert [(row["source"], row["first"], row["last"], row["modalities"]) for row in rows] == [
        ("a.mp4", 0, 39, "vas"), ("a.mp4", 40, 79, "vas"), ("a.mp4", 80, 119, "va"),
        ("deep/b.mp4", 0, 29, "v"), ("deep/b.mp4", 30, 69, "v"), ("deep/b.mp4", 70, 109, "v"), ("deep/b.mp4", 110, 149, "v")]
    assert [row["subtitle"] for row in rows[:3]] == ["first words", "other words", ""] and rows[1]["start"] == 1.6
    assert (summary["sources"], summary["unreadable"], summary["clips"]) == (3, 1, 7) and summary["boundaries"] == {"cut": 5}
    assert json.loads((tmp_path / "one" / "summary.json").read_text()) == summary
    first = json.loads((tmp_path / "one" / "annotations.json").read_text())[0]
    assert first == {"clip_id": "a.mp4#frames=0-39&t=0-1.6", "subtitle": "first words"}


def test_captions_of_the_clips_are_fused(videos, tmp_path, here, monkeypatch):
    monkeypatch.setattr(stage_module, "run", build_module.run)
    names = [f"a_{first:07d}_{first + 40:07d}" for first in (0, 40, 80)]
    captions = [{"kind": "vision", "text": "a cow"}, {"kind": "audio", "text": "a bell is heard"}]
    rows = [{"id": name, "captions": captions} for name in names[:2]]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"fusion": None, "captions": tmp_path / "captions.jsonl"}
    answer = 200, said("A cow is shown while a bell is heard and someone says first words."), {}
    with chat_server(lambda number, body: answer) as (url, asked):
        settings["fusion"] = settings_of(endpoint=url, model="small", tries=1)
        summary = build([str(videos)], tmp_path / "out", "shots", **settings)
        assert len(asked) == 3  # one asks whether it is there
        assert build([str(videos)], tmp_path / "out", "shots", **settings) == summary and len(asked) == 4
    found = stage_module.fused_clips(tmp_path / "out", {row["id"]: row for row in rows}, settings["fusion"])
    assert [found[name]["how"] for name in names] == ["llm", "sentence", "left out"] and found[names[2]]["reasons"] == ["no caption"]
    assert found[names[1]]["omni"] == "A cow; in the audio: a bell is heard; someone says: other words."
    fused = summary["fuse"]
    assert (fused["llm"], fused["sentence"], fused["left_out"], fused["model"]) == (1, 1, 5, "small")
    with pytest.raises(BuildError, match="or --captions FILE"):
        build([str(videos)], tmp_path / "out", "shots", fusion=settings["fusion"])


def test_again_and_with_more_videos(videos, tmp_path, here):
    folder = tmp_path / "videos"
    write(folder / "b.mp4", LONG)
    build([str(folder)], tmp_path / "out", "fixed")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "work" / "split").glob("*.jsonl")}
    write(folder / "a.mp4", LONG)
    assert build([str(folder)], tmp_path / "out", "fixed")["sources"] == 2
    after = {path.name: path.read_bytes() for path in (tmp_path / "out" / "work" / "split").glob("*.jsonl")}
    assert sorted(after) == ["00000.jsonl", "00001.jsonl"] and after["00000.jsonl"] == before["00000.jsonl"]
    with pytest.raises(BuildError, match="another corpus: detector 'none' .asked: 'ours'"):
        build([str(folder)], tmp_path / "out", "shots")
    with pytest.raises(BuildError, match="did not write"):
        build([str(folder)], folder, "fixed")


def test_what_could_not_be_read_is_tried_again_when_asked(tmp_path, here):
    whole = [write(tmp_path / "v" / f"{name}.mkv", LONG[:80]) for name in "abc"]
    content = whole[1].read_bytes()
    whole[1].write_bytes(content[:5000])
    first = build([str(tmp_path / "v")], tmp_path / "out", "shots")
    assert first["unreadable"] == 1 and list(first["unreadable_by_reason"])[0].startswith("truncated")
    whole[1].write_bytes(content)
    assert build([str(tmp_path / "v")], tmp_path / "out", "shots") == first
    again = build([str(tmp_path / "v")], tmp_path / "out", "shots", retry=True)
    assert again["unreadable"] == 0 and again["clips"] == first["clips"] + 2
    fresh = build([str(tmp_path / "v")], tmp_path / "fresh", "shots")
    assert fresh == again and (tmp_path / "fresh" / "clips.jsonl").read_bytes() == (tmp_path / "out" / "clips.jsonl").read_bytes()


def test_vasts_clips_have_all_modalities_and_come_evenly(videos, tmp_path, here, monkeypatch):
    recipe = build_module.recipe_named("vast")
    monkeypatch.setattr(build_module, "recipe_named", lambda name: recipe.__class__(**{**vars(recipe), "least": 1.0, "join": 0.0}))
    summary = build([str(videos)], tmp_path / "vast", "vast")
    assert summary["clips"] == 2 and summary["dropped"] == {"without subtitle": 1, "without sound, subtitle": 4}
    chosen = build([str(videos)], tmp_path / "vast", "vast", choice=Choice(count=1))
    assert chosen["clips"] == 1 and chosen["dropped"]["not chosen"] == 1


def test_copies_of_other_videos_are_left_out(tmp_path, here):
    write(tmp_path / "v" / "a.mp4", LONG)
    write(tmp_path / "v" / "b.mp4", [GREY] * 30 + LONG, options={"crf": "20"})
    assert build([str(tmp_path / "v")], tmp_path / "out", "shots", choice=Choice(copies=False))["dropped"] == {"copies": 3}
    first = json.loads((tmp_path / "out" / "work" / "copies.jsonl").read_text().splitlines()[0])
    assert first == {"id": "b_0000030_0000070", "copy_of": "a_0000000_0000040"}


@pytest.mark.parametrize("how", ["encode", "keyframes"])
def test_cut_files_begin_and_end_with_the_clip(tmp_path, how):
    path = write(tmp_path / "a.mp4", LONG)
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
        pts = [frame.pts for frame in container.decode(video=0)]
    item = {"id": "sub/a_40", "source": "a.mp4", "pts": [pts[45], pts[80]], "time_base": str(base)}
    row = cut_item(item, {"root": str(tmp_path), "output": str(tmp_path / "clips"), "how": how})
    assert row["file"] == "sub/a_40.mp4" and not list((tmp_path / "clips" / "sub").glob(".*"))
    with av.open(str(tmp_path / "clips" / row["file"])) as container:
        frames = list(container.decode(video=0))
        colours = np.array([frame.to_ndarray(format="rgb24").mean((0, 1)).argmax() for frame in frames])
    kept = [frame for frame in frames if frame.pts is not None and frame.pts >= 0]
    assert len(kept) == 35 and (colours[-35:] == 1).all()
    sound = hear(tmp_path / "clips" / row["file"], Hearing()).waveform
    assert abs(len(sound) / 16000 - 35 / 25) < 0.2 and abs(hertz(sound[4000:12000]) - 400) < 8
    if how == "encode":
        again = cut_item(item, {"root": str(tmp_path), "output": str(tmp_path / "again"), "how": how})
        assert again["sha256"] == row["sha256"]


def test_clips_are_captioned_and_what_was_said_comes_from_anywhere(videos, tmp_path, here):
    """Subtitles from JSON with times; captions by an endpoint, not asked for before captions are wanted."""
    folder = tmp_path / "v"
    write(folder / "a.mp4", LONG)
    (folder / "a.json").write_text(json.dumps({"language": "en", "segments": [{"start": 1.7, "end": 3.0, "text": " other words"}]}))
    (tmp_path / "teachers.json").write_text('[{"name": "wall", "endpoint": "URL", "model": "small", "inputs": ["subtitle"]}]')
    command = [str(folder), "--output", str(tmp_path / "out"), "--recipe", "shots", "--captioner", str(tmp_path / "teachers.json")]
    with chat_server(lambda number, body: (200, said(f"a wall {number}"), {})) as (url, asked):
        teachers = (tmp_path / "teachers.json").read_text()
        (tmp_path / "teachers.json").write_text(teachers.replace("URL", url))
        assert cli.build_corpus([*command, "--until", "clips"]) == 0 and not asked
        rows = [json.loads(line) for line in (tmp_path / "out" / "clips.jsonl").read_text().splitlines()]
        assert [row["subtitle"] for row in rows] == ["", "other words", ""]
        assert cli.build_corpus(command) == 0
        count = len(asked)
        assert cli.build_corpus(command) == 0 and len(asked) == count
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["subtitles"] == {"from": {"json": 1}, "languages": {"en": 1}, "failed": {}}
    assert summary["captions"]["teachers"]["wall"]["captions"] == {"vision": 3}
    told = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in told] == [row["id"] for row in rows] and all("wall" in row["captions"][0]["text"] for row in told)


def test_a_captioner_that_is_none_is_missed_before_anything_is_read(videos, tmp_path, here, caplog):
    out = tmp_path / "out"
    assert cli.build_corpus([str(videos), "--output", str(out), "--captioner", str(tmp_path / "none")]) == 2
    assert "neither the output folder of a training" in caplog.text and not out.exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert cli.build_corpus([str(videos), "--output", str(out), "--captioner", str(tmp_path / "empty")]) == 2
    assert "holds no model of transformers" in caplog.text and not (out / "work").exists()


def test_what_cannot_be_cut_is_a_result(tmp_path):
    row = cut_item({"id": "x", "source": "none.mp4", "pts": [0, 5]}, {"root": str(tmp_path), "output": str(tmp_path), "how": "encode"})
    assert row == {"id": "x", "failed": "no such file"}


@pytest.mark.slow
def test_workers_change_no_byte(videos, tmp_path):
    found = []
    for workers in (1, 3):
        out = tmp_path / str(workers)
        assert cli.build_corpus([str(videos), "--output", str(out), "--recipe", "shots", "--workers", str(workers), "--cut", "encode"]) == 1
        found.append({path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert found[0] == found[1] and len(found[0]) > 12


def test_bad_input_is_one_message(videos, tmp_path, caplog):
    assert cli.build_corpus([str(videos), "--output", str(tmp_path / "x"), "--recipe", "vats"]) == 2
    assert "there is no recipe 'vats'; there are vast," in caplog.text
    assert cli.build_corpus([str(videos / "notes.txt"), "--output", str(tmp_path / "x")]) == 2
    assert cli.build_corpus([str(videos), "--output", str(tmp_path / "x"), "--clips", "0"]) == 2
    assert not (tmp_path / "x").exists()
