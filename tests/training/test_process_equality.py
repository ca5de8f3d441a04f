"""The same global batches on 1, 2 and 4 processes (gloo, float32): the same losses, gradients, negatives and updated weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from omnivast.config.schema import Config, DataConfig, DatasetConfig, ModelConfig, RunConfig
from omnivast.config.tasks import CaptionKind, Modality, Objective, Task
from omnivast.data.batch import Batch, Sample, collate
from omnivast.data.spec import TextLengths
from omnivast.model.vast import contrast
from omnivast.training.loop import train
from omnivast.utils import distributed
from omnivast.utils.log import read_jsonl
from omnivast.utils.random import generator
from tests.model.tiny import CAPTIONS, CONFIG, VALOR, gram, tokenizer, valor, vast
from tests.processes import together
from tests.training.toy import Corpus, InTurn

CLIPS = 8
LEARNING_RATE = 3e-5
"""AdamW divides a gradient by its own size: where that is within rounding of 0, a step of this size may go either way."""
WITHOUT_EFFECT = ("text_fine_weight.2.bias",)
"""What no softmax notices, so that its gradient is rounding alone."""
WORDS = [word for text in CAPTIONS for word in text.split()]
EVERY = "%tvas%tva%tvs%tv%ta%ts"
RET, CAP, QA = f"ret{EVERY}", f"cap{EVERY}", f"qa{EVERY}"
PRETRAIN = "ret%tvas%tva%tvs%tv%ta_cap%tvas%tva%tvs%tv%ta"


@dataclass
class Scenario:
    """One task per corpus; the corpora take turns."""

    tasks: tuple[str, ...]
    steps: int = 2
    accumulation: int = 1
    with_grad: bool = True
    model: dict[str, Any] = field(default_factory=dict)
    family: str = "vast"

    @property
    def config(self) -> ModelConfig:
        return dataclasses.replace(VALOR if self.family == "valor" else CONFIG, **self.model)

    @property
    def drawn(self) -> int:
        """Draws of negatives in the whole training: of clips and of captions, for each group of each batch."""
        if self.family == "valor":
            return 0
        groups = [len(Task.parse(self.tasks[i % len(self.tasks)]).groups(Objective.RETRIEVAL)) for i in range(self.steps)]
        return 2 * self.accumulation * sum(groups)


SCENARIOS = {
    "ret": Scenario((RET,), accumulation=2),
    "ret, gathered without gradient": Scenario((RET,), with_grad=False),
    "cap": Scenario((CAP,)),
    "qa": Scenario((QA,), accumulation=2),
    "mixture": Scenario((PRETRAIN, "qa%tvas", "ret%tv_cap%tv"), steps=3),
    "mixture, masked, gathered without gradient": Scenario((PRETRAIN, "ret%ta_cap%ta"), accumulation=2, with_grad=False,
                                                           model={"mask_subtitle_padding": True, "missing_modality": "mask"}),
    "gram": Scenario((RET, "cap%tvas_qa%tvas"), family="gram"),
    "valor": Scenario(("ret%tva%tv%ta_cap%tva%tv%ta_mlm%tv", "qa%tva%tv"), accumulation=2, family="valor"),
}
FAMILIES = {"vast": vast, "gram": gram, "valor": valor}


class Loader(InTurn):
    """Clips of noise, made from their position alone. The first half of a batch has no captions of its own for vision, so that with
    several processes some have none at all; a third of the clips has no sound, a quarter no subtitle."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.total_steps, self.config = scenario, scenario.steps, scenario.config
        self.corpora = [Corpus(f"corpus{i}", 100, scenario.steps // len(scenario.tasks), Task.parse(task), CLIPS)
                        for i, task in enumerate(scenario.tasks)]

    def batches(self, start_step: int) -> Iterator[Batch]:
        share = CLIPS // distributed.world_size()
        config = self.config
        lengths = TextLengths({CaptionKind.OMNI: config.max_omni_caption_len, CaptionKind.VISION: config.max_caption_len,
                               CaptionKind.AUDIO: config.max_caption_len}, config.max_caption_len, config.max_answer_len,
                              config.max_subtitle_len)
        for index in range(start_step, self.total_steps):
            corpus = self.corpora[index % len(self.corpora)]
            for micro in range(self.scenario.accumulation):
                first = (index * self.scenario.accumulation + micro) * CLIPS + distributed.rank() * share
                samples = [_sample(position, config.vision_resolution) for position in range(first, first + share)]
                yield collate(samples, corpus=corpus.name, tokenizer=tokenizer(), lengths=lengths, task=corpus.task)


def _sample(position: int, resolution: int) -> Sample:
    noise = generator("clip", position)

    def text(most: int) -> str:
        length = int(torch.randint(1, most, (), generator=noise))
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=noise))

    frames = torch.randint(0, 256, (2, 3, resolution, resolution), generator=noise, dtype=torch.uint8)
    sound = torch.randn(1, CONFIG.audio_target_length, CONFIG.audio_melbins, generator=noise)
    captions = {CaptionKind.OMNI: [text(20)], CaptionKind.VISION: [text(9)], CaptionKind.AUDIO: [text(9)]}
    if position % CLIPS < CLIPS // 2:
        del captions[CaptionKind.VISION]
    present = {Modality.VISION: True, Modality.AUDIO: position % 3 > 0, Modality.SUBTITLE: position % 4 > 0}
    return Sample(f"clip{position}", position, frames, sound if present[Modality.AUDIO] else torch.zeros_like(sound),
                  text(12) if present[Modality.SUBTITLE] else "", captions, [text(6) + " ?"], [text(3)], present=present)


