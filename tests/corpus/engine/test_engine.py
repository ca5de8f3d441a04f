"""Shards of work in a shared folder: nobody's twice, nothing lost, whoever is killed when."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections import Counter
from functools import partial
from types import SimpleNamespace

import pytest

from omnivast.config.extras import is_installed
from omnivast.corpus.engine import leases as leases_module
from omnivast.corpus.engine import on_ray, workers
from omnivast.corpus.engine.leases import Leases
from omnivast.corpus.engine.results import ShardResults, line_of, read_rows, whole_lines
from omnivast.corpus.engine.view import View
from omnivast.corpus.engine.workers import Stage, StageError, run, work

SHARDS = [f"{number:05d}" for number in range(6)]


def items_of(shard):
    return [{"id": f"{shard}/{number}"} for number in range(7)]


def slow(item, settings):
    time.sleep(settings["seconds"])
    return {"id": item["id"], "text": item["id"] * 50}


def stage(folder, function=slow, **settings):
    return Stage("test", function, {"seconds": 0.0, **settings}, folder, items_of, dict.fromkeys(SHARDS, 7))


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


@pytest.fixture
def unbroken(tmp_path):
    whole = stage(tmp_path / "unbroken")
    whole.leases.open(SHARDS)
    work(whole)
    assert [row["id"] for row in read_rows(whole.folder / "00003.jsonl")] == [f"00003/{number}" for number in range(7)]
    return content(whole.folder)


def child(does):
    process = os.fork()
    if process == 0:
        try:
            does()
        finally:
            os._exit(0)
    return process


def test_a_shard_is_claimed_once(tmp_path):
    one, other = Leases(tmp_path), Leases(tmp_path, host="elsewhere")
    one.open(["a", "b"])
    other.open(["a", "b"])
    first, second = one.claim(), other.claim()
    assert (first.shard, second.shard, one.claim()) == ("a", "b", None) and one.counts() == (0, 2, 0)
    first.finish()
    second.give_back()
    one.open(["a", "b"])
    assert one.counts() == (1, 0, 1) and not list(tmp_path.glob(".now*"))


def test_the_dead_are_found_here_at_once_and_elsewhere_by_their_silence(tmp_path):
    here, there = Leases(tmp_path), Leases(tmp_path, host="elsewhere")
    here.open(["a", "b", "c"])
    process = child(here.claim)
    os.waitpid(process, 0)
    far, near = there.claim(), here.claim()
    assert here.put_back_the_dead() == ["a"]  # its process is gone; those of b and c may live
    old = time.time() - leases_module.STALE - 10
    os.utime(far.path, (old, old))
    assert here.put_back_the_dead() == ["b"] and far.lost and not near.lost
    far.finish()  # it was thought dead and is not: no harm
    assert here.counts() == (2, 1, 0)


def test_a_worker_goes_on_where_the_furthest_stopped(tmp_path):
    for owner, count in (("00000@x@1", 2), ("00000@x@2", 4)):
        results = ShardResults(tmp_path, "00000", owner)
        results.open()
        for item in items_of("00000")[len(whole_lines(tmp_path / "parts" / f"{owner}.jsonl")) : count]:
            results.append(item)
        results.close()
    with open(tmp_path / "parts" / "00000@x@2.jsonl", "ab") as file:
        file.write(line_of({"id": "00000/4"})[:-5])  # killed within a line
    results = ShardResults(tmp_path, "00000", "00000@x@3")
    assert results.open() == 4
    results.append({"id": "00000/4"})
    results.finish()
    assert [row["id"][-1] for row in read_rows(results.final)] == list("01234") and not list((tmp_path / "parts").iterdir())
    assert ShardResults(tmp_path, "00000", "00000@x@4").open() == -1


def test_kills_on_two_machines_change_no_byte(tmp_path, unbroken, monkeypatch):
    monkeypatch.setattr(leases_module, "STALE", 0.4)
    monkeypatch.setattr(leases_module, "BEAT", 0.05)
    broken = stage(tmp_path / "broken", seconds=0.004)
    broken.leases.open(SHARDS)
    rng, living, kills = random.Random(0), [], 0

    def machine(name):
        leases_module.this_host = lambda: name
        work(broken)

    end = time.monotonic() + 60
    while broken.leases.counts()[2] < len(SHARDS):
        assert time.monotonic() < end, "it does not come to an end"
        broken.leases.put_back_the_dead()
        while len(living) < 3:
            living.append(child(partial(machine, rng.choice(["one", "two"]))))
        time.sleep(rng.uniform(0, 0.03))
        victim = living.pop(rng.randrange(3))
        if kills < 60:
            os.kill(victim, signal.SIGKILL)
            kills += 1
        os.waitpid(victim, 0)
    for process in living:
        os.waitpid(process, 0)
    assert kills and content(broken.folder) == unbroken


def failing(item, settings):
    if item["id"] == "00002/3":
        os.kill(os.getpid(), signal.SIGSEGV)
    return slow(item, settings)


@pytest.mark.slow
def test_processes_and_an_item_that_kills_them(tmp_path, unbroken):
    """A decoder may take its process with it; the item is tried again, then counted, and all else is as it should be."""
    hurt = stage(tmp_path / "hurt", failing)
    run(hurt, workers=2)
    found = content(hurt.folder)
    (row,) = [row for row in read_rows(hurt.folder / "00002.jsonl") if "failed" in row]
    assert row == {"id": "00002/3", "failed": "the process crashed on it"}
    assert {name: lines for name, lines in found.items() if name != "00002.jsonl"} == {
        name: lines for name, lines in unbroken.items() if name != "00002.jsonl"}


def full(item, settings):
    raise OSError(28, "No space left on device")


def faulty(item, settings):
    raise ZeroDivisionError


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_loses_nothing(tmp_path, unbroken):
    with pytest.raises(StageError, match="the same command continues"):
        run(stage(tmp_path / "disk", full), workers=1)
    with pytest.raises(StageError, match="could not go on"):  # and does not begin anew for ever
        run(stage(tmp_path / "disk", faulty), workers=2)
    again = stage(tmp_path / "disk")
    run(again, workers=1)
    assert content(again.folder) == unbroken and workers.POLL < 1


def two(items, settings):
    if items[0]["id"] == settings.get("stops at"):
        raise StageError("the model is gone")
    return [{"id": item["id"], "with": [other["id"] for other in items]} for item in items]


def test_items_may_be_taken_together_and_an_error_of_the_stage_ends_the_run(tmp_path):
    """Always the same items, wherever a run ends."""
    whole = Stage("test", two, {}, tmp_path / "whole", items_of, dict.fromkeys(SHARDS[:2], 7), at_once=3)
    run(whole, 2)
    assert [len(row["with"]) for row in read_rows(whole.folder / "00001.jsonl")] == [3, 3, 3, 3, 3, 3, 1]
    broken = Stage("test", two, {"stops at": "00000/3"}, tmp_path / "broken", items_of, dict.fromkeys(SHARDS[:2], 7), at_once=3)
    with pytest.raises(StageError, match="the same command continues"):
        run(broken, 1)
    again = Stage("test", two, {}, broken.folder, items_of, broken.sizes, at_once=3)
    run(again, 1)
    assert content(again.folder) == content(whole.folder)


def test_a_line_that_a_full_disk_cut_off_is_written_anew(tmp_path, unbroken):
    broken = stage(tmp_path / "small")
    broken.leases.open(SHARDS)

    def on_a_small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
        work(broken)

    os.waitpid(child(on_a_small_disk), 0)
    (part,) = (broken.folder / "parts").glob("*.jsonl")
    assert part.stat().st_size == 700 and len(whole_lines(part)) == 1 and broken.leases.counts() == (len(SHARDS), 0, 0)
    work(broken)
    assert content(broken.folder) == unbroken


def killed_from_outside(item, settings):
    if item["id"] == "00002/3":
        os.kill(os.getpid(), signal.SIGKILL)
    return slow(item, settings)


@pytest.mark.slow
def test_an_item_for_which_memory_does_not_suffice_ends_the_run(tmp_path, unbroken):
    """Its workers are killed, and no others may take their place for ever; the item is no failure, and the run continues elsewhere."""
    with pytest.raises(StageError, match="killed 5 times while they worked on 00002/3"):
        run(stage(tmp_path / "small", killed_from_outside), workers=1)
    again = stage(tmp_path / "small")
    run(again, workers=1)
    assert content(again.folder) == unbroken


def test_a_crash_on_another_machine_is_no_crash_here(tmp_path):
    """Processes of two machines may have one number."""
    hurt = stage(tmp_path)
    for host in (leases_module.this_host(), "elsewhere"):
        results = ShardResults(tmp_path, f"0000{len(host) % 6}", f"0000{len(host) % 6}@{host}@77")
        results.open()
        results.append({"id": "0"})
    ended = SimpleNamespace(exitcode=-signal.SIGSEGV, pid=77)
    workers._note_death(hurt, ended, Counter())
    assert [path.name for path in (tmp_path / "crashes").iterdir()] == [f"0000{len(leases_module.this_host()) % 6}.1"]


def test_machines_may_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv(leases_module.HOST, "rack/7@left")
    leases = Leases(tmp_path)
    leases.open(["a", "b"])
    assert leases.claim("b").owner == f"b@rack_7_left@{os.getpid()}" and leases.claim("b") is None and leases.waiting() == ["a"]


def test_the_view_says_what_is_done_and_what_follows(caplog):
    caplog.set_level("INFO", logger="omnivast")
    view = View(["probe", "split", "clips"])
    with view.bar("split", 4, "source", 1) as bar:
        bar.update(3)
    with view.bar("captions", 2, "clip") as bar:
        bar.update(2)
    first, other = caplog.messages
    assert first.startswith("split (2 of 3): 4/4 (100 %), ") and first.endswith("then clips") and other.startswith("captions: 2/2")


@pytest.mark.skipif(is_installed("ray"), reason="Ray is installed")
def test_without_ray_it_says_what_to_install(tmp_path):
    with pytest.raises(ImportError, match=r'ray is not installed: pip install "omnivast\[ray\]"'):
        on_ray.run(stage(tmp_path), workers=1)


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("ray"), reason="needs Ray")
def test_the_same_bytes_come_from_ray(tmp_path, unbroken):
    there = stage(tmp_path / "ray")
    there.leases.open(SHARDS)
    lease = there.leases.claim("00004")
    lease.finish()  # done before: its results are there
    (there.folder / "00004.jsonl").write_bytes(unbroken["00004.jsonl"])
    on_ray.run(there, workers=2)
    assert content(there.folder) == unbroken and there.leases.counts() == (0, 0, len(SHARDS))
    with pytest.raises(StageError, match="test: a worker could not go on: .*No space left on device; the same command continues"):
        on_ray.run(stage(tmp_path / "full", full), workers=1)
