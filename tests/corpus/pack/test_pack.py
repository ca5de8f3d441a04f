"""Packing a corpus: what is in the shards, the annotation files, the index and on the card."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from omnivast.config.schema import DatasetConfig
from omnivast.corpus import cli
from omnivast.corpus.boundaries.others import version_of
from omnivast.corpus.clip_stages import clip_stage, note_latest
from omnivast.corpus.pack import stage
from omnivast.corpus.pack.stage import pack
from omnivast.corpus.plan import BuildError
from omnivast.data.spec import InputSpec
from tests import browser
from tests.corpus.pack.corpora import FAILED, LEFT_OUT, WITHOUT, captioned, make_videos, rows_of, run_here
from tests.data.sharding import read_all

KEPT = ["a_0000000_0000040", "a_0000040_0000080", "deep/b_0000000_0000030", "deep/b_0000070_0000110"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of which all was done but packing."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        return captioned(make_videos(folder / "videos"), folder / "corpus", patch)


@pytest.fixture
def corpus(made, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "run", run_here)
    return shutil.copytree(made, tmp_path / "corpus")


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def members(folder):
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {name: tar.extractfile(name).read() for name in tar.getnames()}
    return found


def test_a_row_holds_a_clips_texts_and_history(corpus):
    summary = pack(corpus)
    rows = {row["clip_id"]: row for row in rows_of(corpus)}
    assert len(rows) == 7 and [name for name, row in rows.items() if "lost" not in row["history"]] == KEPT
    row = rows[KEPT[0]]
    assert row["vision_cap"] == ["a colour of 0 vision", "some more words of 0 vision"] and row["vast_cap"].endswith("from 0 on")
    history = row["history"]
    assert (history["source"], history["first"], history["last"], history["time_base"]) == ("a.mp4", 0, 39, "1/12800")
    assert len(history["captions"]) == 6 and history["captions"][0]["model"] == "abc" and history["fuse"]["tries"] == 3
    assert history["made_by"]["thresholds"] == {"at": [0.1, 0.9], "least": 1, "cut_to_most": True}
    assert re.fullmatch("weights [0-9a-f]{12}", history["made_by"]["detector_version"]) and version_of("none") == ""
    assert {name: rows[name]["history"]["lost"] for name in (LEFT_OUT, WITHOUT, FAILED)} == {
        LEFT_OUT: {"stage": "fuse", "reason": "a fact is missing"}, WITHOUT: {"stage": "captions", "reason": "no caption"},
        FAILED: {"stage": "captions", "reason": "no frame could be decoded"}}
    assert summary["packed"]["lost"] == {"captions": 2, "fuse": 1} and json.loads((corpus / "summary.json").read_text()) == summary
    packed = members(corpus / "shards")
    assert [name for name in packed if name.endswith(".mp4")] == [f"{name}.mp4" for name in KEPT]
    assert json.loads(packed[f"{KEPT[0]}.json"]) == row and packed[f"{KEPT[0]}.mp4"] == (corpus / "clips" / f"{KEPT[0]}.mp4").read_bytes()


def test_a_training_reads_the_shards_with_and_without_the_annotation_files(corpus):
    packed = pack(corpus)["packed"]
    assert {kind: own["clips"] for kind, own in packed["annotations"].items()} == {"vision": 4, "audio": 2, "omni": 4}
    spec = InputSpec(resolution=32, mel_bins=16, target_length=64, max_caption_len=12, max_omni_caption_len=20, max_subtitle_len=10,
                     max_answer_len=6)
    for own in [*packed["annotations"].values(), {"txt": "", "clips": 4, "task": "ret%tvas"}]:
        txt = str(corpus / own["txt"]) if own["txt"] else ""
        config = DatasetConfig(name="mine", type="srcindexed", shards=[str(corpus / "shards")], txt=txt, task=own["task"], epoch=1,
                               n_workers=0, vision=None, vision_sample_num=2, audio_sample_num=1, batch_size=2)
        read, lost = read_all(config, spec)
        assert (len(read), lost) == (own["clips"], {})


def test_shards_are_reused_and_replaced_when_rows_change(corpus, monkeypatch):
    assert pack(corpus, shard_size=1)["packed"]["shards"] == 4
    before = {path.name: path.stat().st_mtime_ns for path in (corpus / "shards").glob("*.tar")}
    pack(corpus, shard_size=1)
    assert {path.name: path.stat().st_mtime_ns for path in (corpus / "shards").glob("*.tar")} == before
    run_here(clip_stage(corpus, "fuse", lambda clip, _: {"id": clip["id"], "omni": "other words", "how": "llm"}, {"long": 1}, ("long",)))
    assert pack(corpus)["packed"]["shards"] == 1 and len(list((corpus / "shards").glob("*.tar"))) == 1
    assert {row.get("vast_cap") for row in rows_of(corpus)} == {"other words"}


def test_a_stage_over_other_clips_or_one_that_was_stopped(corpus):
    stopped = next((corpus / "work").glob("captions_*"))
    shutil.move(stopped / "00000.jsonl", stopped / "x")
    with pytest.raises(BuildError, match="the stage captions is not finished"):
        pack(corpus)
    shutil.move(stopped / "x", stopped / "00000.jsonl")
    lines = (corpus / "clips.jsonl").read_text().splitlines(keepends=True)
    (corpus / "clips.jsonl").write_text("".join(lines[:2]))
    packed = pack(corpus)["packed"]
    assert packed["clips"] == 2 and packed["annotations"] == {} and packed["lost"] == {}


def test_the_subtitles_of_a_source_are_told_clip_by_clip(corpus):
    cues = [{"start": 0.2, "end": 1.0, "text": "first words", "confidence": 0.9},
            {"start": 1.7, "end": 3.0, "text": "other words", "confidence": None}]
    rows = [{"id": "a.mp4", "cues": cues, "language": "en", "from": "srt"}, {"id": "c.mkv", "failed": "x"},
            {"id": "deep/b.mp4", "cues": [], "from": None}]
    (corpus / "work" / "subtitles_0123").mkdir()
    (corpus / "work" / "subtitles_0123" / "00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    note_latest(corpus, "subtitles", {"folder": "subtitles_0123"})
    pack(corpus)
    found = {row["clip_id"]: row["history"].get("subtitles") for row in rows_of(corpus)}
    assert found[KEPT[1]] == {"language": "en", "from": "srt", "cues": [cues[1]]} and found[KEPT[2]] is None


def test_a_file_that_is_gone_or_cut_off_is_named_before_anything_is_written(corpus):
    pack(corpus)
    (corpus / "clips" / f"{KEPT[1]}.mp4").write_bytes(b"x")
    shutil.rmtree(corpus / "shards")
    with pytest.raises(BuildError, match=f"{KEPT[1]}.mp4: has 1 bytes in place of .* remove .*cut_encode_"):
        pack(corpus)
    assert not list((corpus / "shards").glob("*.tar"))


def test_clips_may_be_copied_from_key_frame_to_key_frame(corpus):
    assert pack(corpus, cutting="keyframes")["packed"]["cut"] == "keyframes"
    assert {row["history"]["made_by"]["cut"] for row in rows_of(corpus)} == {"keyframes"}
    assert len(members(corpus / "shards")[f"{KEPT[1]}.mp4"]) == rows_of(corpus)[1]["history"]["file"]["bytes"]


def test_two_sources_of_one_name_are_refused(corpus):
    first = (corpus / "clips.jsonl").read_bytes().splitlines(keepends=True)[0]
    (corpus / "clips.jsonl").write_bytes(first + first)
    with pytest.raises(BuildError, match="differ in their extension alone"):
        pack(corpus)


def test_the_index_has_a_row_for_every_clip(corpus):
    parquet = pytest.importorskip("pyarrow.parquet")
    pack(corpus, shard_size=1)
    table = parquet.read_table(corpus / "index.parquet").to_pylist()
    assert [row["clip_id"] for row in table] == [row["clip_id"] for row in rows_of(corpus)]
    assert [row["shard"] for row in table if row["shard"]] == [f"clips-00000{n}.tar" for n in range(4)]
    assert {row["clip_id"]: row["lost_stage"] for row in table if row["lost_stage"]} == {LEFT_OUT: "fuse", WITHOUT: "captions",
                                                                                        FAILED: "captions"}
    assert table[0]["how"] == "llm" and json.loads(table[0]["history"]) == rows_of(corpus)[0]["history"]


def test_without_pyarrow_all_but_the_index_is_written(corpus, monkeypatch, caplog):
    monkeypatch.setattr(stage, "is_installed", lambda module: False)
    pack(corpus)
    assert not (corpus / "index.parquet").exists() and (corpus / "card.html").exists() and 'omnivast[large]"' in caplog.text


def test_the_card_in_both_forms(corpus):
    summary = pack(corpus, shown=3)
    text = (corpus / "card.md").read_text()
    assert "| omni | 4 | 4 | 9.0 | 9 | 32.4 | 75.0 |" in text and "| vision | 4 | 8 | 5.5 | 5 | 12.5 |" in text
    assert "| reading | 1 source | truncated" in text and "| fusing | 1 clip | a fact is missing |" in text
    assert "![the clips below, in their order](card.jpg)" in text and text.count("\n### ") == 3
    page = (corpus / "card.html").read_text()
    assert page.count("data:image/jpeg") == 9 and "<script" not in page and (corpus / "card.jpg").read_bytes()[:2] == b"\xff\xd8"
    found = json.loads((corpus / "statistics.json").read_text())
    assert found["fusion"]["how"] == {"left out": 3, "llm": 4} and found["clips"] == summary["packed"]["clips"]


def test_the_card_is_laid_out_without_faults(tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    make_videos(folder)
    word = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerk"
    (folder / "a.mp4").rename(folder / f"{word * 3}.mp4")
    corpus = captioned(folder, tmp_path / "corpus", monkeypatch, long=True)
    pack(corpus)
    assert browser.faults({"card": (corpus / "card.html").read_text()}, (360, 800, 1440), tmp_path) == {}


def test_bad_input_is_one_message(corpus, tmp_path, caplog):
    assert cli.pack([str(tmp_path / "nothing")]) == 2 and "no corpus whose clips are chosen" in caplog.text
    assert cli.pack([str(corpus), "--workers", "0"]) == 2
    assert cli.pack([str(corpus), "--shown", "2"]) == 0 and cli.pack(["--txt", "x", "--output", str(tmp_path / "o")]) == 2


@pytest.mark.slow
def test_workers_and_kills_change_no_byte(made, tmp_path):
    """Killed again and again, each time somewhat later, until it gets to its end."""
    whole, killed = (shutil.copytree(made, tmp_path / name / "corpus") for name in ("whole", "killed"))
    order = [sys.executable, "-m", "omnivast", "pack", "--shard-size", "40K"]
    subprocess.run([*order[:4], str(whole), *order[4:], "--workers", "1"], check=True, timeout=300)
    patience = 1.0
    while True:
        process = subprocess.Popen([*order[:4], str(killed), *order[4:], "--workers", "3"], start_new_session=True)
        try:
            status = process.wait(patience)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        patience *= 1.3
        time.sleep(0.1)
    assert status == 0 and files_of(whole) == files_of(killed) and len(list((whole / "shards").glob("*.tar"))) > 1
