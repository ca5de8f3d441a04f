"""A stage within one process."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial

import pytest

from omnivast.corpus.engine.here import batches, one_by_one, run_here
from omnivast.corpus.engine.results import read_rows
from omnivast.corpus.engine.workers import Stage, redo_from


def child(does):
    process = os.fork()
    if process == 0:
        try:
            does()
        finally:
            os._exit(0)
    return process


def items(shard):
    return [{"id": f"{shard}{number}"} for number in range(5)]


def double(item, settings):
    settings["done"].append(item["id"])
    return {"id": item["id"], "twice": item["id"] * 2}


def stage_in(folder):
    return Stage("double", double, {"done": []}, folder, items, {"a": 5, "b": 5})


def in_batches(done, seen, there, *, stop=None):
    """Rows of two items at once, which note those that they were made with."""
    for batch, known in batches(seen, there, 2):
        names = [item["id"] for item in batch]
        if stop in names:
            raise RuntimeError("stopped")
        done.append(names)
        yield from [{"id": name, "with": names} for name in names][known:]


def test_every_shard_is_done_in_order(tmp_path):
    stage = stage_in(tmp_path)
    run_here(stage, one_by_one(stage))
    assert [row["twice"] for row in read_rows(tmp_path / "b.jsonl")] == [name["id"] * 2 for name in items("b")]
    run_here(stage, one_by_one(stage))
    assert len(stage.settings["done"]) == 10


def test_batches_are_the_same_wherever_one_begins(tmp_path):
    done = []
    run_here(stage_in(tmp_path / "whole"), partial(in_batches, done))
    assert done == [["a0", "a1"], ["a2", "a3"], ["a4"], ["b0", "b1"], ["b2", "b3"], ["b4"]]
    stage = stage_in(tmp_path / "parts")
    with pytest.raises(RuntimeError):
        run_here(stage, partial(in_batches, [], stop="b2"))
    assert stage.leases.counts() == (1, 0, 1)
    part = next((stage.folder / "parts").glob("b@*.jsonl"))
    part.write_bytes(part.read_bytes().splitlines(keepends=True)[0])  # killed between two rows of a batch
    done.clear()
    run_here(stage, partial(in_batches, done))
    assert done == [["b0", "b1"], ["b2", "b3"], ["b4"]]
    for name in ("a.jsonl", "b.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_killed_at_any_moment_it_goes_on(tmp_path):
    """Two processes, killed again and again, each while rows are written: the files are those of an unbroken run, and of a batch that was
    begun no more is made again than that batch."""
    whole, broken = stage_in(tmp_path / "whole"), stage_in(tmp_path / "broken")
    run_here(whole, partial(in_batches, []))
    log = tmp_path / "log"

    def slowly(seen, there):
        for batch, known in batches(seen, there, 2):
            with open(log, "a") as file:
                file.write(f"{batch[0]['id']}\n")
            time.sleep(0.04)
            for row in [{"id": item["id"], "with": [one["id"] for one in batch]} for item in batch][known:]:
                yield row
                time.sleep(0.02)

    draws, kills = random.Random(0), 0
    for number in range(200):
        if broken.leases.done.is_dir() and broken.leases.counts()[2] == 2:
            break
        children = [child(lambda: run_here(broken, slowly)) for _ in range(2)]
        time.sleep(draws.uniform(0.02, 0.12) * (1 + number / 20))  # more and more, for slow machines
        for process in children:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        kills += 2
    assert kills >= 2
    for name in ("a.jsonl", "b.jsonl"):
        assert (whole.folder / name).read_bytes() == (broken.folder / name).read_bytes()
    assert len(log.read_text().splitlines()) <= 6 + kills


def test_a_shard_is_done_again_from_an_item_on(tmp_path):
    stage = stage_in(tmp_path)
    run_here(stage, one_by_one(stage))
    stage.settings["done"].clear()
    redo_from(stage, "b", 3)
    run_here(stage, one_by_one(stage))
    assert stage.settings["done"] == ["b3", "b4"] and len(list(read_rows(tmp_path / "b.jsonl"))) == 5
    with pytest.raises(RuntimeError):
        redo_from(stage, "a", 4)
        run_here(stage, partial(in_batches, [], stop="a4"))
    redo_from(stage, "a", 1)  # of one that is not finished
    stage.settings["done"].clear()
    run_here(stage, one_by_one(stage))
    assert stage.settings["done"] == ["a1", "a2", "a3", "a4"]
    assert [row["id"] for row in read_rows(tmp_path / "a.jsonl")] == ["a0", "a1", "a2", "a3", "a4"]
