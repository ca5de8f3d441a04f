"""A step that is simulated sends what real processes send, and holds what they hold."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

from omnivast.config.schema import RunConfig
from omnivast.training.engines.build import build_engine
from omnivast.training.simulate import _averaged, simulated_step
from omnivast.utils import distributed
from omnivast.utils.collectives import Collectives
from omnivast.utils.distributed import counted_traffic
from omnivast.utils.random import StepRandom
from tests.model.tiny import batch, task, vast
from tests.processes import together

TASK = task("ret%tvas%tva%tvs%tv%ta_cap%tvas%tv")
OWN = slice(0, 2)
"""Clips of each process, the same of all."""
RUNS = {"ddp": RunConfig(parallel="ddp", precision="float32"), "fsdp": RunConfig(parallel="fsdp", precision="float32"),
        "ddp, two batches": RunConfig(parallel="ddp", precision="float32", gradient_accumulation_steps=2),
        "fsdp, two batches": RunConfig(parallel="fsdp", precision="float32", gradient_accumulation_steps=2)}


def counted(rank: int, processes: int) -> dict:
    """What a real process sends in a step, whose hard negatives are those that a simulated one makes up."""
    gather = distributed.gather_numbers

    def made_up(numbers, known, below):
        real = gather(numbers, known, below)
        drawn = np.random.default_rng(0).integers(below, size=(processes, len(numbers)))
        return np.concatenate([drawn, real[:, len(numbers):]], 1)

    distributed.gather_numbers = made_up
    found = {}
    for name, run in RUNS.items():
        model = vast()
        engine = build_engine(model, run, torch.device("cpu"))
        engine.begin(batch(rows=OWN), {TASK})
        held = sum(x.numel() * x.element_size() for x in map(local, [*engine.trained.parameters(), *engine.trained.buffers()]))
        if run.parallel == "ddp":
            engine.wrapped.register_comm_hook(None, lambda _, bucket: _averaged(bucket))
        with noted(Collectives(rank, processes)) as collectives, counted_traffic() as traffic:
            for micro in range(run.gradient_accumulation_steps):
                draws = StepRandom(run.seed, micro, 2 * rank, 2 * processes)
                with engine.micro_batch(last=micro == run.gradient_accumulation_steps - 1):
                    engine.backward(engine(batch(rows=OWN), TASK, draws)["loss"])
        found[name] = {"collectives": collectives.by_name(), "sent": traffic.sent, "held": held}
        engine.close()
    return found


GATHER, SCATTER = ("_allgather_base_", ("output_tensor", "input_tensor")), ("_reduce_scatter_base_", ("output", "input"))
FUNCTIONS = {"all_gather": ("allgather_", ("tensor_list", "tensor")), "all_gather_single": GATHER, "all_gather_into_tensor": GATHER,
             "reduce_scatter_single": SCATTER, "reduce_scatter_tensor": SCATTER, "all_reduce": ("allreduce_", ("tensor",)),
             "all_to_all_single": ("alltoall_base_", ("output", "input", "group", "output_split_sizes", "input_split_sizes"))}
"""Functions of torch.distributed → the operation of the dispatcher, and its arguments."""


@contextmanager
def noted(collectives):
    """Collectives of real processes, noted where they are called: within the dispatcher gloo's threads would wait for Python, and Python
    for them."""
    def counting(function, operation, arguments):
        def call(*args, **kwargs):
            given = inspect.signature(function).bind(*args, **kwargs).arguments
            collectives.note(operation, [given.get(name) for name in arguments])
            return function(*args, **kwargs)
        return call

    with ExitStack() as stack:
        for name, (operation, arguments) in FUNCTIONS.items():
            if hasattr(dist, name):  # torch has renamed some
                function = getattr(dist, name)
                stack.enter_context(mock.patch.object(dist, name, counting(function, operation, arguments)))
        yield collectives


def local(x):
    return x.to_local() if hasattr(x, "to_local") else x


@pytest.fixture(scope="module")
def real():
    return {processes: together(counted, processes, processes)[0] for processes in (2, 4)}


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("name", RUNS)
def test_a_simulated_process_sends_what_a_real_one_sends(real, name, processes):
    found = simulated_step(vast(), batch(rows=OWN), TASK, RUNS[name], 2, processes, kind="cpu")
    wanted = real[processes][name]
    assert found.sent == wanted["sent"]
    # DistributedDataParallel hands on buffers below Python, where they cannot be noted.
    sent = {name: total for name, total in found.collectives.by_name().items() if name != "broadcast"}
    assert sent == wanted["collectives"]
    assert found.memory["weights"] == wanted["held"]


def test_more_processes_hold_less_and_send_more():
    runs = {processes: simulated_step(vast(), batch(rows=OWN), TASK, RUNS["fsdp"], 2, processes) for processes in (2, 8, 64)}
    weights = [run.memory["weights"] for run in runs.values()]
    assert weights == sorted(weights, reverse=True) and runs[2].trained > 10 * runs[64].trained
    gathered = [run.collectives.by_name()["all-gather"] for run in runs.values()]
    assert len({count for count, _, _ in gathered}) == 1 and gathered[0][1] < gathered[1][1] < gathered[2][1]
    assert any(one.backward for one in runs[2].collectives.found) and not all(one.backward for one in runs[2].collectives.found)
    flops = [run.work.forward.flops for run in runs.values()]
    assert flops == sorted(flops) and flops[-1] < 1.01 * flops[0]  # the table of similarities alone grows with the group


def test_what_cannot_be_simulated_says_so():
    with pytest.raises(ValueError, match="parallel deepspeed cannot be simulated; fsdp"):
        simulated_step(vast(), batch(), TASK, RunConfig(parallel="deepspeed"), 2, 2)
