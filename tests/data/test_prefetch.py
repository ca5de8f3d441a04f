"""Batches taken ahead in a thread of their own."""

import gc
import threading
import time
import weakref

import pytest
import torch

from omnivast.data import prefetch
from omnivast.data.batch import Batch
from omnivast.data.prefetch import AHEAD, Prefetched, on_device


def batches(count, taken=None):
    for number in range(count):
        if taken is not None:
            taken.append(number)
        yield Batch(f"c{number}", ["a"], torch.tensor([number]))


def as_is(batch):
    return lambda: batch


def begun(before) -> list[threading.Thread]:
    """Prefetching threads that live, but for those of ``before``."""
    return [thread for thread in threading.enumerate() if thread.name == "prefetch" and thread not in before]


def until(condition):
    deadline = time.monotonic() + 300
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_all_in_order_and_few_ahead():
    taken, before = [], threading.enumerate()
    found = Prefetched(batches(6, taken), as_is)
    until(lambda: len(taken) == AHEAD + 1)  # one waits, one is being brought
    time.sleep(0.05)
    assert len(taken) == AHEAD + 1
    assert [next(found).corpus for _ in range(2)] == ["c0", "c1"]
    assert [batch.corpus for batch in found] == ["c2", "c3", "c4", "c5"]
    assert next(found, None) is None and next(found, None) is None
    until(lambda: not begun(before))


def test_what_goes_wrong_is_raised_where_the_batch_is_wanted():
    def broken():
        yield from batches(2)
        raise OSError("the disk is gone")

    found = Prefetched(broken(), as_is)
    assert next(found).corpus == "c0" and next(found).corpus == "c1"
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)
    assert next(found, None) is None


def test_dropped_in_the_middle_its_thread_ends():
    before = threading.enumerate()
    found = Prefetched(batches(100), as_is)
    next(found)
    assert len(begun(before)) == 1
    reference = weakref.ref(found)
    del found
    gc.collect()
    assert reference() is None
    until(lambda: not begun(before))


def test_on_the_cpu_nothing_is_done():
    source = batches(3)
    assert on_device(source, torch.device("cpu")) is source


def test_the_thread_reads_on_the_device_of_its_process(monkeypatch):
    """Each thread of a process begins with the machine's first GPU."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append((threading.current_thread().name, device)))
    monkeypatch.setattr(prefetch, "_Copier", lambda device: as_is)
    device = torch.device("cuda", 3)

    def source():
        assert chosen == [("prefetch", device)]  # before anything is read
        yield from batches(2)

    assert [batch.corpus for batch in on_device(source(), device)] == ["c0", "c1"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_each_batch_arrives_whole():
    device = torch.device("cuda", torch.cuda.current_device())
    source = [Batch(f"c{i}", ["a"], torch.tensor([i]), frames=torch.full((64, 8, 3, 224, 224), i, dtype=torch.uint8)).pin_memory()
              for i in range(4)]
    for i, batch in enumerate(on_device(iter(source * 3), device)):
        assert batch.frames.is_cuda and batch.index.item() == i % 4
        busy = torch.randn(4096, 4096, device=device)
        for _ in range(5):
            busy = busy @ busy / 64
        assert batch.frames.float().mean().item() == i % 4
