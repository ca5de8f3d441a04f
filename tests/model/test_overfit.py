"""Each objective drives the loss of one batch of four clips to nearly zero."""

import torch

from omnivast.config.tasks import Group
from omnivast.utils.random import StepRandom, seed_everything
from tests.model.tiny import ANSWERS, CAPTIONS, MODALITIES, batch, task, vast


def overfit(model, own, objectives, steps, rate):
    """Losses of the last ten steps on average."""
    seed_everything("overfit")
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=rate, weight_decay=0.0)
    last = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, 2 * (1 - step / steps))
        losses = model(own, objectives, StepRandom(0, step))
        optimiser.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimiser.step()
        last = [*last[-9:], {name: value.item() for name, value in losses.items()}]
    model.eval()
    return {name: sum(row[name] for row in last) / len(last) for name in last[0]}


def test_retrieval():
    model = vast(label_smoothing=0.0)
    losses = overfit(model, batch(), task("ret%tvas%tv%ta"), 150, 3e-3)
    assert losses["itc"] < 0.02 and losses["itm"] < 0.02
    with torch.no_grad():
        own = batch()
        features = model.encode(own, MODALITIES)
        group = Group(MODALITIES)
        omni = own.captions[group.caption_kind]
        assert (model.embed_texts(omni) @ model.embed_clips(features, group).T).argmax(1).tolist() == [0, 1, 2, 3]
        scores = model.match(model.memory(features), group, omni.ids.repeat_interleave(4, 0), omni.mask.repeat_interleave(4, 0),
                             torch.arange(4).repeat(4)).view(4, 4)
    assert (scores.sigmoid() - torch.eye(4)).abs().max() < 0.2


def test_captioning():
    model = vast()
    assert overfit(model, batch(), task("cap%tvas"), 250, 4e-3)["cap"] < 0.05
    with torch.no_grad():
        memory = model.memory(model.encode(batch(), MODALITIES))
        for size in (1, 3):
            assert model.caption(memory, Group(MODALITIES), beam_size=size, max_length=12) == CAPTIONS


def test_questions():
    model = vast()
    assert overfit(model, batch(), task("qa%tvas"), 200, 4e-3)["qa"] < 0.05
    with torch.no_grad():
        memory = model.memory(model.encode(batch(), MODALITIES))
        for size in (1, 3):
            assert model.answer(memory, Group(MODALITIES), batch().questions, beam_size=size) == ANSWERS
