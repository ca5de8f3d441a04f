"""What is wrong with rows of conversations, or with a language model, is one line that names it, with status 2, before training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.program import ROOT
from tests.media_factory import write_json, write_video
from tests.model.avllm.tiny import make_llm

ASKED = {"question": "What is it?", "answer": "a cat"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two clips and a language model."""
    folder = tmp_path_factory.mktemp("bad")
    for number in range(2):
        write_video(folder / "clips" / f"clip{number}.mp4", frames=4, size=32, hertz=200 + 90 * number)
    make_llm(folder / "llm")
    return folder


@pytest.fixture
def config(place, tmp_path):
    """Writes a recipe that would train two steps on rows about both clips; returns its flags."""
    model = {key: value for key, value in json.loads((ROOT / "config" / "debug" / "tiny.json").read_text())["model_cfg"].items()
             if key.startswith(("vision_", "audio_", "pretrained"))}

    def write(*rows, **changes):
        made = {
            "run_cfg": {"num_threads": 1, "valid_freq": 0, "save_best": False, "output_dir": str(tmp_path / "out")},
            "model_cfg": {**model, "model_type": "avllm", "llm": str(place / "llm"), "llm_context": 128, **changes},
            "data_cfg": {"val": [], "train": [{
                "name": "said", "task": "chat%tva", "txt": str(write_json(tmp_path / "said.json", list(rows))), "steps": 2, "batch_size": 2,
                "n_workers": 0, "vision": str(place / "clips"), "vision_sample_num": 2, "audio_sample_num": 1}]}}
        return ["--config", str(write_json(tmp_path / "bad.json", made))]

    return write


@pytest.fixture
def refused(run_program, tmp_path):
    """Runs what must be refused before the first step; returns the lines of the message."""

    def run(arguments):
        outcome = run_program(arguments)
        assert outcome.status == 2 and "Traceback" not in outcome.text, outcome.text
        assert not list((tmp_path / "out").glob("ckpt/*.pt")) and not (tmp_path / "out" / "log" / "metrics.jsonl").exists()
        return outcome.text

    return run


def turns(*said):
    return {"video_id": "clip1", "messages": [{"role": role, "content": text} for role, text in said]}


GOOD = {"video_id": "clip0", **ASKED}
ROWS = {
    "an unknown role": (turns(("user", "What?"), ("assistent", "a cat")), ["said.json", "clip1", "assistent", "Did you mean 'assistant'?"]),
    "an odd number of turns": (turns(("user", "What?"), ("assistant", "a cat"), ("user", "Why?")), ["said.json", "clip1", "turns"]),
    "a placeholder without media": ({"id": "clip1", "conversations": [
        {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a cat"}]},
        ["said.json", "clip1", "a placeholder without media"]),
    "media without a placeholder": ({"id": "clip1", "video": "clip1.mp4", "conversations": [
        {"from": "human", "value": "What?"}, {"from": "gpt", "value": "a cat"}]}, ["said.json", "clip1", "<video>"]),
    "a row longer than the context": ({"video_id": "clip1", "question": "why " * 400, "answer": "a cat"},
                                      ["clip1", "128", "llm_context", "llm_cut_long_rows"]),
}


@pytest.mark.parametrize("row, words", ROWS.values(), ids=ROWS)
def test_rows(config, refused, row, words):
    text = refused(config(GOOD, row))
    last = text.strip().splitlines()[-1]
    assert all(word in last for word in words), last


def test_a_row_longer_than_the_context_is_cut_only_when_told_to(config, run_program):
    row = {"video_id": "clip1", "messages": [{"role": role, "content": text} for _ in range(20) for role, text in (
        ("user", "why why why"), ("assistant", "a cat"))]}
    cut = run_program(config(GOOD, row, llm_cut_long_rows=True))
    assert cut.status == 0, cut.text


def test_media_that_are_missing(config, refused, run_program):
    """Where all are: an error. One clip among others: a warning that names it, as in every training."""
    absent = {"video_id": "clip9", **ASKED}
    last = refused(config(absent)).strip().splitlines()[-1]
    assert "clip9" in last and "none of its first 1 clips is in the vision folder" in last
    done = run_program(config(GOOD, absent))
    assert done.status == 0 and "could not be read so far and were replaced, the last 'clip9' of said" in done.text, done.text


def other_llm(place, tmp_path, change) -> str:
    folder = Path(shutil.copytree(place / "llm", tmp_path / "llm"))
    change(folder)
    return str(folder)


def without_prompt(folder: Path) -> None:
    for file in folder.iterdir():
        if file.suffix in (".json", ".jinja") and "add_generation_prompt" in (text := file.read_text()):
            file.write_text(text.replace("add_generation_prompt", "never"))


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


LANGUAGE_MODELS = {"a template without a generation prompt": (without_prompt, ["template", "generation prompt"]),
                   "no tokenizer": (without_tokenizer, ["llm", "tokenizer"])}


@pytest.mark.parametrize("change, words", LANGUAGE_MODELS.values(), ids=LANGUAGE_MODELS)
def test_language_models(place, config, refused, tmp_path, change, words):
    llm = other_llm(place, tmp_path, change)
    last = refused(config(GOOD, llm=llm)).strip().splitlines()[-1]
    assert llm in last and all(word in last for word in words), last


def test_lora_targets_that_match_nothing(config, refused):
    pytest.importorskip("peft")
    last = refused(config(GOOD, llm_tune="lora", llm_lora_targets=["q_prj"])).strip().splitlines()[-1]
    assert "llm_lora_targets" in last and "q_prj" in last and "q_proj" in last


def test_a_gguf_of_an_architecture_that_cannot_be_read(config, refused, tmp_path):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "oddllm")
    writer.add_uint32("oddllm.block_count", 1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    last = refused(config(GOOD, llm=str(path))).strip().splitlines()[-1]
    assert str(path) in last and "oddllm" in last


def test_another_language_model_at_a_resumption(config, place, run_program, tmp_path):
    short = [*config(GOOD, {"video_id": "clip1", **ASKED}), "--num_train_steps", "1"]
    done = run_program(short)
    assert done.status == 0, done.text
    again = run_program([*short[:2], "--num_train_steps", "2", "--resume", "true", "--llm", make_llm(tmp_path / "other", seed=1)])
    assert again.status == 2 and "Traceback" not in again.text, again.text
    assert "another language model" in again.text or "model_cfg.llm" in again.text
