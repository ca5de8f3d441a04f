"""A run of a tiny VAST that was never trained, and a folder of clips: silent, with words, pictures, sounds, and what is none of these."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from omnivast.inference.pipeline import Pipeline, load
from tests.media_factory import write_image, write_video, write_wav
from tests.model import tiny
from tests.model.avllm.tiny import avllm, make_llm
from tests.model.avllm.tiny import config as avllm_config

TASK = "ret%tvas%tva%tvs%tv%ta%ts_cap%tva%tv%ta_qa%tva%tv"
CAPTIONS = [f"a {colour} {thing}" for colour in ("red", "big", "small", "old", "new") for thing in ("car", "dog", "street", "onion", "man")]


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The output folder of a run."""
    folder = tmp_path_factory.mktemp("run")
    annotations = folder / "train.json"
    annotations.write_text(json.dumps([{"video_id": f"c{n}", "desc": text} for n, text in enumerate(CAPTIONS)]))
    train = {"name": "own", "task": TASK, "txt": str(annotations), "vision_sample_num": 2, "audio_sample_num": 1}
    model_cfg = {**dataclasses.asdict(tiny.CONFIG), "text_encoder_cfg": dataclasses.asdict(tiny.SIZES)}
    hps = {"run_cfg": {"precision": "float32", "beam_size": 2}, "model_cfg": model_cfg, "data_cfg": {"train": [train], "val": []}}
    (folder / "log").mkdir()
    (folder / "ckpt").mkdir()
    (folder / "log" / "hps.json").write_text(json.dumps(hps))
    torch.save(tiny.vast().state_dict(), folder / "ckpt" / "model_step_7.pt")
    return folder


@pytest.fixture(scope="session")
def model(run) -> Pipeline:
    return load(run)


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> Path:
    """b/long.mp4 of 6 s, said.mp4 with words beside it, silent.mp4, picture.png, sound.wav; cut.mp4, which cannot be
    read, and notes.txt."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "b").mkdir()
    write_video(folder / "b" / "long.mp4", frames=60, fps=10, sound=True)
    write_video(folder / "said.mp4", frames=20, fps=10, sound=True)
    (folder / "said.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello welcome today\n\n2\n00:00:01,000 --> 00:00:02,000\nthe car\n")
    write_video(folder / "silent.mp4", frames=20, fps=10, sound=False)
    write_image(folder / "picture.png")
    write_wav(folder / "sound.wav", seconds=1.0)
    (folder / "cut.mp4").write_bytes((folder / "said.mp4").read_bytes()[:500])
    (folder / "notes.txt").write_text("no clip")
    return folder


@pytest.fixture(scope="session")
def talking(tmp_path_factory) -> Path:
    """The output folder of a run of a tiny Audio-Visual LLM with adapters, which was never trained."""
    return run_of_avllm(tmp_path_factory.mktemp("talking"), llm_tune="lora")


def run_of_avllm(folder: Path, task: str = "chat%tvas", **changes) -> Path:
    """Write a run of a tiny Audio-Visual LLM that was never trained; its language model lies in ``llm`` below ``folder``."""
    llm = make_llm(folder / "llm")
    config = avllm_config(llm, llm_subtitle="prompt", **changes)
    model = avllm(llm, llm_subtitle="prompt", **changes)
    noise = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or (config.llm_tune == "full" and name.startswith("llm.") and parameter.ndim > 1):
            parameter.data.add_(torch.randn(parameter.shape, generator=noise), alpha=0.05)
    train = {"name": "own", "task": task, "txt": "chats.json", "vision_sample_num": 2, "audio_sample_num": 2}
    hps = {"run_cfg": {"precision": "float32", "beam_size": 2}, "model_cfg": dataclasses.asdict(config),
           "data_cfg": {"train": [train], "val": []}}
    for name in ("log", "ckpt"):
        (folder / name).mkdir()
    (folder / "log" / "hps.json").write_text(json.dumps(hps))
    torch.save(model.state_dict(), folder / "ckpt" / "model_step_7.pt")
    return folder
