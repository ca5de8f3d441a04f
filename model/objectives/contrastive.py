"""OM-VCC: video-caption contrastive losses, found by the name that ``model_cfg.contrastive_loss`` gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omnivast.config.registry import Registry
from omnivast.model.interface import ModelError


@dataclass(frozen=True)
class Contrast:
    """A contrastive loss. Letters: b pairs of this process, B of the global batch."""

    learnt: Mapping[str, float]
    """Scalars that the model learns with it: name of the parameter → first value."""
    logits: Callable[..., Tensor]
    """(scores (b, B), the learnt scalars in their order) → logits (b, B), from whose softmax hard negatives are drawn."""
    rows: Callable[[Tensor, Tensor, float, Tensor | None], Tensor]
    """(logits (b, C) of one direction, (b,) the column of each row's partner, label smoothing, how much each candidate counts (b, C) or
    None where all count 1) → a scalar, the mean over the rows."""

    def loss(self, text_to_clip: Tensor, clip_to_text: Tensor, targets: Tensor, label_smoothing: float = 0.0,
             weights: Tensor | None = None) -> Tensor:
        """The mean over both directions, a scalar, of which the mean over processes is the loss. ``clip_to_text`` may have more columns
        than ``text_to_clip``: texts that are no clip's own; ``weights``: how much each of its columns counts."""
        return (self.rows(text_to_clip, targets, label_smoothing, None) + self.rows(clip_to_text, targets, label_smoothing, weights)) / 2


CONTRASTS: Registry[Contrast] = Registry("model_cfg.contrastive_loss", "loss", error=ModelError)


def cosines(texts: Tensor, clips: Tensor, all_texts: Tensor, all_clips: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine similarities of this process's b pairs with the global batch B.

    texts, clips: (b, dim) unit rows; all_texts, all_clips: (B, dim). Returns text-to-clip and clip-to-text, each (b, B).
    """
    return texts @ all_clips.T, clips @ all_texts.T


def over_temperature(scores: Tensor, temperature: Tensor) -> Tensor:
    """Logits of the softmax loss."""
    return scores / temperature


def softmax_rows(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of each row's choice among its candidates, mean over the rows (paper, equation 1 in one direction).

    With ``weights`` w a candidate's share is w · exp(logit) over the sum of these, and smoothing spreads in proportion to w.
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    shares = (logits + weights.log()).log_softmax(1).masked_fill(weights == 0, 0.0)
    wanted = label_smoothing * weights / weights.sum(1, keepdim=True)
    wanted = wanted.scatter_add(1, targets[:, None], torch.full_like(wanted[:, :1], 1 - label_smoothing))
    return -(wanted * shares).sum(1).mean()


CONTRASTS.register("softmax")(Contrast({"contra_temp": 0.07}, over_temperature, softmax_rows))


def scaled(scores: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Logits of the sigmoid loss: scores times exp(``scale``) plus ``bias``."""
    return scores * scale.exp() + bias


def sigmoid_rows(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Each pair of the batch for itself, a true one or not (Zhai et al., Sigmoid Loss for Language Image Pre-Training, arXiv:2303.15343,
    algorithm 1): the sum of −log σ(±logit), times ``weights``, over a row, mean over the rows. Both directions hold the same pairs; each
    counts half, so that texts and clips learn alike where features of other processes carry no gradient. Labels are not smoothed."""
    signs = torch.full_like(logits, -1.0).scatter(1, targets[:, None], 1.0)
    each = F.logsigmoid(signs * logits)
    return -(each if weights is None else weights * each).sum(1).mean()


CONTRASTS.register("sigmoid")(Contrast({"contra_scale": math.log(10.0), "contra_bias": -10.0}, scaled, sigmoid_rows))


def prefix(vectors: Tensor, dimensions: int) -> Tensor:
    """The first ``dimensions`` numbers of each row, brought to length 1 (Kusupati et al., Matryoshka Representation Learning,
    arXiv:2205.13147)."""
    return F.normalize(vectors[:, :dimensions], dim=1)


def teaching_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's choice among a row's candidates is from the teacher's, who does not learn by it: KL(teacher ‖ student) of the
    softmax over each row of logits (b, B), mean over the rows."""
    return F.kl_div(student.log_softmax(1), teacher.detach().log_softmax(1), reduction="batchmean", log_target=True)


@torch.no_grad()
def hard_negatives(similarity: Tensor, targets: Tensor, draws: Tensor, counted: Tensor | None = None) -> Tensor:
    """One negative per row, drawn in proportion to softmax(similarity) + 1e-4, never the target.

    similarity: (b, B) logits; draws: (b,) uniform in [0, 1); counted: (b, B) bool, what may be drawn, None for all. With ``counted``
    the logits of what may not be drawn are −inf. Returns (b,) columns, by inverting the
    cumulative distribution: one vectorised call, reproducible from the draws. With B = 1 there is no negative: the target.
    """
    weights = similarity.float().softmax(1) + 1e-4
    if counted is not None:
        weights = weights * counted
    weights = weights.scatter(1, targets[:, None], 0.0).double()
    cumulative = weights.cumsum(1)
    threshold = draws.to(cumulative)[:, None] * cumulative[:, -1:]
    # The first column whose cumulative weight exceeds the threshold; clamped below the last positive weight against rounding.
    columns = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    last = torch.arange(weights.shape[1], device=weights.device).expand_as(weights).masked_fill(weights == 0, -1).amax(1)
    return torch.where(last < 0, targets, torch.minimum(columns, last))
