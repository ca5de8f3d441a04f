"""Names of metrics, as eval.jsonl and best.json hold them."""

from __future__ import annotations

import pytest

from omnivast.config.metrics import CIDER, METRICS, R10, MetricName, Ranks
from omnivast.config.tasks import Group, Objective


def test_names_are_read_as_they_are_written():
    name = MetricName("a.b.ret.tv", Objective.RETRIEVAL, Group.parse("tvas"), Ranks.ITC_V2T, R10)
    assert str(name) == "a.b.ret.tv.ret.tvas.itc_v2t.r10" and MetricName.parse(str(name)) == name
    name = MetricName("a.cap", Objective.CAPTION, Group.parse("ta"), None, CIDER)
    assert str(name) == "a.cap.cap.ta.cider" and MetricName.parse(str(name)) == name


@pytest.mark.parametrize("name", ["", "loss", "a.ret.tv.itc", "a.ret.tv.itc.r2", "a.ret.tx.itc.r1", "a.ret.tv.cider", "a.cap.tv.itc.r1",
                                  "a.qa.tv.types.what.accuracy", "a.qa.tv.types.how many"])
def test_other_names_are_no_metrics_of_a_test_set(name):
    assert MetricName.parse(name) is None


def test_what_tables_say():
    assert [metric.label for metric in METRICS.values() if metric.in_paper] == [
        "R@1", "R@5", "R@10", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "SPICE", "SPIDEr", "accuracy", "VQA accuracy", "right by a judge"]
    assert {key for key, metric in METRICS.items() if not metric.higher_is_better} == {"median_rank", "mean_rank"}
    assert {key for key, metric in METRICS.items() if not metric.percent} == {"median_rank", "mean_rank", "cider", "spider"}
