"""A corpus as ``build`` leaves it before captions, and a run of a tiny captioner that was never trained."""

from __future__ import annotations

import dataclasses
import json

import torch

from omnivast.corpus.engine.results import line_of
from omnivast.corpus.plan import Plan
from omnivast.data.media.excerpts import Excerpt
from tests.corpus.videos import BLUE, GREEN, RED, write
from tests.model import tiny


def make_corpus(folder, names=("a.mp4", "silent.mp4"), clips=2):
    """(its output folder, the folder of its videos): ``clips`` clips of 20 frames of each video, those of silent.mp4 without sound."""
    videos, output = folder / "videos", folder / "corpus"
    for name in names:
        if not (videos / name).exists():
            write(videos / name, [RED] * 20 + [GREEN] * 20 + [BLUE] * 20, sound="silent" not in name)
    Plan(output).open([str(videos)], "none")
    rows = []
    for name in names:
        for first in range(0, 20 * clips, 20):
            start, end = first / 25, (first + 20) / 25
            rows.append({"id": f"{name[:-4]}_{first}", "source": name, "reference": Excerpt(name, first, first + 19, start, end).name,
                         "first": first, "last": first + 19, "start": start, "end": end, "subtitle": "hello there" if first else "",
                         "modalities": "v" if "silent" in name else "va"})
    (output / "clips.jsonl").write_bytes(b"".join(map(line_of, rows)))
    return output, videos


def make_run(folder, task="cap%tva%tv%ta"):
    """The output folder of a training."""
    model_cfg = {**dataclasses.asdict(tiny.CONFIG), "text_encoder_cfg": dataclasses.asdict(tiny.SIZES)}
    train = {"name": "own", "task": task, "txt": "none.json", "vision_sample_num": 2, "audio_sample_num": 1}
    for name in ("log", "ckpt"):
        (folder / name).mkdir(parents=True)
    (folder / "log" / "hps.json").write_text(json.dumps(
        {"run_cfg": {"precision": "float32", "beam_size": 2}, "model_cfg": model_cfg, "data_cfg": {"train": [train], "val": []}}))
    torch.save(tiny.vast().state_dict(), folder / "ckpt" / "model_step_7.pt")
    return folder
