"""A text branch: what captions attend to beside the clip's own tokens, and no gradient from it into vision."""

from __future__ import annotations

import pytest
import torch

from omnivast.config.tasks import Group, Modality
from omnivast.model.text.beside import BesideMemory
from omnivast.model.vast.features import ClipFeatures
from omnivast.utils.random import StepRandom
from tests.model.tiny import MODALITIES, batch, memory, task, texts, vast

VAS, VISION = Group.parse("vas"), Group.parse("v")
TOLD = ["title: a man subtitle: hello", "", "description: a red car in the street", "title: cutting onion"]
EVERYTHING = "ret%tvas%tv_cap%tvas%tv_qa%tvas"


def student(**changes):
    return vast(text_branch=3, text_branch_layers=1, **changes).eval()


def told(raw=TOLD):
    own = batch()
    own.told = texts(raw, 20)
    return own


def losses(model, own, text=EVERYTHING):
    return {name: value.item() for name, value in model(own, task(text), StepRandom(0, 0)).items()}


def test_without_texts_or_without_a_branch_all_is_as_before():
    """To the bit: the parameters of the branch are made last, and nothing else is touched."""
    plain, model = vast().eval(), student()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())
    wanted = losses(plain, batch())
    assert losses(model, batch()) == wanted == losses(plain, told())


def test_captions_alone_depend_on_it():
    model = student()
    first, other, none = (losses(model, told(raw)) for raw in (TOLD, ["two dogs"] * 4, [""] * 4))
    plain = losses(model, batch())
    for name in first:
        if name.startswith("cap"):
            assert first[name] != other[name] and none[name] == pytest.approx(plain[name], rel=1e-5)
        elif name != "loss":  # matching and questions run in the same forward, whose sizes differ
            assert first[name] == pytest.approx(plain[name], rel=1e-5) == pytest.approx(other[name], rel=1e-5)


def test_a_clips_texts_are_its_own():
    model, own = student(), told()
    with torch.no_grad():
        first = model.encode(own, MODALITIES)
        changed = model.encode(told([TOLD[0], TOLD[1], "two dogs", TOLD[3]]), MODALITIES)
    assert first.beside_seen.dtype is torch.bool
    same = (first.beside == changed.beside).flatten(1).all(1) | torch.isclose(first.beside, changed.beside, atol=1e-5).flatten(1).all(1)
    assert same.tolist() == [True, True, False, True] and first.beside_seen.all(1).tolist() == [True, False, True, True]


def vision_gradients(model, own, text):
    model.zero_grad()
    model(own, task(text), StepRandom(0, 0))["loss"].backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()
            if name.startswith(("vision_", "hidden_trans_vision", "contra_head_v.")) and parameter.grad is not None}


def test_no_gradient_flows_from_the_text_branch_into_vision():
    """Exactly none: of the branch's tokens alone vision has no gradient, though they depend on it."""
    model = student()
    features = model.encode(told(), MODALITIES)
    features.beside.square().sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is not None
                and not name.startswith(("text_branch.", "multimodal_encoder."))]
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in model.named_parameters() if name.startswith("text_branch.of_clip"))
    with torch.no_grad():
        other = told()
        other.frames = 255 - other.frames
        assert not torch.allclose(model.encode(other, MODALITIES).beside[0], features.beside[0])


def test_vision_learns_from_captions_as_if_the_text_branch_were_constant():
    model, own = student(), told()
    found = vision_gradients(model, own, "cap%tvas%tv")
    branch = model.text_branch.forward
    model.text_branch.forward = lambda *arguments: branch(*arguments).detach()
    wanted = vision_gradients(model, own, "cap%tvas%tv")
    assert found.keys() == wanted.keys() and len(found) > 5
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())
    assert any(value.abs().sum() > 0 for value in found.values())


@torch.no_grad()
def test_generated_captions_read_it_and_answers_and_matching_do_not():
    model = student()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(4)
    given, plain = model.encode(told(["two dogs running near the water"] * 4), MODALITIES), model.encode(batch(), MODALITIES)
    beside, alone = model.memory(given), model.memory(plain)
    assert isinstance(beside, BesideMemory) and beside.alone is not beside and alone.alone is alone
    captions = [model.scored_captions(own, VAS, beam_size=1, max_length=5) for own in (beside, alone)]
    assert captions[0] != captions[1]
    asked = texts(["what is it ?"] * 4, 12)
    assert model.answer(beside, VAS, asked, beam_size=1) == model.answer(alone, VAS, asked, beam_size=1)
    rows = torch.arange(4)
    torch.testing.assert_close(*(model.match(own, VAS, asked.ids, asked.mask, rows) for own in (beside, alone)))
    part = beside.rows(torch.tensor([2, 0]).numpy())
    again = model.scored_captions(part, VAS, beam_size=1, max_length=5)
    assert [own[0][0] for own in again] == [captions[0][2][0][0], captions[0][0][0][0]]


@torch.no_grad()
def test_features_are_picked_and_joined_with_it():
    features = student().encode(told(), MODALITIES)
    joined = ClipFeatures.cat([features.rows(torch.tensor([3])), features.rows(torch.tensor([0, 1]))])
    assert torch.equal(joined.beside, features.beside[[3, 0, 1]]) and torch.equal(joined.beside_seen, features.beside_seen[[3, 0, 1]])
    assert ClipFeatures.cat([student().encode(batch(), MODALITIES)] * 2).beside is None


def test_tokens_beside_a_memory_are_attended_to_where_they_are_seen():
    own = memory(2, masked=[Modality.VISION])
    tokens, seen = torch.randn(2, 4, 32), torch.tensor([[True] * 4, [False] * 4])
    both = BesideMemory(own, tokens, seen)

    def project(x):
        return x.unflatten(2, (2, 16)).transpose(1, 2), x.unflatten(2, (2, 16)).transpose(1, 2) + 1

    for group in (VAS, VISION):
        keys, values = both.keys_values(0, group, project)
        before = own.keys_values(0, group, project)
        count = before[0].shape[2]
        assert torch.equal(keys[:, :, :count], before[0]) and torch.equal(values[:, :, count:], project(tokens)[1])
        mask = both.group_mask(group)
        assert torch.equal(mask[..., :count], own.group_mask(group)) and mask[:, 0, 0, count:].all(1).tolist() == [True, False]
        assert both.keys_values(0, group, project)[0] is keys  # projected once
    assert both.group_mask(Group.parse("a")).shape == (2, 1, 1, 7)
    assert both.rows(torch.arange(2).numpy()) is both
