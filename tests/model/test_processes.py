"""Two processes (gloo) with half of the batch each compute the losses and gradients of one process with all of it."""

import pytest
import torch

from omnivast.config.tasks import Modality
from omnivast.model.vast import negatives
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import to_host
from tests.model.tiny import batch, gram, task, texts, vast
from tests.model.tiny import negatives as negatives_of
from tests.processes import assert_same_step, mean_over_processes, together

TOLD = ["title: a man subtitle: hello", "", "description: a red car in the street", "title: cutting onion"]
TASK = "ret%tvas%tva%tvs%tv%ta_cap%tvas%tv_qa%tvas%tv"
SETTINGS = {
    "released": ({}, True),
    "masked": ({"mask_subtitle_padding": True, "missing_modality": "mask"}, True),
    "gathered without gradient": ({}, False),
    "sigmoid": ({"contrastive_loss": "sigmoid"}, True),
    "a temperature per group": ({"temperature_per_group": True}, True),
    "fused teaches": ({"fused_teaches": 0.5}, True),
    "fused teaches, gathered without gradient": ({"fused_teaches": 0.5}, False),
    "prefixes": ({"matryoshka_dims": [4, 8]}, True),
    "pairs of tracks": ({"clip_pairs": {"va": 0.5, "as": 0.25}}, True),
    "pairs of tracks by sigmoid": ({"clip_pairs": {"va": 0.5}, "contrastive_loss": "sigmoid", "missing_modality": "mask"}, True),
    "rejected captions": ({"rejected": True}, True),
    "rejected captions, weighted, by sigmoid": ({"rejected": True, "contrastive_loss": "sigmoid", "rejected_weight": 0.5}, False),
    "rejected captions by volume": ({"rejected": True, "model_type": "gram", "others_weight": 0.5}, True),
    "a text branch": ({"text_branch": 3, "missing_modality": "mask"}, True),
    "volume": ({"model_type": "gram"}, True),
    "volume by sigmoid": ({"model_type": "gram", "contrastive_loss": "sigmoid"}, True),
    "volume and cosine": ({"model_type": "gram", "gram_cosine": 0.5, "missing_modality": "mask"}, True),
}


def step(changes: dict, with_grad: bool, rank: int = 0, processes: int = 1):
    """Losses and gradients by name of this process's share of the same four clips, one of which is silent."""
    share = 4 // processes
    rows = slice(rank * share, (rank + 1) * share)
    made = {key: value for key, value in changes.items() if key not in ("model_type", "rejected")}
    model, own = (gram if "model_type" in changes else vast)(**made).train(), batch(rows=rows)
    own.negatives = negatives_of(rows=rows) if "rejected" in changes else None
    own.told = texts(TOLD[rows], 20) if "text_branch" in changes else None
    own.present = {Modality.AUDIO: torch.tensor([True, False, True, True])[rows]}
    model.gather_with_grad = with_grad
    losses = model(own, task(TASK), StepRandom(7, 3, rank * share, 4))
    losses["loss"].backward()
    return {n: v.detach() for n, v in losses.items()}, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def work(rank: int) -> dict:
    results = {"waits": []}
    for module in (negatives, distributed):
        module.to_host = lambda tensor: results["waits"].append(tensor.shape) or to_host(tensor)
    for name, (changes, with_grad) in SETTINGS.items():
        results[name] = step(changes, with_grad, rank, 2)
        mean_over_processes(results[name])
    return results


@pytest.fixture(scope="module")
def results():
    return together(work, 2)[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_equal_one(results, name):
    assert_same_step(results[name], step(*SETTINGS[name]))


def test_the_host_waits_twice(results):
    """For what all processes drew, and for the captions that they have of each other."""
    assert len(results["waits"]) == 2 * len(SETTINGS)


def test_the_settings_differ():
    """Otherwise the comparison above would prove little."""
    norms = {name: sum(g.norm().item() for g in step(*settings)[1].values()) for name, settings in SETTINGS.items()}
    assert len({round(norm, 3) for norm in norms.values()}) == len(SETTINGS)
