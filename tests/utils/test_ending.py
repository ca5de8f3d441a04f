"""What a run that failed says, alone and under torchrun."""

from __future__ import annotations

import json
import multiprocessing

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from omnivast.utils import ending
from omnivast.utils.ending import end_with


@pytest.fixture
def rank(monkeypatch, tmp_path):
    """This process as one of torchrun's three."""
    monkeypatch.setattr(ending, "PATIENCE", 0.0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")

    def become(number):
        (tmp_path / str(number)).mkdir(exist_ok=True)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(number) / "error.json"))
        return tmp_path / str(number) / "error.json"

    return become


def told(caplog):
    return [record.getMessage() for record in caplog.records]


def test_alone_it_says_so(monkeypatch, caplog):
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert end_with("DataError: a", 2) == 2 and told(caplog) == ["DataError: a"]


def test_of_several_the_first_says_so_and_torchrun_repeats_it(rank, caplog):
    file = rank(1)
    assert end_with("DataError: a", 2) == 2 and told(caplog) == ["DataError: a"]
    failure = ProcessFailure(1, 7, 2, str(file))
    assert failure.message["extraInfo"]["py_callstack"] == "DataError: a" and json.loads(file.read_text())
    quiet = rank(0)
    assert end_with("DataError: a", 2) == 0 and told(caplog) == ["DataError: a"] and not quiet.exists()
    rank(2)
    assert end_with("LoaderError: another", 75) == 75 and told(caplog) == ["DataError: a", "LoaderError: another"]


def test_the_first_ends_after_those_that_end_quietly(rank, caplog, monkeypatch):
    monkeypatch.setattr(ending, "PATIENCE", 600.0)  # not to be reached
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    rank(0)
    other = multiprocessing.get_context("fork").Process(target=end_with, args=("a", 2))
    waits = []

    def sleep(seconds):
        if not waits:
            rank(1)
            other.start()
        waits.append(seconds)
        other.join()  # whom torchrun would reap

    monkeypatch.setattr(ending.time, "sleep", sleep)
    assert end_with("a", 2) == 2 and waits and told(caplog) == ["a"]
    assert other.exitcode == 0


def test_where_no_claim_can_be_made_each_says_so(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(ending, "PATIENCE", 0.0)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "absent" / "0" / "error.json"))
    assert end_with("a", 2) == end_with("a", 2) == 2 and told(caplog) == ["a", "a"]
