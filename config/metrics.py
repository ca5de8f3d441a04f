"""The numbers that evaluations give: which there are, which way is better, and how result files and logs spell them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omnivast.config.tasks import Group, Objective, TaskError


@dataclass(frozen=True)
class Metric:
    """A kind of number."""

    key: str
    """Its name in result files."""
    label: str
    """Its name for people, in tables and charts."""
    percent: bool = True
    """Whether it is a percentage; CIDEr and ranks are not."""
    higher_is_better: bool = True
    in_paper: bool = True
    """Whether the paper's tables have it."""


R1, R5, R10 = Metric("r1", "R@1"), Metric("r5", "R@5"), Metric("r10", "R@10")
R50 = Metric("r50", "R@50", in_paper=False)
MEDIAN_RANK = Metric("median_rank", "median rank", percent=False, higher_is_better=False, in_paper=False)
MEAN_RANK = Metric("mean_rank", "mean rank", percent=False, higher_is_better=False, in_paper=False)
CIDER = Metric("cider", "CIDEr", percent=False)
ACCURACY = Metric("accuracy", "accuracy")
VQA_ACCURACY = Metric("vqa_accuracy", "VQA accuracy")
JUDGED = Metric("judged", "right by a judge")
"""Stored in a result's protocol, not among its metrics: it is comparable neither with exact match nor with what another judge finds."""

METRICS = {metric.key: metric for metric in (
    R1, R5, R10, R50, MEDIAN_RANK, MEAN_RANK, Metric("bleu4", "BLEU-4"), Metric("meteor", "METEOR"), Metric("rougeL", "ROUGE-L"), CIDER,
    Metric("spice", "SPICE"), Metric("spider", "SPIDEr", percent=False), ACCURACY, VQA_ACCURACY, JUDGED,
    Metric("accuracy_normalised", "accuracy, normalised", in_paper=False),
    Metric("accuracy_synonyms", "accuracy, with synonyms", in_paper=False),
)}
"""Key → metric, in the order of tables."""


class Ranks(str, Enum):
    """By which score the candidates of a query were ranked; v2t: clips search for their texts, otherwise texts search for their clip."""

    ITM = "itm"
    ITC = "itc"
    ITM_V2T = "itm_v2t"
    ITC_V2T = "itc_v2t"
    DUAL_SOFTMAX = "dual_softmax"
    DUAL_SOFTMAX_V2T = "dual_softmax_v2t"

    @property
    def of_clips(self) -> bool:
        """Whether clips search for their texts."""
        return self in (Ranks.ITM_V2T, Ranks.ITC_V2T, Ranks.DUAL_SOFTMAX_V2T)


@dataclass(frozen=True)
class MetricName:
    """Which number of which evaluation: in eval.jsonl and on TensorBoard ``msrvtt.ret.tvas.itm.r1`` or ``msrvtt.cap.tvas.cider``."""

    dataset: str
    objective: Objective
    group: Group
    ranks: Ranks | None
    """Of retrieval alone."""
    metric: Metric

    @classmethod
    def parse(cls, name: str) -> MetricName | None:
        """None for what is no metric of a whole test set, such as the accuracy of one type of question, or a number of another kind."""
        ranked = name.rsplit(".", 4)
        if len(ranked) == 5 and ranked[1] == Objective.RETRIEVAL.value and ranked[3] in {ranks.value for ranks in Ranks}:
            dataset, objective, group, ranks, key = ranked[0], ranked[1], ranked[2], Ranks(ranked[3]), ranked[4]
        else:
            parts = name.rsplit(".", 3)
            if len(parts) < 4 or parts[1] not in (Objective.CAPTION.value, Objective.QA.value, Objective.CHAT.value):
                return None
            dataset, objective, group, ranks, key = *parts[:3], None, parts[3]
        try:
            return cls(dataset, Objective(objective), Group.parse(group), ranks, METRICS[key])
        except (KeyError, TaskError):
            return None

    def __str__(self) -> str:
        """The inverse of :meth:`parse`."""
        ranks = [self.ranks.value] if self.ranks else []
        return ".".join([self.dataset, self.objective.value, str(self.group), *ranks, self.metric.key])
