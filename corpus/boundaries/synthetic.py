"""Shots made from nothing, at the size of thumbnails: textures, pictures and figures, moved by a camera and by themselves.

They look like no film; what they share with films is how pictures change: pans, zooms, hands that shake, things that pass, water, light.
Several shots of one scene show the same things from elsewhere, as neighbouring shots of films do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from omnivast.corpus.boundaries.thumbnails import HEIGHT, WIDTH

BACKGROUND = (120, 200)
"""Rows and columns of a scene's background, of which a camera sees a part."""
FIGURE = 24
Rng = np.random.Generator


@dataclass
class Scene:
    """What can be filmed."""

    background: Tensor
    """(1, 3, 120, 200) from 0 to 1."""
    figures: list[Tensor]
    """(1, 4, 24, 24): colour and how much it hides."""


def pictures_of(folders: Sequence[Path]) -> list[ndarray]:
    """(H, W, 3) uint8 of every picture below the folders, of 400 pixels at most."""
    found = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")):
        with Image.open(path) as file:
            file.draft("RGB", (400, 400))  # a large photograph is read no larger than it needs to be
            picture = file.convert("RGB")
        picture.thumbnail((400, 400))
        found.append(np.asarray(picture))
    return found


def figures_of(folder: Path) -> list[ndarray]:
    """(24, 24, 4) uint8 of every picture with a transparent ground in the folder."""
    found = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as file:
            found.append(np.asarray(file.convert("RGBA").resize((FIGURE, FIGURE), Image.Resampling.BOX)))
    return found


def _noise(rng: Rng, rows: int, columns: int, channels: int, power: float) -> ndarray:
    """(rows, columns, channels) from 0 to 1: clouds, finer with a smaller ``power``."""
    result: ndarray = np.zeros((rows, columns, channels), np.float32)
    for octave in range(6):
        size = (2 + 2**octave, 3 + 2**octave)
        layer = torch.from_numpy(rng.normal(size=(1, channels, *size)).astype(np.float32))
        result += functional.interpolate(layer, (rows, columns), mode="bicubic")[0].permute(1, 2, 0).numpy() * 2.0 ** (-power * octave)
    return (result - result.min()) / max(float(np.ptp(result)), 1e-6)


def scene(pictures: Sequence[ndarray], figures: Sequence[ndarray], rng: Rng) -> Scene:
    """A ground, of a picture where there are some, of noise, of stripes or of steps of grey, and up to five figures."""
    rows, columns = BACKGROUND
    if pictures and rng.random() < 0.6:
        picture = pictures[int(rng.integers(len(pictures)))]
        part = rng.uniform(0.5, 1)
        height, width = (int(size * part) for size in picture.shape[:2])
        top, left = (int(rng.integers(size - own + 1)) for size, own in zip(picture.shape[:2], (height, width)))
        cut = Image.fromarray(picture[top : top + height, left : left + width]).resize((columns, rows), Image.Resampling.BOX)
        ground = np.asarray(cut, np.float32) / 255
        if rng.random() < 0.4:
            ground = ground[..., rng.permutation(3)]
    else:
        one = _noise(rng, rows, columns, 1, rng.uniform(0.4, 1.3))
        low, high = rng.uniform(0, 1, (2, 3)).astype(np.float32)
        ground = low + (high - low) * one + 0.3 * (_noise(rng, rows, columns, 3, 0.9) - 0.5)
        if rng.random() < 0.3:
            stripes = np.sin(np.arange(columns) * rng.uniform(0.05, 0.6))[None, :, None] > 0
            ground = np.where(stripes, ground, ground * rng.uniform(0.3, 0.9))
        for _ in range(int(rng.integers(0, 9))):  # walls, windows, horizons
            top, left = int(rng.integers(rows)), int(rng.integers(columns))
            ground[top : top + int(rng.integers(8, 70)), left : left + int(rng.integers(8, 90))] = rng.uniform(0, 1, 3)
    ground = np.clip((ground - 0.5) * rng.uniform(0.4, 1.2) + rng.uniform(0.2, 0.75), 0, 1).astype(np.float32)
    chosen = [figures[int(rng.integers(len(figures)))] for _ in range(int(rng.integers(0, 6)))] if figures else []
    return Scene(torch.from_numpy(ground).permute(2, 0, 1)[None],
                 [torch.from_numpy(one.copy()).permute(2, 0, 1)[None].float() / 255 for one in chosen])


