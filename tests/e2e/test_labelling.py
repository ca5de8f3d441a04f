"""captioner_mode on the shipped clips: unbroken, killed and resumed, by two processes, of images, of sounds."""

from __future__ import annotations

import json
import shutil
import signal
from functools import partial

import pytest
import torch

from omnivast.config.load import load_config, resolved
from omnivast.config.tasks import Task
from omnivast.data.annotations.load import load_annotations
from omnivast.model.build import build_model
from omnivast.utils.log import read_jsonl
from omnivast.utils.precision import Machine
from omnivast.utils.random import seed_everything
from tests.e2e.accidents import die_after_lines
from tests.e2e.program import ROOT, TINY, Running, call
from tests.media_factory import write_image, write_json, write_sound

CLIPS = ROOT / "datasets" / "omnistamps" / "debug" / "clips"


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    """Weights of config/debug/tiny.json, untrained: its words are random, and few of its texts end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        seed_everything("captioner")
        model = build_model(load_config(["--config", TINY]).model_cfg)
    path = tmp_path_factory.mktemp("captioner") / "model.pt"
    torch.save(model.state_dict(), path)
    return path


def arguments(weights, output, txt, *more, task="cap%tv", vision=CLIPS, frames=2, **keys):
    dataset = {"name": "own", "task": task, "txt": str(txt), "vision": vision and str(vision), "vision_sample_num": frames,
               "audio_sample_num": 1, "batch_size": 4, "n_workers": 0, **keys}
    return ["--config", TINY, "--mode", "testing", "--checkpoint", str(weights), "--output_dir", str(output), "--num_threads", "1",
            "--data_cfg.train", "[]", "--data_cfg.val", json.dumps([dataset]), "--captioner_mode", "true", "--generate_nums", "2",
            "--max_caption_len", "12", "--max_vision_sample_num", "2", *more]


def labels(output):
    return json.loads((output / "results" / "own" / "labels.json").read_text())


@pytest.fixture
def meta(tmp_path):
    """All shipped clips, one that is no video, and one that is not there."""
    ids = sorted(path.stem for path in CLIPS.iterdir())
    return write_json(tmp_path / "meta.json", [*ids[:5], "nowhere", *ids[5:]])


def test_killed_and_resumed_or_by_two_processes_equals_unbroken(captioner, meta, run_program, tmp_path):
    outcome = run_program(arguments(captioner, tmp_path / "unbroken", meta))
    assert outcome.status == 0, outcome.text
    assert "own.labelled" in outcome.text and "1 clips could not be labelled, the first 'nowhere'" in outcome.text
    wanted = labels(tmp_path / "unbroken")
    assert len(wanted) == len(list(CLIPS.iterdir())) and all(len(row["vision_cap"]) == 2 for row in wanted)
    assert len({caption for row in wanted for caption in row["vision_cap"]}) > len(wanted)
    read = load_annotations(tmp_path / "unbroken" / "results" / "own" / "labels.json", Task.parse("cap%tv_ret%tv"), training=True)
    assert read.ids() == [row["clip_id"] for row in wanted]

    part = tmp_path / "broken" / "results" / "own" / "part_00000.jsonl"
    killed = Running(arguments(captioner, tmp_path / "broken", meta, "--test_batch_size", "1"), first=partial(die_after_lines, 7))
    assert killed.finish()[0] == -signal.SIGKILL
    before = read_jsonl(part)
    assert len(before) == 7 < len(wanted)
    with part.open("ab") as file:
        file.write(b'{"clip_id": "train00031", "vision_cap": ["torn')
    status, text = Running(arguments(captioner, tmp_path / "broken", meta), processes=2).finish()
    assert status == 0, text
    done = {row["clip_id"] for row in before if "unreadable" not in row}
    assert f"{len(done)} of {len(wanted) + 1} clips are labelled already" in text
    assert labels(tmp_path / "broken") == wanted
    parts = [read_jsonl(path) for path in sorted(part.parent.glob("part_*.jsonl"))]
    assert len(parts) == 2 and parts[0][:len(before)] == before and abs(len(parts[0]) - len(before) - len(parts[1])) <= 1
    written = [row["clip_id"] for own in parts for row in own if "unreadable" not in row]
    assert sorted(written) == sorted(row["clip_id"] for row in wanted)

    refused = run_program(arguments(captioner, tmp_path / "broken", meta, "--seed", "7"))
    assert refused.status == 2 and "run_cfg.seed: 50, now 7" in refused.text


def test_images(captioner, run_program, tmp_path):
    for number in range(5):
        write_image(tmp_path / "images" / f"{number}.png", 48, 50 * number)
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    meta = write_json(tmp_path / "meta.json", [{"image_id": number} for number in range(5)])
    flags = {"vision": tmp_path / "images", "vision_format": "image_rawimage", "frames": 1}
    outcome = run_program(arguments(captioner, tmp_path / "out", meta, "--generate_by", "beam", **flags))
    assert outcome.status == 0, outcome.text
    found = labels(tmp_path / "out")
    assert [row["image_id"] for row in found] == [0, 1, 3, 4]
    assert all(len(set(row["vision_cap"])) == 2 for row in found)
    unreadable = json.loads((tmp_path / "out" / "results" / "own" / "unreadable.json").read_text())
    assert [entry["clip_id"] for entry in unreadable] == ["2"] and "2.png" in unreadable[0]["reason"]


def test_sounds(captioner, run_program, monkeypatch, tmp_path):
    for number in range(4):
        write_sound(tmp_path / "sounds" / f"s{number}.flac", seconds=1.0, hertz=200.0 * (number + 1))
    meta = write_json(tmp_path / "meta.json", [f"s{number}" for number in range(4)])
    outcome = run_program(arguments(captioner, tmp_path / "out", meta, task="cap%ta", vision=None, audio=str(tmp_path / "sounds")))
    assert outcome.status == 0, outcome.text
    found = labels(tmp_path / "out")
    assert [row["clip_id"] for row in found] == ["s0", "s1", "s2", "s3"]
    assert all(set(row) == {"clip_id", "audio_cap"} and len(row["audio_cap"]) == 2 for row in found)
    # Gone on with on a machine that would choose another precision, it keeps its own.
    faster = Machine("cpu", "another machine", None, 64, {"float32": 1e9, "bf16": 9e9})
    monkeypatch.setattr("omnivast.utils.precision.look", lambda device, width: faster)
    again = run_program(arguments(captioner, tmp_path / "out", meta, "--precision", "auto", task="cap%ta", vision=None,
                                  audio=str(tmp_path / "sounds")))
    assert again.status == 0 and "precision: float32, as the run began" in again.text, again.text


def test_a_list_that_is_none(captioner, run_program, tmp_path):
    wrong = (({"a": 1}, "expected a JSON list of objects, found an object"), ([["x"]], "expected an id or an object with one"),
             (["train00000", "train00000"], "duplicate id 'train00000'"))
    for content, words in wrong:
        outcome = run_program(arguments(captioner, tmp_path / "out", write_json(tmp_path / "meta.json", content)))
        assert outcome.status == 2 and words in outcome.text, outcome.text


@pytest.fixture
def trained_run(captioner, tmp_path):
    """The output folder that a training of config/debug/tiny.json would have left."""
    (tmp_path / "run" / "ckpt").mkdir(parents=True)
    shutil.copy(captioner, tmp_path / "run" / "ckpt" / "model_step_10.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        write_json(tmp_path / "run" / "log" / "hps.json", resolved(load_config(["--config", TINY])))
    return tmp_path / "run"


def test_a_folder_of_all_sorts_killed_and_continued_equals_unbroken(trained_run, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    own = tmp_path / "own"
    videos = sorted(CLIPS.iterdir())[:5]
    for number, path in enumerate(videos):
        (own / str(number % 2)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, own / str(number % 2))
    write_image(own / "picture.png", 48)
    write_sound(own / "sound.flac", seconds=1.0)
    (own / "broken.mp4").write_bytes(b"no video")
    (own / "0" / f"{videos[0].stem}.srt").write_text("1\n00:00:00,0 --> 00:00:01,0\nhello there\n")

    def arguments(output: str, *more: str) -> list[str]:
        return ["label", str(own), "--model", str(trained_run), "--output", str(tmp_path / output), "--captions", "2", "--max_caption_len",
                "12", "--n_workers", "0", "--num_threads", "1", *more]

    assert call(arguments("unbroken"), "omnivast") == 0
    rows = json.loads((tmp_path / "unbroken" / "labels.json").read_text())
    assert len(rows) == 7 and rows[0]["clip_id"] == f"0/{videos[0].name}" and rows[0]["subtitle"] == "hello there"
    assert [len(row.get("vast_cap", [])) for row in rows] == [2] * 5 + [0] * 2 and len(rows[-1]["audio_cap"]) == 2
    unreadable = json.loads((tmp_path / "unbroken" / "unreadable.json").read_text())
    assert [entry["clip_id"] for entry in unreadable] == ["broken.mp4"]
    assert len((tmp_path / "unbroken" / "labels.csv").read_text().splitlines()) == 1 + 2 * 7 + 1

    killed = Running(arguments("broken", "--test_batch_size", "1"), first=partial(die_after_lines, 4), module="omnivast")
    assert killed.finish()[0] == -signal.SIGKILL and not (tmp_path / "broken" / "labels.json").exists()
    assert call(arguments("broken"), "omnivast") == 0
    assert (tmp_path / "broken" / "labels.csv").read_bytes() == (tmp_path / "unbroken" / "labels.csv").read_bytes()
    parts = list((tmp_path / "broken" / "results").rglob("part_*.jsonl"))
    written = [row["clip_id"] for path in parts for row in read_jsonl(path) if "unreadable" not in row]
    assert sorted(written) == [row["clip_id"] for row in rows]
