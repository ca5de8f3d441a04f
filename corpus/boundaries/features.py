"""Thumbnails → what changes: numbers per frame that say how it resembles the frames around it.

Three views of each frame are compared: its colours in place (sensitive to everything), its pattern of light without brightness and contrast
(blind to flashes and exposure), and its histogram of colours (blind to motion). All is read from the products of pairs of frames, so
that a batch of frames costs three matrix products.

A dissolve is a line: each of its frames lies between the frames around it, x_t = (1 - α) x_{t-k} + α x_{t+k}, which motion hardly ever
does. α and the share of the difference that the line explains are given for several k, of the whole frame and of each of its regions: one
person that moves bends the line of the whole, but not those of the regions where nobody moves. In a dissolve all α agree, in a wipe they
are 0 or 1.
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
"""Regions of a frame, rows and columns."""
REGIONS = CELLS[0] * CELLS[1]
REGION_OFFSETS = (1, 2, 4, 8, 16, 32)
"""Of the lines of the regions."""
COURSES = (1, 2, 4, 8)
"""Steps of the courses of the regions, in frames; a course has eight steps."""
CHANGES = (1, 4)
"""Frames over which the change of a region is told, as it is and after what has moved was moved back."""
COARSE, REACH = (12, 24), 2
"""Size of the frame in which what has moved is looked for, and pixels of it by which a region is moved back at most, to each side."""
FAINT = 0.004
"""Spread of light, of 1, below which a pattern is taken for noise."""
BINS = 8
WHOLE = 12 * len(OFFSETS) + 5
"""Numbers of a frame as a whole."""
OF_REGION = 4 * len(REGION_OFFSETS) + 2 * len(COURSES) + 2 * len(CHANGES)
"""Numbers of a region."""
COUNT = WHOLE + REGIONS * OF_REGION
"""Numbers per frame: those of the whole, then those of each region."""
FLOOR = 1e-5
"""Squared change, of 1, that is noise."""


def features(thumbnails: Tensor) -> Tensor:
    """(..., T, 27, 48, 3) uint8 → (..., T, COUNT) float32. Beyond the ends stand the first and the last frame."""
    leading = thumbnails.shape[:-4]
    frames = thumbnails.reshape(-1, *thumbnails.shape[-4:])
    padded = torch.cat([frames[:, :1].expand(-1, CONTEXT, -1, -1, -1), frames, frames[:, -1:].expand(-1, CONTEXT, -1, -1, -1)], 1)
    x = padded.float() / 255
    grey = x.mean(-1)
    small = x.reshape(*x.shape[:2], 9, 3, 16, 9).sum(3).reshape(*x.shape[:2], 9, 16, 3, 3).sum(4) / 9  # (B, T', 9, 16, 3)
    found = [_resemblance(vectors) for vectors in (_pattern(grey), _histogram(padded))]
    found += [_line(small.flatten(2)), _light(grey)]
    regions = _by_region(small)
    local = torch.cat([_lines(regions), _courses(regions), _changes(regions), _moved(grey)], -1)  # (B, 12, T, 36)
    found.append(local.transpose(1, 2).flatten(2))
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
        share = along / (span + FLOOR)
        off = (back - along * along / (span + FLOOR)).clamp_min(0)
        found += [(span + FLOOR).log(), (back + FLOOR).log(), (ahead + FLOOR).log(),
                  share.clamp(-1, 2), (off / (span + FLOOR)).clamp_max(2), ((off + FLOOR) / (back.minimum(ahead) + FLOOR)).clamp_max(2)]
    return torch.stack(found, -1)


def _by_region(small: Tensor) -> Tensor:
    """(B, T', 9, 16, 3) → (B, 12, T', 36): the colours of each region."""
    rows, columns = CELLS
    batch, frames = small.shape[:2]
    parts = small.reshape(batch, frames, rows, 9 // rows, columns, 16 // columns, 3)
    return parts.permute(0, 2, 4, 1, 3, 5, 6).reshape(batch, REGIONS, frames, -1)


def _lines(regions: Tensor) -> Tensor:
    """(B, 12, T, 4 · offsets): of each region the change since t - k, and how well a line between t - k and t + k explains t."""
    size = regions.shape[2] - 2 * CONTEXT
    now = regions[:, :, CONTEXT : CONTEXT + size]
    found = []
    for k in REGION_OFFSETS:
        step = now - regions[:, :, CONTEXT - k : CONTEXT - k + size]
        whole = regions[:, :, CONTEXT + k : CONTEXT + k + size] - now + step
        back, span, along = step.square().mean(-1), whole.square().mean(-1), (step * whole).mean(-1)
        ahead = (back + span - 2 * along).clamp_min(0)
        off = (back - along.square() / (span + FLOOR)).clamp_min(0)
        found += [(back + FLOOR).log(), (along / (span + FLOOR)).clamp(-1, 2), (off / (span + FLOOR)).clamp_max(2),
                  ((off + FLOOR) / (back.minimum(ahead) + FLOOR)).clamp_max(2)]
    return torch.stack(found, -1)


def _courses(regions: Tensor) -> Tensor:
    """(B, 12, T, 2 · courses): over eight steps around t the whole change, and its share of the sum of the changes of the steps: 1 where
    all goes one way, as in a dissolve, little where things move or shake."""
    size = regions.shape[2] - 2 * CONTEXT
    found = []
    for step in COURSES:
        start = CONTEXT - 4 * step
        steps = (regions[:, :, start + step : start + 8 * step + size] - regions[:, :, start : start + 7 * step + size]).abs().mean(-1)
        way = torch.stack([steps[:, :, n * step : n * step + size] for n in range(8)]).sum(0)
        whole = (regions[:, :, start + 8 * step : start + 8 * step + size] - regions[:, :, start : start + size]).abs().mean(-1)
        found += [(whole + 0.002).log(), (whole + 0.002) / (way + 0.016)]
    return torch.stack(found, -1)


def _changes(regions: Tensor) -> Tensor:
    """(B, 12, T, changes): how much each region changed since the frame before, and since four before."""
    now = regions[:, :, CONTEXT:-CONTEXT]
    return torch.stack([((now - regions[:, :, CONTEXT - step : -CONTEXT - step]).abs().mean(-1) + 0.002).log() for step in CHANGES], -1)


def _moved(grey: Tensor) -> Tensor:
    """(B, 12, T, changes): the same of the pattern of light, at the place from which each region most likely came: 0 where it only moved,
    one half and more where something else is seen."""
    height, width = COARSE
    coarse = functional.adaptive_avg_pool2d(grey, COARSE)
    detail = coarse - functional.avg_pool2d(coarse, 5, stride=1, padding=2, count_include_pad=False)
    detail = detail / (detail.square().mean((-1, -2), keepdim=True) + FAINT**2).sqrt()
    now = detail[:, CONTEXT:-CONTEXT]
    around = functional.pad(detail, (REACH,) * 4, mode="replicate")
    energy, found = _region_means(detail.abs()), []
    for step in CHANGES:
        before = around[:, CONTEXT - step : -CONTEXT - step]
        off = torch.stack([_region_means((now - before[:, :, down : down + height, across : across + width]).abs())
                           for down in range(2 * REACH + 1) for across in range(2 * REACH + 1)]).amin(0)
        both = energy[:, CONTEXT:-CONTEXT] + energy[:, CONTEXT - step : -CONTEXT - step]
        found.append((off / (both + 0.1)).transpose(1, 2))
    return torch.stack(found, -1)


def _region_means(x: Tensor) -> Tensor:
    """(B, T, 12, 24) → (B, T, 12)"""
    rows, columns = CELLS
    return x.reshape(*x.shape[:2], rows, COARSE[0] // rows, columns, COARSE[1] // columns).mean((3, 5)).flatten(2)


def _light(grey: Tensor) -> Tensor:
    """(B, T, 5): brightness, its change, contrast, its change, detail."""
    mean, spread = grey.mean((-1, -2)), grey.std((-1, -2))
    now, before = slice(CONTEXT, -CONTEXT), slice(CONTEXT - 1, -CONTEXT - 1)
    detail = (grey[..., 1:] - grey[..., :-1]).abs().mean((-1, -2))[:, now]
    return torch.stack([mean[:, now], mean[:, now] - mean[:, before], (spread[:, now] + 0.01).log(),
                        (spread[:, now] + 0.01).log() - (spread[:, before] + 0.01).log(), (detail + 0.003).log()], -1)
