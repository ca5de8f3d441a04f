"""A folder of what the released VALOR made of texts, frames and sound, laid out as tests/goldens/valor_tiny/data.

It holds vocab.txt, golden.json (texts, choices of frames, what sounds there are), inputs.safetensors (waveforms, frames) and
outputs.safetensors (spectrograms, pixels). Everything goes through what training and evaluation read clips with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnivast.config.schema import ModelConfig
from omnivast.data.audio import find_frontend, silent_slices, slice_plan, take_slices
from omnivast.data.vision import find_resize, frame_indices, frame_transform
from omnivast.model.encoders.build import build_vision
from omnivast.model.text.tokenizer import Tokenizer, load_tokenizer
from omnivast.model.valor.model import VALOR
from omnivast.scripts.tools.parity.rows import UNSUPPORTED, Folder, Row, compare_largest, compare_sequence

LENGTH, MEL_BINS = 512, 64
FULL_SCALE = 32_768
"""Of the waveforms, which are recorded in 16 bits."""
DRAWS = 200
"""Choices in training that are looked at: every index of a part must come up, and none besides."""


def check(folder: Folder) -> Iterator[Row]:
    """A row per text, choice, spectrogram and set of pixels."""
    yield from check_texts(folder)
    for frames, parts, chosen, ends in folder.golden["frame_choice"]:
        name = f"{frames}.{parts}"
        yield compare_sequence(f"frame_choice.{name}", frame_indices(frames, parts, training=False), chosen, "frame_choice")
        yield compare_sequence(f"frame_choice_training.{name}", drawn_ends(frames, parts), [tuple(end) for end in ends],
                               "frame_choice_training")
    for name in folder.outputs:
        kind, *parts = name.split(".")
        if kind == "audio" and len(parts) == 2:
            yield compare_largest("spectrogram", name, spectrogram(folder, parts[0], int(parts[1][1:])), folder.outputs[name])
        elif kind == "pixels" and len(parts) == 3:
            yield from compare_pixels(folder, name, *parts)
        else:
            yield Row("output", name, math.inf, 0.0, f"{UNSUPPORTED}: it computes nothing of this name")
    silence = silent_slices(MEL_BINS, 2, LENGTH, find_frontend(VALOR.frontends["ast"]))
    yield compare_largest("spectrogram", "audio.absent", silence, torch.zeros(2, LENGTH, MEL_BINS))


def check_texts(folder: Folder) -> Iterator[Row]:
    tokenizer = load_tokenizer(folder.path, VALOR.clean_text)
    for place, entry in enumerate(folder.golden["text"]):
        yield compare_sequence(f"cleaned[{place}]", VALOR.clean_text(entry["text"]), entry["cleaned"])
        for key in ("ids", "answer_ids"):
            yield compare_sequence(f"{key}[{place}]", filled_ids(tokenizer, entry["text"], len(entry[key])), entry[key])


def filled_ids(tokenizer: Tokenizer, text: str, length: int) -> list[int]:
    (ids,) = tokenizer.encode([text], length)
    return ids + [tokenizer.pad] * (length - len(ids))


def drawn_ends(frames: int, parts: int) -> list[tuple[int, int]]:
    """The first and the last index that training draws from each part."""
    draws = torch.Generator().manual_seed(0)
    drawn = [frame_indices(frames, parts, True, draws) for _ in range(DRAWS * max(1, frames // parts))]
    return [(min(part), max(part)) for part in zip(*drawn)]


def spectrogram(folder: Folder, name: str, number: int) -> Tensor:
    """(number, mel, time), the release's own order."""
    frontend = find_frontend(VALOR.frontends["ast"])
    channels = folder.inputs[f"wave.{name}"].float() / FULL_SCALE
    mel = frontend.log_mel(channels[0] if frontend.first_channel else channels.mean(0), MEL_BINS,
                           rate=frontend.rate or folder.golden["audio"][name]["sample_rate"])
    plan = slice_plan(len(mel), LENGTH, number, training=False, last_repeats=frontend.last_repeats)
    return take_slices(mel, len(mel), MEL_BINS, plan, LENGTH, frontend).transpose(1, 2)


def compare_pixels(folder: Folder, name: str, encoder: str, transform: Any, way: str) -> Iterator[Row]:
    """Two rows: of frames in floats, as recorded; and of whole numbers, as batches hold them, which may be half a level away."""
    resolution, chosen = folder.golden["frames"]["resolution"], folder.golden["frames"]["chosen"]
    resize = find_resize(VALOR.frame_resize, antialias=way == "antialias")
    apply = frame_transform(transform, resolution, training=False, resize=resize)
    frames = folder.inputs["frames"][chosen].permute(0, 3, 1, 2)
    mean, std = statistics(encoder, resolution)
    exact, whole = (torch.stack([apply(frame) for frame in own]).float() for own in (frames.float(), frames))
    yield compare_largest("pixel", name, (exact - mean) / std, folder.outputs[name])
    half = 0.5 / float(std.min())
    yield compare_largest("pixel", f"{name}.rounded", (whole - mean) / std, folder.outputs[name], half * (1 + 1e-4))


def statistics(encoder: str, resolution: int) -> tuple[Tensor, Tensor]:
    """(1, 3, 1, 1) mean and deviation on the scale of 0 to 255, of an encoder that is made without memory."""
    with torch.device("meta"):
        tower = build_vision(ModelConfig(vision_encoder_type=encoder, vision_resolution=resolution))
    return tower.pixel_statistics()


def read(path: Path, device: str = "cpu") -> tuple[str, Iterator[Row]]:
    """What the folder is, in a line, and its rows, computed as they are asked for, on the CPU whatever the ``device``: no model takes
    part. Raises FolderError."""
    folder = Folder.read(path, ("vocab.txt",), "tests/goldens/valor_tiny/data")
    golden, sounds = folder.golden, [name for name in folder.inputs if name.startswith("wave.")]
    return (f"VALOR's data, {len(golden['text'])} texts, {len(sounds)} sounds, {len(folder.inputs['frames'])} frames, "
            f"{len(golden['frame_choice'])} choices of frames"), check(folder)
