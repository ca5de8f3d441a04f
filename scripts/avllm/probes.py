"""Linear probes: what of a clip's facts one linear layer finds in what the frozen towers give to the projectors. No projector can do much
better, so it says whether the towers or the language model are the limit.

    python -m omnivast.scripts.avllm.probes --towers output/avllm/towers --data datasets/omnistamps/quick --output output/avllm/probes.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnivast.config.paths import as_path
from omnivast.config.tasks import Modality
from omnivast.inference.clips import Clips
from omnivast.inference.loading import load_parts
from omnivast.model.avllm.projectors import PARTS, pooled_frames, pooled_slices
from omnivast.model.encoders.base import VisionEncoder
from omnivast.model.towers import MediaModel
from omnivast.utils.files import write_atomically
from omnivast.utils.log import Progress, progress
from omnivast.utils.random import generator

FACTS = {"seen": Modality.VISION, "motion": Modality.VISION, "background": Modality.VISION, "heard": Modality.AUDIO}
STEPS, BATCH, RATE = 400, 256, 3e-3
AT_ONCE = 50


def features(towers: Path, ids: Sequence[str], clips: Path, frames: int) -> dict[Modality, Tensor]:
    """(clips, numbers) float32 of each track: all tokens that the projectors would be given of it, one after the other."""
    loaded = load_parts(towers)
    model, sampling = loaded.model, replace(loaded.sampling, frames=frames)
    assert isinstance(model, MediaModel) and isinstance(model.vision_encoder, VisionEncoder)
    has_cls = model.vision_encoder.has_cls
    found: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    bar: Progress[None] = progress(len(ids), "probing clips", unit="clip")
    with torch.no_grad(), model.mixed(), Clips() as inputs, bar:
        for start in range(0, len(ids), AT_ONCE):
            own = ids[start : start + AT_ONCE]
            samples = [sampling.read(inputs.open(str(clips / f"{name}.mp4")), set(FACTS.values())) for name in own]
            seen = model.vision_tokens(torch.stack([sample.frames for sample in samples if sample.frames is not None]))
            heard = model.audio_tokens(torch.stack([sample.spectrogram for sample in samples if sample.spectrogram is not None]))
            for part, tokens in {**pooled_frames(seen, has_cls), **pooled_slices(heard, "mean")}.items():
                found[part].append(tokens.float().flatten(1))
            bar.update(len(own))
    whole = {part: torch.cat(parts) for part, parts in found.items()}
    return {modality: torch.cat([whole[part] for part in whole if PARTS[part] is modality], 1) for modality in set(FACTS.values())}


def probed(inputs: Tensor, labels: Sequence[str], training: Tensor, seed: int = 0) -> list[str]:
    """What a linear layer, trained on the rows of ``training`` (bool), says of every row.

    Args:
        inputs: (N, numbers).
        labels: (N) the true names.
        training: (N,).
    """
    names = sorted(set(labels))
    known = torch.tensor([names.index(label) for label in labels])
    own = inputs[training]
    scaled = (inputs - own.mean(0)) / (own.std(0) + 1e-3)
    layer = torch.nn.Linear(inputs.shape[1], len(names))
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=0.01)
    rows, draws = training.nonzero().flatten(), generator(seed, "probe")
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        chosen = rows[torch.randint(len(rows), (BATCH,), generator=draws)]
        loss = F.cross_entropy(layer(scaled[chosen]), known[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return [names[number] for number in layer(scaled).argmax(1).tolist()]


def probe(towers: Path, data: Path, frames: int) -> dict[str, Any]:
    """``{"accuracy": {fact: percent of the test clips}, "said": {test clip: {fact: what the probe says}}}``"""
    clips: list[Mapping[str, str]] = json.loads((data / "clips.json").read_text(encoding="utf-8"))
    training = torch.tensor([clip["split"] == "train" for clip in clips])
    found = features(towers, [clip["clip_id"] for clip in clips], data / "clips", frames)
    test = [number for number, clip in enumerate(clips) if clip["split"] == "test"]
    said: dict[str, dict[str, str]] = {clips[number]["clip_id"]: {} for number in test}
    accuracy = {}
    for fact, modality in FACTS.items():
        answers = probed(found[modality], [clip[fact] for clip in clips], training)
        for number in test:
            said[clips[number]["clip_id"]][fact] = answers[number]
        accuracy[fact] = 100.0 * sum(answers[number] == clips[number][fact] for number in test) / len(test)
    return {"accuracy": accuracy, "said": said}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file, and print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", type=as_path, required=True, help="the output folder of a training whose towers are probed")
    parser.add_argument("--data", type=as_path, required=True, help="an OmniStamps set")
    parser.add_argument("--output", type=as_path, required=True, help="JSON file to write")
    parser.add_argument("--frames", type=int, default=4, help="frames of a clip (default %(default)s)")
    options = parser.parse_args(arguments)
    found = probe(options.towers, options.data, options.frames)
    write_atomically(options.output, json.dumps(found, indent=0) + "\n")
    print("linear probe, % of test clips: " + ", ".join(f"{fact} {value:.1f}" for fact, value in found["accuracy"].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
