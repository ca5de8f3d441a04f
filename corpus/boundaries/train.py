"""Trains the boundary network on composed videos: ``python -m omnivast.corpus.boundaries.train --output FILE``

What it needs comes with the project (the pictures of OmniStamps); own pictures and videos (``--pictures``, ``--videos``) make it better.
With the defaults it takes less than ten minutes of one core. The same command gives the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from omnivast.config.paths import as_path
from omnivast.corpus.boundaries.bank import recorded, shots_of_video, synthetic_shots, varied
from omnivast.corpus.boundaries.compose import Composed, Style, compose
from omnivast.corpus.boundaries.features import COUNT, features
from omnivast.corpus.boundaries.network import KINDS, BoundaryNetwork, load_network
from omnivast.corpus.boundaries.synthetic import figures_of, pictures_of
from omnivast.corpus.omnistamps.build import SOURCE
from omnivast.utils.files import sha256_file, write_atomically
from omnivast.utils.log import Progress, progress, setup_logging
from omnivast.utils.machine import cores
from omnivast.utils.random import seed_everything, stable_seed

log = logging.getLogger("omnivast")
STYLE = Style(joins=(0.36, 0.3, 0.14, 0.2), frames=(4, 60), eases=("linear", "linear", "smooth", "in", "out"), distractors=0.6, alike=0.85)
FRAMES, BATCH = 320, 12
"""Of a composed video; composed videos of a step."""
REAL = 0.8
"""Shots of videos for each synthetic one: they are taken so often."""
LEARNING_RATE = 3e-3
CUT_WEIGHT = 4.0
"""Of the one frame of a cut, beside those of a transition that lasts."""


def targets(composed: Composed) -> Tensor:
    """(T, 4): inside, first, last (0 or 1), and the number of the kind, -1 outside."""
    found = torch.zeros(len(composed.frames), 4)
    found[:, 3] = -1
    for one in composed.transitions:
        found[one.first : one.last + 1, 0] = 1
        found[one.first, 1] = found[one.last, 2] = 1
        found[one.first : one.last + 1, 3] = KINDS.index("cut" if one.kind == "jump" else one.kind)
    return found


def draw(shots: Sequence[ndarray], seed: int, number: int) -> tuple[ndarray, Tensor]:
    """(frames (320, 27, 48, 3), targets (320, 4)): a part of a composed video."""
    rng = np.random.default_rng(stable_seed(seed, "boundaries", number))
    first = int(rng.integers(len(shots)))
    near = [(first + step) % len(shots) for step in range(-4, 5)]  # of the same scene, or filmed beside it
    chosen = [*near, *(int(index) for index in rng.integers(len(shots), size=9))]
    own = [shots[index] for index in chosen]
    same = int(rng.integers(2**32)) if rng.random() < 0.5 else None

    def vary(shot: ndarray, own: np.random.Generator) -> ndarray:
        """In half of the videos all shots are varied alike, so that those that look alike still do."""
        return varied(shot, own if same is None else np.random.default_rng(same))

    composed = compose(own, 7, rng, STYLE, vary)
    while len(composed.frames) < FRAMES:
        composed = compose(own, 9, rng, STYLE, vary)
    start = int(rng.integers(len(composed.frames) - FRAMES + 1))
    part = slice(start, start + FRAMES)
    return recorded(composed.frames[part], rng), targets(composed)[part]


def loss_of(logits: Tensor, wanted: Tensor) -> Tensor:
    """(B, T, 7), (B, T, 4) → the mean over frames, those of transitions counting more."""
    inside, edges, kind = wanted[..., 0], wanted[..., 1:3], wanted[..., 3].long()
    weight = 1 + (CUT_WEIGHT - 1) * (edges.sum(-1) == 2)
    loss = (functional.binary_cross_entropy_with_logits(logits[..., 0], inside, reduction="none") * weight).mean()
    loss = loss + 0.5 * functional.binary_cross_entropy_with_logits(logits[..., 1:3], edges, pos_weight=torch.tensor(3.0))
    if (kind >= 0).any():
        loss = loss + 0.1 * functional.cross_entropy(logits[..., 3:][kind >= 0], kind[kind >= 0])
    return loss


def lesson(shots: Sequence[ndarray], count: int, seed: int, workers: int) -> tuple[Tensor, Tensor]:
    """Numbers (N, 320, COUNT) float16 and targets (N, 320, 4) of ``count`` composed videos. Composing one and reading its numbers takes
    four times as long as learning from it, so it is done once for all epochs. The result does not depend on ``workers``."""
    numbers, wanted = torch.empty(count, FRAMES, COUNT, dtype=torch.float16), torch.empty(count, FRAMES, 4)
    context = multiprocessing.get_context("fork")
    bar: Progress[int] = progress(count, "composing", unit="video")
    with bar, context.Pool(workers, _share, (shots,)) as pool:
        for number, (own, targets_of_it) in enumerate(pool.imap(_read, ((seed, number) for number in range(count)), chunksize=8)):
            numbers[number], wanted[number] = torch.from_numpy(own), torch.from_numpy(targets_of_it)
            bar.update()
    return numbers, wanted


_shots: list[ndarray] = []
"""Of a process of the pool."""


def _share(shots: Sequence[ndarray]) -> None:
    _shots[:] = shots
    torch.set_num_threads(1)


def _read(key: tuple[int, int]) -> tuple[ndarray, ndarray]:
    frames, wanted = draw(_shots, *key)
    return features(torch.from_numpy(frames)).half().numpy(), wanted.numpy()


def train(numbers: Tensor, wanted: Tensor, epochs: int, seed: int, output: Path, about: dict[str, object],
          start: Path | None = None) -> None:
    """Write the weights to ``output``, and what they were trained on into their header. ``start``: weights to go on from, at a quarter of
    the learning rate."""
    seed_everything(seed, "network")
    network = load_network(start).train() if start else BoundaryNetwork()
    if start is None:
        sample = numbers[:200].float().flatten(0, 1)
        network.mean.copy_(sample.mean(0))
        network.spread.copy_(sample.std(0) + 1e-3)
    rate = LEARNING_RATE * (0.25 if start else 1.0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    order = torch.cat([torch.randperm(len(numbers)) for _ in range(epochs)]).split(BATCH)
    losses: list[float] = []
    bar: Progress[int] = progress(len(order), "training", unit="step")
    with bar:
        for step, rows in enumerate(order):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / len(order)))
            loss = loss_of(network.of_numbers(numbers[rows].float()), wanted[rows])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}")
            bar.update()
    header = {"about": json.dumps({**about, "videos": len(numbers), "epochs": epochs, "seed": seed})}
    write_atomically(output, save({name: packed(tensor) for name, tensor in network.state_dict().items()}, metadata=header))


def packed(tensor: Tensor) -> Tensor:
    """Matrices in half precision: half the size, and no answer changes by as much as a thousandth."""
    return (tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor).contiguous()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m omnivast.corpus.boundaries.train",
                                     description="Train the network that finds shot boundaries.")
    parser.add_argument("--output", type=as_path, required=True, metavar="FILE", help="where the weights go (.safetensors)")
    parser.add_argument("--composed", type=int, default=1600, help="videos of 320 frames to compose (default 1600)")
    parser.add_argument("--epochs", type=int, default=9, help="how often each is seen (default 9)")
    parser.add_argument("--scenes", type=int, default=400, help="synthetic scenes, three shots each (default 400)")
    parser.add_argument("--pictures", type=as_path, nargs="*", default=[], metavar="FOLDER", help="photographs that scenes are made of")
    parser.add_argument("--videos", type=as_path, nargs="*", default=[], metavar="FILE", help="videos whose shots are used too")
    parser.add_argument("--start", type=as_path, metavar="FILE", help="weights to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes that compose (default: one per core)")
    options = parser.parse_args(arguments)
    setup_logging(None)
    torch.set_num_threads(1)
    rng = np.random.default_rng(stable_seed(options.seed, "shots"))
    pictures, figures = pictures_of(options.pictures), figures_of(SOURCE / "images")
    shots = synthetic_shots(options.scenes, pictures, figures, rng)
    real = [shot for path in options.videos for shot in shots_of_video(path)]
    log.info("%d synthetic shots, from %d pictures and %d figures; %d shots of %d videos", len(shots), len(pictures), len(figures),
             len(real), len(options.videos))
    shots += real * math.ceil(REAL * len(shots) / max(1, len(real)))
    before = None if options.start is None else sha256_file(options.start)
    about = {"start": before, "scenes": options.scenes, "pictures": len(pictures), "figures": len(figures), "real_shots": len(real)}
    train(*lesson(shots, options.composed, options.seed, options.workers or cores()), options.epochs, options.seed, options.output, about,
          options.start)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
