"""What the end of an epoch tells about its data."""

import logging
from types import SimpleNamespace

import pytest
import torch

from omnivast.config.tasks import Modality
from omnivast.data.batch import Batch
from omnivast.training.logs import data_report
from omnivast.training.logs.data_report import DataReport

CORPORA = [SimpleNamespace(name="a", rows=8), SimpleNamespace(name="b", rows=100)]


def batch(corpus, clips=4, seconds=0.4, unreadable=()):
    found = Batch(corpus, [f"{i}" for i in range(clips)], torch.arange(clips), unreadable=list(unreadable))
    found.read_seconds = seconds
    return found


def test_rows_at_the_end_of_an_epoch_and_of_the_run(monkeypatch, caplog):
    monkeypatch.setattr(data_report, "SECONDS_BETWEEN_LINES", 0.0)
    report = DataReport(CORPORA, {})
    report.add(batch("a", unreadable=[("x", "v/x.mp4: no frame 12 of 30"), ("y", "v/y.mp4: no frame 9 of 10")]))
    assert report.step(1, 2.0, 1.0, {"a": 4}, last=False) == []
    report.add(batch("b", seconds=1.2))
    assert report.step(2, 5.0, 0.0, {"a": 4, "b": 4}, last=False) == []
    report.add(batch("a", unreadable=[("z", "v/z.mp4: the file is empty")]))
    with caplog.at_level(logging.INFO, "omnivast"):
        [row] = report.step(3, 2.0, 0.0, {"a": 8, "b": 4}, last=False)
    assert row == {"step": 3, "corpus": "a", "epoch": 1.0, "clips": 8, "seconds": 4.0, "data_wait": 0.25, "data_wait_by_rank": [0.25],
                   "read_seconds_per_clip": pytest.approx(0.1), "slowest_corpus": "b",
                   "unreadable": {"no frame N of N": 2, "the file is empty": 1}, "absent": {}}
    assert ("data of a up to epoch 1: waited for 25.0 % of 4 s; reading a clip takes a process 100 ms (slowest: b); 3 unreadable: "
            "2 x no frame N of N, 1 x the file is empty") in caplog.text
    report.add(batch("a"))
    rows = report.step(4, 1.0, 0.0, {"a": 12, "b": 4}, last=True)
    assert [(row["corpus"], row["epoch"], row["clips"], row["unreadable"]) for row in rows] == [("a", 1.5, 4, {}), ("b", 0.04, 4, {})]


def test_silent_clips_and_those_without_subtitle_are_counted(caplog):
    report = DataReport(CORPORA, {})
    for step, absent in enumerate(({Modality.AUDIO: ["s1", "s2"], Modality.SUBTITLE: []},
                                   {Modality.AUDIO: ["s3"], Modality.SUBTITLE: ["t"]})):
        own = batch("b")
        own.absent = absent
        report.add(own)
        with caplog.at_level(logging.INFO, "omnivast"):
            rows = report.step(step, 1.0, 0.0, {"b": 4 * step + 4}, last=step == 1)
    assert rows[0]["absent"] == {"silent": {"clips": 3, "first": "s1"}, "without subtitle": {"clips": 1, "first": "t"}}
    assert "; 3 of 8 silent ('s1' first); 1 of 8 without subtitle ('t' first)" in caplog.text


def test_a_step_of_several_corpora_and_a_resumed_run(monkeypatch):
    report = DataReport(CORPORA, {"a": 15, "b": 99})
    for corpus in "ab":
        report.add(batch(corpus, clips=1))
    rows = report.step(9, 4.0, 1.0, {"a": 16, "b": 100}, last=False)
    found = [(row["corpus"], row["epoch"], row["seconds"], row["data_wait"]) for row in rows]
    assert found == [("a", 2.0, 2.0, 0.25), ("b", 1.0, 2.0, 0.25)]


def test_the_rank_that_waits_is_named(monkeypatch, caplog):
    """A process whose disk is slow holds up the others, which do not wait for data but for it."""
    monkeypatch.setattr(data_report, "SECONDS_BETWEEN_LINES", 0.0)

    def of_two(value):
        slow = {name: SimpleNamespace(**{**vars(part), "waited": 0.9 * part.seconds}) if hasattr(part, "waited") else part
                for name, part in value.items()}
        return [value, slow]

    monkeypatch.setattr(data_report.distributed, "all_gather_objects", of_two)
    report = DataReport(CORPORA, {})
    report.add(batch("a", clips=8))
    with caplog.at_level(logging.INFO, "omnivast"):
        [row] = report.step(1, 10.0, 0.0, {"a": 16}, last=False)
    assert row["data_wait_by_rank"] == [0.0, 0.9] and row["clips"] == 16
    assert "waited for 45.0 % of 10 s" in caplog.text and "rank 1" not in caplog.text
    report.add(batch("a", clips=8))
    monkeypatch.setattr(data_report.distributed, "all_gather_objects", lambda value: [*of_two(value), value, value])
    with caplog.at_level(logging.INFO, "omnivast"):
        report.step(2, 10.0, 0.0, {"a": 32}, last=False)
    assert "waited for 22.5 % of 10 s (rank 1: 90.0 %)" in caplog.text
