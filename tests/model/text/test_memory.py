"""Texts attend to shared memories: however rows and memories are arranged, each text gets what it would get alone."""

import numpy as np
import pytest
import torch

from omnivast.config.tasks import Group, Modality
from omnivast.model.text.layout import Layout
from omnivast.model.text.memory import Memory
from omnivast.model.text.plan import CrossPass, shared_rows
from omnivast.utils.random import StepRandom
from tests.model.tiny import batch, copy_of, memory, task, text_model, vast

GROUPS = [Group.parse(key) for key in ("v", "s", "va", "vas")]
CLIPS, TEXTS = 3, 2


@pytest.fixture(scope="module")
def model():
    return text_model()


def layout():
    ids = torch.randint(106, 186, (CLIPS * TEXTS, 5), generator=torch.Generator().manual_seed(0))
    return Layout.of(ids, torch.arange(5) < torch.tensor([5, 2, 4, 3, 5, 1])[:, None], causal=True)


def cut(rows, part):
    return Layout(rows.ids[part], rows.positions[part], rows.real[part], rows.visible[part], rows.reach[part])


@torch.no_grad()
def one_at_a_time(model, rows, clips, group, index):
    """Each text alone with its own clip."""
    alone = []
    for row, clip in enumerate(index.tolist()):
        part = cut(rows, slice(row, row + 1))
        alone.append(model.encode(part, [CrossPass(0, 1, copy_of(clips, slice(clip, clip + 1)), group)]).padded())
    return torch.cat(alone)


@torch.no_grad()
@pytest.mark.parametrize("group", GROUPS, ids=str)
@pytest.mark.parametrize("masked", [(), (Modality.SUBTITLE,), (Modality.VISION, Modality.AUDIO, Modality.SUBTITLE)], ids=len)
def test_blocks_equal_index_equals_one_at_a_time(model, group, masked):
    clips, rows = memory(CLIPS, masked=masked), layout()
    index = torch.arange(CLIPS).repeat(TEXTS)
    blocks = model.encode(rows, [CrossPass(0, 6, copy_of(clips), group)]).padded()
    by_index = model.encode(rows, [CrossPass(0, 6, copy_of(clips), group, index)]).padded()
    torch.testing.assert_close(blocks, by_index)
    torch.testing.assert_close(blocks, one_at_a_time(model, rows, clips, group, index))


@torch.no_grad()
def test_index_in_any_order(model):
    clips, rows, index = memory(CLIPS, masked=(Modality.AUDIO,)), layout(), torch.tensor([2, 0, 0, 1, 2, 2])
    got = model.encode(rows, [CrossPass(0, 6, copy_of(clips), GROUPS[-1], index)]).padded()
    torch.testing.assert_close(got, one_at_a_time(model, rows, clips, GROUPS[-1], index))


@torch.no_grad()
def test_passes_of_several_groups_memories_and_lengths(model):
    """Rows 0 to 2 with one memory in group v, row 3 by index, rows 4 and 5 with another memory; the last pass is shorter."""
    clips, others, rows = memory(CLIPS), memory(2, seed=9), layout()
    rows.real[4:, 3:] = False  # and so not visible: one array
    passes = [CrossPass(0, 3, clips, GROUPS[0]), CrossPass(3, 4, clips, GROUPS[-1], torch.tensor([1])),
              CrossPass(4, 6, others, GROUPS[2], None, 3)]
    got = model.encode(rows, passes).padded()
    torch.testing.assert_close(got[:3], one_at_a_time(model, rows, clips, GROUPS[0], torch.arange(3))[:3])
    second = cut(rows, slice(3, 4))
    torch.testing.assert_close(got[3:4], one_at_a_time(model, second, clips, GROUPS[-1], torch.tensor([1])))
    third = cut(rows, slice(4, None))
    torch.testing.assert_close(got[4:], one_at_a_time(model, third, others, GROUPS[2], torch.arange(2)))


@torch.no_grad()
def test_hidden_tokens_have_no_influence_and_a_clip_with_nothing_to_see_sees_all(model):
    clips = memory(CLIPS, masked=tuple(Modality))
    group, rows = GROUPS[-1], layout()
    base = model.encode(rows, [CrossPass(0, 6, copy_of(clips), group)]).padded()
    noisy = Memory({m: torch.where(clips.mask[m][..., None], c, 50.0) for m, c in clips.condition.items()}, clips.mask)
    torch.testing.assert_close(base, model.encode(rows, [CrossPass(0, 6, noisy, group)]).padded())
    for modality in Modality:
        clips.mask[modality][1] = False
    blind = model.encode(rows, [CrossPass(0, 6, copy_of(clips), group)]).padded()
    assert blind.isfinite().all()
    torch.testing.assert_close(blind[[0, 2, 3, 5]], base[[0, 2, 3, 5]])
    everything = Memory(clips.condition, dict.fromkeys(Modality))
    torch.testing.assert_close(blind[[1, 4]], model.encode(rows, [CrossPass(0, 6, everything, group)]).padded()[[1, 4]])


