"""Merge attention: a clip's tokens before the text in one BERT; against a plain forward of both as one sequence."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from omnivast.config.tasks import Group, Modality
from omnivast.model.recompute import remaking
from omnivast.model.text.layout import Layout
from omnivast.model.text.plan import CrossPass
from omnivast.model.valor.merged import MergedText
from tests.model.tiny import copy_of, memory, text_sizes

VA, V = Group((Modality.VISION, Modality.AUDIO)), Group((Modality.VISION,))


def model():
    torch.manual_seed(2)
    own = MergedText(text_sizes(), prompts=True).eval()
    with torch.no_grad():
        for parameter in own.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return own


def plain(own, clip, ids, positions, prompt, sees):
    """States (L, D) of one text: a clip's tokens (S, D) and the text as one sequence, tokens of the clip seeing one another alone."""
    x, clip_tokens = torch.cat([clip, own.bert.embeddings(ids, positions, prompt)]), len(clip)
    mask = torch.zeros(len(x), len(x), dtype=torch.bool)
    mask[:, :clip_tokens] = True
    mask[clip_tokens:, clip_tokens:] = sees
    for block in own.blocks:
        p, heads = block.attention.projections, block.attention.heads
        query, key, value = (layer(x).unflatten(-1, (heads, -1)).transpose(0, 1) for layer in (p.query, p.key, p.value))
        scores = (query @ key.mT / math.sqrt(query.shape[-1])).masked_fill(~mask, float("-inf"))
        x = block.attention.output((scores.softmax(-1) @ value).transpose(0, 1).flatten(1), x)
        x = block.output(F.gelu(block.intermediate["dense"](x)), x)
    return x[clip_tokens:]


def texts(causal):
    """Six texts behind a prompt: three clips' first ones, and their second ones; some padded."""
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(106, 180, (6, 5), generator=noise)
    mask = torch.arange(5) < torch.tensor([5, 3, 4, 2, 5, 1])[:, None]
    prompt = torch.randint(106, 180, (6, 2), generator=noise)
    return Layout.prompted(prompt, torch.ones_like(prompt), ids, mask, causal)


def on_clips(clips, group):
    """Memory row of each text, and the pass of all: as blocks, and by index."""
    rows = torch.arange(6) % 3
    return [CrossPass(0, 6, clips, group)], [CrossPass(0, 6, clips, group, rows)]


@pytest.mark.parametrize("group", [VA, V], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_states_and_gradients_are_those_of_one_sequence(group, causal):
    own, layout = model(), texts(causal)
    real = torch.from_numpy(layout.real)
    found = {}
    for name, number in (("blocks", 0), ("index", 1)):
        own.zero_grad()
        with remaking():
            output = own.encode(layout, on_clips(memory(3), group)[number]).hidden
            output.square().sum().backward()
        found[name] = output.detach(), {key: p.grad.clone() for key, p in own.named_parameters() if p.grad is not None}
    own.zero_grad()
    clips, rows = memory(3), []
    reach, visible = torch.from_numpy(layout.reach.copy()), torch.from_numpy(layout.visible.copy())
    for n in range(6):
        columns = torch.arange(layout.length)
        sees = ((columns < reach[n][:, None]) | (columns == columns[:, None])) & visible[n]
        clip = torch.cat([clips.condition[m][n % 3] for m in group])
        parts = (torch.from_numpy(part[n].copy()) for part in (layout.ids, layout.positions, layout.prompt))
        rows.append(plain(own, clip, *parts, sees)[real[n]])
    wanted = torch.cat(rows)
    wanted.square().sum().backward()
    slow = {key: p.grad for key, p in own.named_parameters() if p.grad is not None}
    for output, fast in found.values():
        torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-5)
        assert fast.keys() == slow.keys()
        for key, gradient in slow.items():
            torch.testing.assert_close(fast[key], gradient, rtol=1e-3, atol=1e-4 * max(1.0, gradient.abs().max().item()), msg=key)


@torch.no_grad()
@pytest.mark.parametrize("prompted", [True, False])
def test_decoding_step_by_step_is_one_forward(prompted):
    own, clips = model(), memory(3)
    prompt = torch.randint(106, 180, (6, 2), generator=torch.Generator().manual_seed(1)), torch.ones(6, 2, dtype=torch.bool)
    prompt[1][3, 1] = False
    words = torch.randint(106, 180, (6 if prompted else 3, 4), generator=torch.Generator().manual_seed(3))
    state = own.start(copy_of(clips), VA, prompt if prompted else None)
    steps = torch.stack([own.step(state, words[:, i], 103) for i in range(4)], 1)
    layout = Layout.stepwise(torch.cat([words[:, 1:], words[:, :1]], 1), torch.ones_like(words), 101, 103)
    layout = dataclasses.replace(layout, ids=torch.cat([words, torch.full_like(words, 103)], 1).numpy())
    layout = layout.behind(*prompt) if prompted else layout
    rows = torch.arange(6).div(2, rounding_mode="floor") if prompted else torch.arange(3)
    states = own.encode(layout, [CrossPass(0, len(words), clips, VA, rows)]).padded()[:, -4:]
    torch.testing.assert_close(steps, own.logits(states.flatten(0, 1)).unflatten(0, (-1, 4)), rtol=1e-4, atol=1e-4)
