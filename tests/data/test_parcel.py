"""Batches on their way from the process that reads them."""

import os
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from omnivast.data import parcel
from omnivast.data.batch import Batch, Texts
from omnivast.data.loader import data_loader
from omnivast.data.parcel import Parcel


@pytest.fixture
def batch():
    texts = Texts(torch.arange(6).view(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.tensor([0, 1]), ["ä", "b"])
    return Batch("c", ["x", "y"], torch.tensor([4, 5]), frames=torch.arange(7, dtype=torch.uint8).view(7, 1)[::2],
                 spectrograms=torch.rand(2, 3), subtitles=texts, questions=texts, present={"v": torch.zeros(0), "a": torch.tensor(2.5)})


def same(one, other):
    return (all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("index", "frames", "spectrograms"))
            and torch.equal(one.subtitles.ids, other.subtitles.ids) and torch.equal(one.subtitles.mask, other.subtitles.mask)
            and one.clip_ids == other.clip_ids and one.subtitles.raw == other.subtitles.raw
            and all(torch.equal(one.present[key], other.present[key]) for key in one.present))


@pytest.mark.parametrize("files", [True, False])
def test_a_batch_arrives_as_it_was_whether_there_are_files_in_memory_or_not(batch, monkeypatch, files):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    if not files:
        monkeypatch.setattr(parcel.os, "memfd_create", refuse, raising=False)
    found = pickle.loads(ForkingPickler.dumps(Parcel(batch))).open()
    assert same(found, batch) and found.questions is found.subtitles
    found.frames += 1  # its own, to be written to
    assert not torch.equal(found.frames, batch.frames)
    assert pickle.loads(ForkingPickler.dumps(Parcel(["no", "tensor"]))).open() == ["no", "tensor"]


def test_nothing_is_left_to_fail_in_the_thread_that_sends(batch, monkeypatch):
    """torch would ask for a piece of /dev/shm and an open file for each tensor there, and a batch that finds none is lost."""
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", refuse)
    pack = data_loader(["unused"], [[0]], 1, pin_memory=False).collate_fn
    assert same(pickle.loads(ForkingPickler.dumps(pack(batch))).open(), batch)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_batch_takes_one_open_file_as_long_as_it_lives(batch):
    before = len(os.listdir("/proc/self/fd"))
    found = [pickle.loads(ForkingPickler.dumps(Parcel(batch))).open() for _ in range(3)]
    assert len(os.listdir("/proc/self/fd")) <= before + 3 + 1  # the address of those that wait
    del found
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_sender_that_is_gone_is_a_broken_connection(batch):
    sent = Parcel(batch)
    sent._content.detach()
    with pytest.raises((ConnectionError, EOFError)):
        sent.open()
