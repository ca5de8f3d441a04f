"""SIGKILL at random moments, within steps, saves and evaluations: the run that is started again each time ends as an unbroken one."""

import json
import multiprocessing
import random
import time

import pytest
import torch

from omnivast.training.loop import train
from omnivast.utils.log import read_jsonl
from tests.training.test_loop import metrics, same, scores
from tests.training.toy import Loader, Toy, config

STEPS = 24


def run(folder, asynchronous=False):
    torch.set_num_threads(1)
    loader = Loader(total=STEPS)
    loader.on_step = lambda step: time.sleep(0.002)
    train(config(folder, resume=True, save_every=1, save_best=True, valid_freq=6, async_save=asynchronous), Toy(), loader, evaluate=scores)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_killed_at_random_moments(tmp_path, asynchronous):
    run(tmp_path / "unbroken")
    moments, fork, kills = random.Random(1), multiprocessing.get_context("fork"), 0
    while True:
        process = fork.Process(target=run, args=(tmp_path / "broken", asynchronous))
        process.start()
        process.join(moments.uniform(0.02, 0.25) if kills < 25 else 60)
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
    assert process.exitcode == 0 and kills >= 1
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "unbroken")
    assert read_jsonl(tmp_path / "broken" / "log" / "eval.jsonl") == read_jsonl(tmp_path / "unbroken" / "log" / "eval.jsonl")
    for name in ("latest.json", "best.json"):
        one, other = (json.loads((tmp_path / f / "ckpt" / name).read_text()) for f in ("broken", "unbroken"))
        assert one["step"] == other["step"]
    for name in (f"model_step_{STEPS}.pt", f"best_{one['metric']}.pt"):
        same(*(torch.load(tmp_path / f / "ckpt" / name) for f in ("broken", "unbroken")))
    assert not list((tmp_path / "broken" / "ckpt").glob(".*.tmp"))