def film(what: Scene, frames: int, rng: Rng) -> ndarray:
    """(frames, 27, 48, 3) uint8: one shot of the scene."""
    t = np.linspace(0, 1, frames)
    zoom = rng.uniform(0.2, 0.75)
    place = rng.uniform(-1, 1, 2)[:, None] * (1 - zoom) + _path(t, rng, 0.5) * zoom
    zooms = zoom * np.exp(rng.choice((0, 0, 1)) * rng.uniform(-0.5, 0.5) * t)
    turn = rng.choice((0, 0, 0, 1)) * rng.uniform(-0.4, 0.4) * t
    grid = _grid(place, zooms, turn)
    if rng.random() < 0.3:  # water, leaves
        wave = torch.from_numpy(rng.uniform(0, 2 * np.pi, 4).astype(np.float32))
        speed, size = rng.uniform(5, 60), rng.uniform(0.01, 0.08)
        time = torch.from_numpy(t.astype(np.float32))[:, None, None] * speed * frames / 100
        across, down = torch.sin(9 * grid[..., 1] + time + wave[0]), torch.sin(11 * grid[..., 0] + 1.3 * time + wave[1])
        grid = grid + size * torch.stack([across, down], -1)
    result = functional.grid_sample(what.background.expand(frames, -1, -1, -1), grid, padding_mode="reflection", align_corners=False)
    for figure in what.figures:
        if rng.random() < 0.75:
            result = _with_figure(result, figure, t, rng)
    light = 1 + rng.choice((0, 0, 1)) * 0.15 * np.sin(t * rng.uniform(3, 40) + rng.uniform(0, 6))
    result = result * torch.from_numpy(light.astype(np.float32))[:, None, None, None]
    result = result + torch.from_numpy(rng.normal(0, rng.uniform(0, 0.012), result.shape).astype(np.float32))
    return (result.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()


def _path(t: ndarray, rng: Rng, far: float) -> ndarray:
    """(2, T): still, in one direction, to and fro, or wandering; by hand or not."""
    kind = int(rng.integers(5))
    if kind == 0:
        path = np.zeros((2, len(t)))
    elif kind in (1, 2):
        path = rng.normal(0, far, 2)[:, None] * (t - 0.5) * (1 if kind == 1 else rng.uniform(0, 0.5))
    elif kind == 3:
        path = rng.normal(0, far, 2)[:, None] * np.sin(t * rng.uniform(2, 12) + rng.uniform(0, 6))
    else:
        path = np.cumsum(rng.normal(0, far / 12, (2, len(t))), 1)
        path = np.stack([np.convolve(np.pad(one, 4, mode="edge"), np.ones(9) / 9, "valid") for one in path])
    hand = rng.choice((0, 0, 1)) * rng.uniform(0.005, 0.04)
    return path + hand * rng.normal(size=path.shape)


def _grid(place: ndarray, zoom: ndarray, turn: ndarray) -> Tensor:
    """(T, 27, 48, 2): where a camera at ``place`` (2, T), which sees a share ``zoom`` (T,) of the ground, looks."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, HEIGHT), torch.linspace(-1, 1, WIDTH), indexing="ij")
    cos, sin = (torch.from_numpy((function(turn) * zoom).astype(np.float32))[:, None, None] for function in (np.cos, np.sin))
    dx, dy = (torch.from_numpy(one.astype(np.float32))[:, None, None] for one in place)
    return torch.stack([cos * x - sin * y + dx, sin * x + cos * y + dy], -1)


def _with_figure(frames: Tensor, figure: Tensor, t: ndarray, rng: Rng) -> Tensor:
    """A figure that stands, walks or flies through."""
    size = rng.uniform(0.12, 0.6) * np.exp(rng.choice((0, 1)) * rng.uniform(-0.7, 0.7) * t)
    place = rng.uniform(-0.9, 0.9, 2)[:, None] + _path(t, rng, rng.choice((0.3, 1.0, 2.5)))
    turn = rng.choice((0, 0, 1)) * rng.uniform(-6, 6) * t
    grid = _grid(-place / size, 1 / size, turn)
    grid = torch.stack([grid[..., 0] * WIDTH / HEIGHT, grid[..., 1]], -1)
    layer = functional.grid_sample(figure.expand(len(t), -1, -1, -1), grid, align_corners=False)
    return frames * (1 - layer[:, 3:]) + layer[:, :3] * layer[:, 3:]
