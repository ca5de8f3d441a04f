"""Indexing shared out over processes: who reads what, and the same index as by one, killed or not."""

from __future__ import annotations

import os
import signal

import pytest

from omnivast.inference.index import build, share
from omnivast.inference.index.api import Index
from omnivast.inference.index.store import File, Store
from omnivast.inference.pipeline import load
from tests.inference.test_index import content
from tests.processes import exit_codes, together

SECONDS = 240.0


def named(*sizes):
    return [File(str(number), size, 1) for number, size in enumerate(sizes)]


def test_units_are_of_so_many_files_or_fewer_long_ones():
    assert list(share.units(named(1, 1, 1, 1, 1), 2).values()) == [0, 0, 1, 1, 2]
    large = share.UNIT_BYTES
    assert list(share.units(named(large, 1, large, 1, 1), 2).values()) == [0, 1, 1, 2, 2]


def test_a_unit_goes_to_the_process_that_has_least():
    files = named(9, 1, 2, 3, 4)
    unit_of = {"0": 0, "1": 1, "2": 1, "3": 2, "4": 3}
    given = [[file.path for file in share.share(files, unit_of, rank, 2)] for rank in range(2)]
    assert given == [["0"], ["1", "2", "3", "4"]]
    assert share.share(files, unit_of, 0, 1) == files


def index(rank, run, files, folder, dies=""):
    """Index in units of two files. ``dies``: where rank 1, while it indexes, or rank 0, while it merges, is killed."""
    build.BATCH, share.ROWS_AT_ONCE = 2, 1
    commit, calls = Store.commit, []

    def counted(self, found):
        calls.append(self.folder.name)
        if dies and (dies == "indexing") == bool(rank) and calls.count("1" if rank else folder.name) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        commit(self, found)

    Store.commit = counted
    made = Index(files, load(run), folder=folder, window=2.0, stride=1.0)
    return made.report, [found.path for found in made.search("a red car", top=5)], calls


@pytest.fixture
def whole(model, media, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BATCH", 2)
    return Index(media, model, folder=tmp_path / "whole", window=2.0, stride=1.0)


def test_two_processes_make_the_index_of_one(run, media, whole, tmp_path):
    folder = tmp_path / "two"
    (report, found, calls), (other, same, others) = together(index, 2, run, media, folder, seconds=SECONDS)
    assert content(folder) == content(whole.folder)
    assert report == other == whole.report
    assert found == same == [one.path for one in whole.search("a red car", top=5)]
    assert "0" in calls and others == ["1"] * len(others) and others  # both indexed, rank 0 merged
    assert not (folder / share.PARTS).exists()


@pytest.mark.parametrize(("where", "processes"), [("indexing", 1), ("indexing", 3), ("merging", 2)])
def test_killed_it_goes_on_with_any_number_of_processes(run, media, model, whole, tmp_path, where, processes):
    folder = tmp_path / "two"
    codes = exit_codes(index, 2, run, media, folder, where, seconds=SECONDS, enough=1)
    assert -signal.SIGKILL in codes
    assert list((folder / share.PARTS).iterdir())
    if processes == 1:
        Index(media, model, folder=folder, window=2.0, stride=1.0)
    else:
        together(index, processes, run, media, folder, seconds=SECONDS)
    assert content(folder) == content(whole.folder)
    assert not (folder / share.PARTS).exists()
