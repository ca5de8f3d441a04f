"""GRAM: volumes against numbers worked out by hand and torch.linalg.det, and a VAST that is compared by them."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.model.build import build_model
from omnivast.model.gram.model import joined
from omnivast.model.gram.volume import NEAR, volumes
from omnivast.model.interface import ModelError, Rows
from omnivast.model.weights.load import split_unused
from omnivast.utils.random import StepRandom
from tests.model.tiny import GOLDENS, MODALITIES, VAST_TINY, batch, gram, task, vast
from tests.model.vast.test_full_size import released_config

X, Y, Z, W = torch.eye(4)
HALVES = [math.sqrt(0.5) * own + (math.sqrt(10) - math.sqrt(2)) / 8 for own in torch.eye(4)]


def at(degrees, axis=X, other=Y):
    return math.cos(math.radians(degrees)) * axis + math.sin(math.radians(degrees)) * other


def unit(*shape, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype), dim=-1)


def by_determinant(texts, clips):
    """The definition: √det of every pair's whole Gram matrix."""
    pairs = torch.cat([texts[:, None, None].expand(-1, len(clips), 1, -1), clips.expand(len(texts), *clips.shape)], 2)
    return torch.linalg.det(pairs @ pairs.mT).sqrt()


@pytest.mark.parametrize("text, clip, wanted", [
    (X, [Y], 1.0),
    (X, [X], 0.0),
    (X, [-X], 0.0),
    (X, [at(60)], math.sin(math.radians(60))),
    (X, [at(30)], 0.5),
    (X, [Y, Z], 1.0),
    (X, [Y, Y], 0.0),
    (X, [at(60), at(60)], 0.0),
    (Z, [X, at(60)], math.sqrt(3) / 2),
    (at(30, Z, X), [X, at(60)], 0.75),  # base sin 60°, height cos 30°
    (X, [Y, Z, W], 1.0),
    (X, [Y, Z, X], 0.0),
    (W, [X, at(60), Z], math.sqrt(3) / 2),
    # All products ½ (60°): the eigenvalues of G are 1 + 3/2 and three times 1 − ½, so that det G = 5/16.
    (HALVES[0], HALVES[1:], math.sqrt(5 / 16)),
    (X, [at(30), 0 * X], 0.5),  # a modality that the clip lacks
    (X, [0 * X, at(30), 0 * X], 0.5),
    (X, [0 * X], 1.0),
])
def test_volumes_by_hand(text, clip, wanted):
    for order in (clip, clip[::-1]):
        assert volumes(text[None], torch.stack(order)[None]).item() == pytest.approx(wanted, abs=5e-4)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_volumes_and_gradients_are_those_of_the_determinant(k, dtype, tolerance):
    """Through vectors made unit, as a model has them; wide angles and narrow ones."""
    base = torch.randn(1, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for spread in (1.0, 0.3):
        raw = [spread * unit(7, 8, seed=1) + base / base.norm(), spread * unit(5, k, 8, seed=2) + base / base.norm()]
        weights = unit(7, 5, seed=3)
        results = []
        for compute, kind in ((by_determinant, torch.float64), (volumes, dtype)):
            own = [x.to(kind, copy=True).requires_grad_() for x in raw]
            found = compute(*(F.normalize(x, dim=-1) for x in own))
            (found * weights.to(kind)).sum().backward()
            results.append([found.detach(), *(x.grad for x in own)])
        for wanted, got in zip(*results):
            assert got.dtype is dtype
            torch.testing.assert_close(got.double(), wanted, rtol=10 * tolerance, atol=10 * tolerance * wanted.abs().max().item())


@pytest.mark.parametrize("k, error", [(1, 1e-5), (2, 1e-6), (3, 2e-7)])
def test_vectors_that_nearly_agree_keep_their_digits(k, error):
    """A tenth apart: of the determinant itself, 0.02 at k = 1 and 4e-6 at k = 3, float32 would lose half of the digits."""
    base = unit(1, 512)
    texts, clips = F.normalize(base + 0.1 * unit(20, 512, seed=1), dim=1), F.normalize(base + 0.1 * unit(30, k, 512, seed=2), dim=2)
    wanted = by_determinant(texts, clips)
    assert wanted.max() < (0.2, 0.02, 0.003)[k - 1]
    assert (volumes(texts.float(), clips.float()) - wanted).abs().max() < error


def test_autocast_and_half_vectors_change_no_determinant():
    """In bfloat16 products have 3 digits, and small volumes would be noise; the vectors given are all that may be rounded."""
    texts, clips = unit(6, 32, dtype=torch.float32), unit(4, 3, 32, seed=1, dtype=torch.float32)
    wanted = volumes(texts, clips)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(volumes(texts, clips), wanted)
        assert volumes(texts.bfloat16(), clips.bfloat16()).dtype is torch.float32


def test_gradients_stay_finite_where_vectors_agree():
    """√ has an infinite slope at 0; here it ends at NEAR, and is 0 where rounding leaves nothing."""
    text = X[None].clone().requires_grad_()
    volumes(text, torch.stack([X, at(1e-4), at(60)])[:, None]).sum().backward()
    assert text.grad.isfinite().all()
    angle = torch.tensor([0.0, 1e-9, 1e-4, 0.01, 0.5], dtype=torch.float64, requires_grad=True)
    clips = torch.stack([angle.cos(), angle.sin()], 1)
    (slope,) = torch.autograd.grad(volumes(torch.tensor([[1.0, 0.0]], dtype=torch.float64), clips[:, None]).sum(), angle)
    assert slope[0] == 0 and slope.isfinite().all() and (slope <= 1).all()
    assert slope[2].item() == pytest.approx(1e-4 / NEAR, rel=1e-3) and slope[3].item() == pytest.approx(math.cos(0.01), rel=1e-6)


def test_no_matrix_of_a_pair_is_held():
    """What is kept for the gradient grows with texts × clips × a few numbers, and not with the width."""
    kept = []
    texts, clips = unit(40, 64, dtype=torch.float32).requires_grad_(), unit(50, 3, 64, seed=1, dtype=torch.float32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        volumes(texts, clips)
    assert all(len(shape) < 3 or shape[0] != 40 for shape in kept) and (40, 50) in kept


def test_it_has_the_parameters_of_vast():
    assert {name: x.shape for name, x in gram().state_dict().items()} == {name: x.shape for name, x in vast().state_dict().items()}


def test_a_released_depth_head_is_left_out():
    used, unused = split_unused(dict.fromkeys(["contra_head_d.linear.weight", "contra_head_v.linear.weight"]), gram().names)[:2]
    assert list(used) == ["contra_head_v.linear.weight"] and list(unused) == ["contra_head_d.linear.weight"]
    assert list(split_unused(dict.fromkeys(["contra_head_d.linear.weight"]), vast().names)[0])


def test_full_size_names_are_the_released_ones():
    shapes = json.loads((GOLDENS / "vast_released_parameters.json").read_text())
    with torch.device("meta"):
        model = build_model(released_config(VAST_TINY / "vocab.txt", model_type="gram"))
    assert {name: list(x.shape) for name, x in model.state_dict().items()} == {
        name: shapes[name] for name in split_unused(dict.fromkeys(shapes), model.names)[0]}


@pytest.mark.parametrize("cosine", [0.0, 0.3])
def test_scores_of_what_was_kept(cosine):
    model = gram(gram_cosine=cosine).eval()
    own = batch()
    with torch.no_grad():
        features = model.encode(own, MODALITIES)
        for key in ("v", "a", "s", "va", "vs", "vas"):
            group = Group.parse(key)
            texts, clips = model.index_texts(own.captions[group.caption_kind]), model.index_clips(features, group)
            single = torch.stack([model.embed_clips(features, Group((m,))) for m in group], 1).double()
            wanted = (cosine - 1) * by_determinant(texts["vector"].double(), single) + cosine * (
                texts["vector"] @ model.embed_clips(features, group).T).double()
            scores = model.similarity(group, texts, clips)
            torch.testing.assert_close(scores.double(), wanted, rtol=1e-4, atol=1e-5)
            assert scores.dtype is torch.float32 and scores.abs().max() <= 1
            assert torch.equal(model.similarity(group, texts, clips, by_clip=True), scores.T)
            part = model.similarity(group, texts.rows(slice(1, 3)), clips.rows(slice(2, 4)))
            torch.testing.assert_close(part, scores[1:3, 2:4], rtol=1e-5, atol=1e-5)
            assert isinstance(clips, Rows) and clips["vector"].shape == (4, (len(key) + bool(cosine)) * model.config.contra_dim)


def test_rows_kept_as_float16_move_small_volumes_little():
    """Their lengths change by 1e-5, of which the sine of an angle of 0.01 would make 0.005."""
    model, group = gram(), Group.parse("v")
    base = unit(1, 512)
    texts, clips = (F.normalize(base + 0.01 * unit(20, 512, seed=seed), dim=1) for seed in (1, 2))
    wanted = -by_determinant(texts, clips[:, None])
    kept = (Rows({"vector": rows.half().float()}) for rows in (texts, clips))
    assert (model.similarity(group, *kept) - wanted).abs().max() < 2e-4 < wanted.abs().min()


def test_the_loss_is_the_cross_entropy_of_minus_volume_over_temperature():
    model, own = gram().train(), batch()
    losses = model(own, task("ret%tvas"), StepRandom(7, 3, 0, 4))
    features = model.encode(own, MODALITIES)
    group = Group(MODALITIES)
    single = torch.stack([model.embed_clips(features, Group((m,))) for m in group], 1)
    logits = -by_determinant(model.embed_texts(own.captions[group.caption_kind]), single) / model.contra_temp
    wanted = sum(F.cross_entropy(x, torch.arange(4), label_smoothing=0.1) for x in (logits, logits.T)) / 2
    assert losses["itc"].item() == pytest.approx(wanted.item(), rel=1e-4)
    losses["loss"].backward()
    heads = {name for name, p in model.named_parameters() if name.startswith("contra_head_") and p.grad is not None}
    assert heads == {f"contra_head_{key}.linear.weight" for key in "tvas"} and "itm.tvas" in losses


def test_a_silent_clip_does_not_agree_with_every_text():
    """With its modalities masked, its sound is no vector: the volume is that of text and frames."""
    model, own = gram(missing_modality="mask").eval(), batch()
    own.present = {Modality.AUDIO: torch.tensor([True, False, True, True])}
    with torch.no_grad():
        features = model.encode(own, MODALITIES)
        texts = model.index_texts(own.captions.of(Group.parse("va").caption_kind))
        both, seen = (model.similarity(Group.parse(key), texts, model.index_clips(features, Group.parse(key))) for key in ("va", "v"))
    torch.testing.assert_close(both[:, 1], seen[:, 1])
    assert not torch.allclose(both[:, 0], seen[:, 0])


def test_one_volume_for_the_task_as_released():
    assert str(joined(task("ret%ta%tv_cap%tv"))) == "ret%tva_cap%tv" and str(joined(task("qa%tv"))) == "qa%tv"
    own = batch()
    found, wanted = (gram(gram_volume=how).eval()(own, task(groups), StepRandom(7, 3, 0, 4))
                     for how, groups in (("task", "ret%tv%ta"), ("group", "ret%tva")))
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in found)
    del own.captions.texts[CaptionKind.OMNI]  # as where rows have captions of all kinds, and the task names none of several modalities
    with pytest.raises(ValueError, match="corpus 'clips': .* omni captions, which are not read for its task 'ret%tv%ta'; .*ret%tva"):
        gram(gram_volume="task")(own, task("ret%tv%ta"), StepRandom(7, 3, 0, 4))


def test_what_it_cannot_do_is_said():
    for key, value in (("matryoshka_dims", [8]), ("index_dim", 8), ("clip_pairs", {"va": 1.0})):
        with pytest.raises(ModelError, match=f"model_cfg.{key}: GRAM's .*; leave it out, or take model_type vast"):
            gram(**{key: value})
    gram().check_task(task("ret%tas"))  # A volume needs no head of the group.
    with pytest.raises(ValueError, match="GRAM has no contrastive head for group tas; retrieval groups are tv, ta"):
        gram(gram_cosine=0.5).check_task(task("ret%tas"))
    with pytest.raises(ValueError, match="group ta needs audio, but model_cfg.audio_encoder_type is null"):
        gram(audio_encoder_type=None).check_task(task("ret%ta"))


def test_settings_of_other_runs_stand():
    assert (ModelConfig().gram_cosine, ModelConfig().gram_volume) == (0.0, "group")


def test_it_learns_the_pairs_in_bfloat16():
    model, own = gram(label_smoothing=0.0, itm_ratio=0.0).train(), batch()
    model.precision = torch.bfloat16
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(50):
        optimiser.zero_grad()
        losses = model(own, task("ret%tvas"), StepRandom(7, step, 0, 4))
        losses["loss"].backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimiser.step()
    group = Group(MODALITIES)
    with torch.no_grad():
        scores = model.eval().similarity(group, model.index_texts(own.captions.of(group.caption_kind)),
                                         model.index_clips(model.encode(own, MODALITIES), group))
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]