def test_keys_and_values_are_projected_once_for_every_group_and_text(model):
    counted, clips, rows = [], memory(CLIPS), layout()
    hooks = [block.crossattention.projections.key.register_forward_hook(lambda module, x, y: counted.append(x[0].shape[1]))
             for block in model.blocks]
    two = Layout.stack([rows, rows, rows])
    with torch.no_grad():
        model.encode(two, [CrossPass(6 * i, 6 * i + 6, clips, group) for i, group in enumerate(GROUPS[1:])])
    for hook in hooks:
        hook.remove()
    assert sorted(counted) == sorted([5, 3, 4] * len(model.blocks))


def test_a_training_step_encodes_each_modality_once_and_its_texts_twice():
    """Once without memory for the contrastive loss, once for everything that attends to a memory."""
    model, calls = vast(), {"vision": 0, "audio": 0, "text": 0}

    def count(name):
        return lambda module, inputs, output: calls.update({name: calls[name] + 1})

    for name, module in (("vision", model.vision_encoder), ("audio", model.audio_encoder), ("text", model.multimodal_encoder)):
        module.register_forward_hook(count(name))
    model(batch(), task("ret%tvas%tva%tv%ta_cap%tvas%tv_qa%tvas"), StepRandom(0, 0))
    assert calls == {"vision": 1, "audio": 1, "text": 3}  # of texts: subtitles, captions, and the joint forward


@torch.no_grad()
def test_rows_of_a_memory_keep_what_was_projected(model):
    clips, group = memory(CLIPS, masked=(Modality.VISION,)), GROUPS[-1]
    project = model.blocks[0].crossattention.project
    keys, values = clips.keys_values(0, group, project)
    index = torch.tensor([2, 0])
    picked = clips.rows(index)
    assert len(picked) == 2 and torch.equal(picked.group_mask(group), clips.group_mask(group)[index])
    again = picked.keys_values(0, group, lambda condition: pytest.fail("projected again"))
    assert torch.equal(again[0], keys[index]) and torch.equal(again[1], values[index])


def test_a_modality_that_was_not_encoded_is_named(model):
    clips = memory(CLIPS, tokens=(5,))
    with pytest.raises(ValueError, match="no audio features"):
        clips.keys_values(0, Group.parse("va"), model.blocks[0].crossattention.project)


@torch.no_grad()
@pytest.mark.parametrize("order", [("vas", "va", "v", "as"), ("v", "vs", "va", "s", "vas"), ("s", "vas", "a")], ids="-".join)
def test_groups_are_parts_of_wider_ones_whatever_the_order(model, order):
    """A token is kept twice only where a group skips a modality in between: they stand in the order a, v, s."""
    clips, project = memory(CLIPS), model.blocks[0].crossattention.project
    for key in order:
        clips.keys_values(0, Group.parse(key), project)
    for key in order:
        wanted = zip(*(project(clips.condition[m]) for m in sorted(Group.parse(key), key="avs".index)))
        for found, parts in zip(clips.keys_values(0, Group.parse(key), project), wanted):
            torch.testing.assert_close(found, torch.cat(parts, 2))
    kept = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for known in clips._views.values() for x in known[:2]}
    tokens = 12 + (7 if "as" in order else 0)  # 5 of vision, 3 of audio, 4 of the subtitle
    assert sum(kept.values()) <= 2 * CLIPS * tokens * 32 * 4
    assert len(clips.rows(torch.arange(CLIPS))) == CLIPS and clips.rows(torch.arange(CLIPS)) is clips


def test_gradients_of_parts_are_those_of_separate_projections(model):
    groups, project = [Group.parse(key) for key in ("vas", "va", "vs", "a")], model.blocks[0].crossattention.project
    gradients = []
    for shared in (True, False):
        clips = memory(CLIPS)
        for condition in clips.condition.values():
            condition.requires_grad_()
        total = torch.zeros(())
        for i, group in enumerate(groups):
            own = clips if shared else Memory(clips.condition, clips.mask)
            total = total + sum((x * (i + 1)).sin().sum() for x in own.keys_values(0, group, project))
        gradients.append(torch.autograd.grad(total, list(clips.condition.values())))
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rows", [[2, 0, 2, 0], [1, 1, 1], [3, 1, 2], [0, 1, 1, 1, 1], [4, 4, 4, 4, 2, 2, 2]])
def test_texts_find_their_place_in_the_grid(rows):
    used, grid, place = shared_rows(np.array(rows))
    assert grid.flatten()[place].tolist() == list(range(len(rows)))
    assert used[place % len(used)].tolist() == rows
    assert grid.size <= max(len(rows), 1.25 * len(rows))
