"""Thumbnails → what changes: numbers per frame that say how it resembles the frames around it.

Three views of each frame are compared: its colours in place (sensitive to everything), its pattern of light without brightness and contrast
(blind to flashes and exposure), and its histogram of colours (blind to motion). All is read from the products of pairs of frames, so
that a batch of frames costs three matrix products.

A dissolve is a line: each of its frames lies between the frames around it, x_t = (1 - α) x_{t-k} + α x_{t+k}, which motion hardly ever
does. α and the share of the difference that the line explains are given for several k.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

OFFSETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
"""Frames before and behind with which a frame is compared, and half the distance of the pairs around it that are compared."""
CONTEXT = max(OFFSETS)
"""Frames before and behind on which the numbers of one frame depend."""
CELLS = (3, 4)
"""Parts of a frame, rows and columns, of which the change from frame to frame is told alone."""
FAINT = 0.004
"""Spread of light, of 1, below which a pattern is taken for noise."""
BINS = 8
COUNT = 12 * len(OFFSETS) + 2 * CELLS[0] * CELLS[1] + 5
"""Numbers per frame."""


def features(thumbnails: Tensor) -> Tensor:
    """(..., T, 27, 48, 3) uint8 → (..., T, COUNT) float32. Beyond the ends stand the first and the last frame."""
    leading = thumbnails.shape[:-4]
    frames = thumbnails.reshape(-1, *thumbnails.shape[-4:])
    padded = torch.cat([frames[:, :1].expand(-1, CONTEXT, -1, -1, -1), frames, frames[:, -1:].expand(-1, CONTEXT, -1, -1, -1)], 1)
    x = padded.float() / 255
    grey = x.mean(-1)
    small = x.reshape(*x.shape[:2], 9, 3, 16, 9).sum(3).reshape(*x.shape[:2], 9, 16, 3, 3).sum(4) / 9  # (B, T', 9, 16, 3)
    found = [_resemblance(vectors) for vectors in (_pattern(grey), _histogram(padded))]
    found += [_line(small.flatten(2)), _cells(small), _light(grey)]
    return torch.cat(found, -1).reshape(*leading, frames.shape[1], COUNT)


def _pattern(grey: Tensor) -> Tensor:
    """(B, T', 624) of norm 1, less where there is no pattern: light less its local mean, so that neither exposure nor haze counts."""
    small = functional.avg_pool2d(grey, (2, 2), ceil_mode=True)[..., :13, :]
    detail = small - functional.avg_pool2d(small, 7, stride=1, padding=3, count_include_pad=False)
    vectors = torch.cat([detail, 0.3 * (small - small.mean((-1, -2), keepdim=True))], -1).flatten(2)
    return vectors / (vectors.square().sum(-1, keepdim=True) + FAINT**2 * vectors.shape[-1]).sqrt()


def _histogram(frames: Tensor) -> Tensor:
    """(B, T', 512) roots of shares, so that the product of two is 1 where they are equal."""
    bins = (frames >> 5).short()
    index = (bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]
    rows = torch.arange(index.shape[0] * index.shape[1], dtype=torch.int32).reshape(*index.shape[:2], 1, 1) * BINS**3
    counts = torch.bincount((index + rows).flatten(), minlength=index.shape[0] * index.shape[1] * BINS**3)
    return (counts.reshape(*index.shape[:2], BINS**3).float() / index[0, 0].numel()).sqrt()


def _products(vectors: Tensor) -> dict[tuple[int, int], Tensor]:
    """(a, b) → (B, T): the products of the frames t + a and t + b, for the pairs around every t that are used."""
    gram = vectors @ vectors.transpose(1, 2)
    size = gram.shape[1] - 2 * CONTEXT

    def along(a: int, b: int) -> Tensor:
        start = CONTEXT + min(a, b)
        return gram.diagonal(abs(b - a), 1, 2)[:, start : start + size]

    pairs = {(0, 0), *((-k, k) for k in OFFSETS), *((0, sign * k) for k in OFFSETS for sign in (-1, 1)),
             *((sign * k, sign * k) for k in OFFSETS for sign in (-1, 1))}
    return {pair: along(*pair) for pair in pairs}


def _resemblance(vectors: Tensor) -> Tensor:
    """(B, T, 3 · offsets): of t with t - k, of t with t + k, of t - k with t + k."""
    pair = _products(vectors)
    return torch.stack([1 - pair[one] for k in OFFSETS for one in ((0, -k), (0, k), (-k, k))], -1)


def _line(vectors: Tensor) -> Tensor:
    """(B, T, 6 · offsets): distances of those pairs, and how well a line between t - k and t + k explains t."""
    pair = _products(vectors / vectors.shape[-1] ** 0.5)
    found = []
    for k in OFFSETS:
        span = (pair[-k, -k] + pair[k, k] - 2 * pair[-k, k]).clamp_min(0)
        back = (pair[0, 0] + pair[-k, -k] - 2 * pair[0, -k]).clamp_min(0)
        ahead = (pair[0, 0] + pair[k, k] - 2 * pair[0, k]).clamp_min(0)
        along = pair[0, k] - pair[0, -k] - pair[-k, k] + pair[-k, -k]  # (x_t - x_{t-k}) · (x_{t+k} - x_{t-k})
        floor = 1e-5
        share = along / (span + floor)
        off = (back - along * along / (span + floor)).clamp_min(0)
        found += [(span + floor).log(), (back + floor).log(), (ahead + floor).log(),
                  share.clamp(-1, 2), (off / (span + floor)).clamp_max(2), ((off + floor) / (back.minimum(ahead) + floor)).clamp_max(2)]
    return torch.stack(found, -1)


def _cells(small: Tensor) -> Tensor:
    """(B, T, 24): in each part of the frame the change since the frame before, and since four before."""
    rows, columns = CELLS
    found = []
    for step in (1, 4):
        change = (small[:, CONTEXT:-CONTEXT] - small[:, CONTEXT - step : -CONTEXT - step]).abs()
        parts = change.reshape(*change.shape[:2], rows, 9 // rows, columns, 16 // columns * 3).mean((3, 5))
        found.append((parts.flatten(2) + 0.002).log())
    return torch.cat(found, -1)


def _light(grey: Tensor) -> Tensor:
    """(B, T, 5): brightness, its change, contrast, its change, detail."""
    mean, spread = grey.mean((-1, -2)), grey.std((-1, -2))
    now, before = slice(CONTEXT, -CONTEXT), slice(CONTEXT - 1, -CONTEXT - 1)
    detail = (grey[..., 1:] - grey[..., :-1]).abs().mean((-1, -2))[:, now]
    return torch.stack([mean[:, now], mean[:, now] - mean[:, before], (spread[:, now] + 0.01).log(),
                        (spread[:, now] + 0.01).log() - (spread[:, before] + 0.01).log(), (detail + 0.003).log()], -1)
