"""VALOR's fine-grained alignment: the released numbers, blocks against the whole, and what padding does."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from omnivast.model.valor import alignment
from omnivast.model.valor.alignment import Slots, fine_scores, grouped_scores
from tests.model.valor.recorded import RELEASED, folder_of


@pytest.fixture(params=[*RELEASED, "ablation_audio_video", "ablation_clip_text"])
def released(request):
    """Outputs of the released VALOR with tiny weights, and its text, vision and audio slots."""
    folder = folder_of(request.param)
    if folder is None:
        pytest.skip(f"the values recorded from the released VALOR in '{request.param}' are not here")
    outputs = load_file(folder / "outputs.safetensors")
    ids = outputs.get("clip_input_ids", outputs["caption_input_ids"])
    text = Slots(outputs["feat_t"], outputs["weight_logit_t"], ids != 0)
    return outputs, text, Slots(outputs["feat_v"], outputs["weight_logit_v"]), Slots(outputs["feat_a"], outputs["weight_logit_a"])


def test_released_scores_of_texts(released):
    outputs, text, vision, audio = released
    scores = grouped_scores(text, [vision, audio], [(0,), (1,), (0, 1)])
    for name, score in zip(("tv", "ta", "tva"), scores):
        torch.testing.assert_close(score, outputs[f"sim_{name}"], rtol=1e-5, atol=1e-6)


def test_released_scores_of_other_groups(released):
    outputs, text, vision, audio = released
    for name, first, second in (("va", vision, [audio]), ("vta", vision, [text, audio]), ("atv", audio, [text, vision])):
        if f"sim_{name}" in outputs:
            torch.testing.assert_close(fine_scores(first, Slots.joined(second)), outputs[f"sim_{name}"], rtol=1e-5, atol=1e-6)


def test_released_weights_and_options(released):
    outputs, text, vision, audio = released
    for name in ("tva_t", "tva_va"):
        if f"weight_{name}" in outputs:
            own = text if name == "tva_t" else Slots.joined([vision, audio])
            torch.testing.assert_close(own.weights(), outputs[f"weight_{name}"], rtol=1e-5, atol=1e-6)
    if "sim_tva_fineweight_none" in outputs:
        equal = [Slots(side.features, None, side.mask) for side in (text, vision, audio)]
        torch.testing.assert_close(fine_scores(equal[0], Slots.joined(equal[1:])), outputs["sim_tva_fineweight_none"], rtol=1e-5, atol=1e-6)


def slots(count, length, width=6, seed=0, padded=False):
    random = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(count, length, width, generator=random), dim=-1).requires_grad_()
    logits = torch.randn(count, length, generator=random).requires_grad_()
    lengths = torch.randint(1, length + 1, (count,), generator=random)
    return Slots(features, logits, torch.arange(length) < lengths[:, None] if padded else None), (features, logits)


def test_by_hand():
    """A text of two tokens and a padded one, a clip of two frames, equal weights."""
    text = Slots(torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [9.0, 9.0]]]), None, torch.tensor([[True, True, False]]))
    clip = Slots(torch.tensor([[[-0.6, 0.8], [0.0, 1.0]]]))
    # S = [[-0.6, 0], [0.6, 0], [0, 0]]: best slots 0 and 0.6, mean 0.3; best tokens 0.6 and 0, mean 0.3.
    assert fine_scores(text, clip).item() == pytest.approx(0.3)
    # Without the padded token the second frame's best token is still 0; a clip that points away from both shows the floor of 0.
    away = Slots(torch.tensor([[[0.0, 1.0]]]))
    text_up = Slots(torch.tensor([[[0.0, -1.0], [0.6, -0.8], [5.0, 5.0]]]), None, torch.tensor([[True, True, False]]))
    assert fine_scores(text_up, away).item() == pytest.approx((-0.9 + 0.0) / 2)
    assert fine_scores(Slots(text_up.features[:, :2]), away).item() == pytest.approx((-0.9 - 0.8) / 2)


def test_blocks_equal_the_whole_in_scores_and_gradients(monkeypatch):
    def run():
        text, leaves = slots(7, 5, seed=1, padded=True)
        vision, more = slots(4, 3, seed=2)
        audio, others = slots(4, 2, seed=3)
        scores = grouped_scores(text, [vision, audio], [(0,), (1,), (0, 1)])
        sum((i + 1) * score.square().sum() for i, score in enumerate(scores)).backward()
        return [s.detach() for s in scores], [leaf.grad for leaf in (*leaves, *more, *others)]

    whole = run()
    monkeypatch.setitem(alignment.PRODUCTS_AT_ONCE, "cpu", 2 * 5 * 5 * 4)
    for one, other in zip(whole, run()):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_shared_products_equal_each_group_alone():
    text, vision, audio = slots(5, 4, seed=4, padded=True)[0], slots(3, 3, seed=5)[0], slots(3, 2, seed=6)[0]
    together = grouped_scores(text, [vision, audio], [(0, 1), (1,)])
    torch.testing.assert_close(together[0], fine_scores(text, Slots.joined([vision, audio])))
    torch.testing.assert_close(together[1], fine_scores(text, audio))


def sides():
    return slots(30, 6, seed=7, padded=True), slots(20, 4, seed=8), slots(20, 2, seed=9)


@pytest.mark.parametrize("limit", [2**20, 700])
def test_without_gradient_padding_is_left_out_and_the_scores_are_the_same(monkeypatch, limit):
    (text, _), (vision, _), (audio, _) = sides()
    groups = [(0,), (1,), (0, 1)]
    assert {int(n) for n in text.mask.sum(1)} >= {1, 6}  # texts that fill the length, and others, whose best token is never below 0
    wanted = grouped_scores(text, [vision, audio], groups)
    monkeypatch.setitem(alignment.PRODUCTS_AT_ONCE, "cpu", limit)
    with torch.no_grad():
        for found, score in zip(grouped_scores(text, [vision, audio], groups), wanted):
            torch.testing.assert_close(found, score, rtol=1e-5, atol=1e-6)


def test_texts_of_like_length_share_a_block():
    lengths = torch.tensor([5, 1, 3, 1, 5, 2])
    mask = torch.arange(6) < lengths[:, None]
    (text, _), (clip, _) = slots(6, 6, seed=7), slots(3, 4, seed=8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        fine_scores(Slots(text.features, text.logits, mask), clip)
    products = 2 * 6 * 5 * 3 * 4 * 6  # texts, tokens of the longest of a block, clips, slots, width: all fit into one
    assert counter.get_total_flops() == products + 2 * 6 * 5 * 3  # and the sums over tokens
    assert alignment._runs(lengths.sort().values.numpy(), 6) == [(0, 3, 2), (3, 4, 3), (4, 5, 5), (5, 6, 5)]


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operation makes."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.found = max([self.found, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
        return out


@pytest.mark.parametrize("learning", [False, True])
def test_products_of_all_texts_and_clips_are_never_held(monkeypatch, learning):
    (text, _), (vision, _), (audio, _) = sides()
    monkeypatch.setitem(alignment.PRODUCTS_AT_ONCE, "cpu", 1500)
    with torch.set_grad_enabled(learning), Largest() as largest:
        score = grouped_scores(text, [vision, audio], [(0, 1)])[0]
        if learning:
            score.sum().backward()
    assert largest.found <= 1500 < 30 * 20 * 6 * 6