def trained(rank: int, folder: Path, scenarios: dict[str, Scenario]) -> dict[str, Any]:
    """Per scenario: losses, gradients and negatives of every step, and the weights after the last."""
    return {name: _train(folder / name.replace(" ", "_"), scenario) for name, scenario in scenarios.items()}


def _train(folder: Path, scenario: Scenario) -> dict[str, Any]:
    model = FAMILIES[scenario.family](**scenario.model)
    model.gather_with_grad = scenario.with_grad
    names = {parameter: name for name, parameter in model.named_parameters()}
    gradients: list[dict[str, torch.Tensor]] = []
    negatives: list[torch.Tensor] = []
    draw = contrast.hard_negatives

    def noted(*arguments):
        negatives.append(draw(*arguments))
        return negatives[-1]

    def before_update(optimizer, *_):
        gradients.append({names[p]: p.grad.clone() for group in optimizer.param_groups for p in group["params"] if p.grad is not None})

    hook = register_optimizer_step_pre_hook(before_update)
    contrast.hard_negatives = noted
    try:
        train(_config(folder, scenario), model, Loader(scenario))
    finally:
        contrast.hard_negatives = draw
        hook.remove()
    # With one task, several processes first look with a pass of their own at what is unused.
    drawn = distributed.all_gather_objects(negatives[-scenario.drawn:] if scenario.drawn else [])
    return {"losses": [row["losses"] for row in read_jsonl(folder / "log" / "metrics.jsonl")], "gradients": gradients,
            "weights": model.state_dict(), "negatives": [torch.cat(parts).tolist() for parts in zip(*drawn)]}


def _config(folder: Path, scenario: Scenario) -> Config:
    run = RunConfig(output_dir=str(folder), tensorboard=False, gradient_accumulation_steps=scenario.accumulation, valid_freq=0,
                    learning_rate=LEARNING_RATE, warmup_ratio=0.0, gather_with_grad=scenario.with_grad)
    corpora = tuple(DatasetConfig(name=f"corpus{i}", task=task, txt="a.json") for i, task in enumerate(scenario.tasks))
    return Config(run, scenario.config, DataConfig(corpora, ()))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, list[dict[str, Any]]]:
    return {n: together(trained, n, tmp_path_factory.mktemp(f"processes{n}"), SCENARIOS) for n in (1, 2, 4)}


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_as_one(results, name, processes):
    one = results[1][0][name]
    assert len(one["negatives"]) == SCENARIOS[name].drawn and len(one["losses"]) == SCENARIOS[name].steps
    for many in (part[name] for part in results[processes]):
        assert many["negatives"] == one["negatives"]
        for step_losses, wanted in zip(many["losses"], one["losses"], strict=True):
            assert step_losses == pytest.approx(wanted, rel=1e-5)
        for found, gradients in zip(many["gradients"], one["gradients"], strict=True):
            close(found, gradients)
        close(*({key: x for key, x in found["weights"].items() if key not in WITHOUT_EFFECT} for found in (many, one)))


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def test_the_comparison_could_fail(results):
    """Weights move by far more than the tolerance, negatives differ from the positives, and the gradient's path matters."""
    start = vast().state_dict()
    for name in ("ret", "cap", "qa", "mixture"):
        moved = [float((value - start[key]).abs().max()) for key, value in results[1][0][name]["weights"].items()]
        changed = sorted(amount for amount in moved if amount > 0)
        assert len(changed) > 60 and changed[len(changed) // 4] > 2e-5
    with_grad, without = (results[1][0][name]["gradients"][0] for name in ("ret", "ret, gathered without gradient"))
    assert not torch.allclose(with_grad["contra_head_t.linear.weight"], without["contra_head_t.linear.weight"], atol=1e-3)
    for draw in results[1][0]["ret"]["negatives"]:
        assert all(0 <= row < CLIPS and row != own for own, row in enumerate(draw))
