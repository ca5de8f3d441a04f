"""What settings add to the contrastive loss, from the model's vectors by plain formulas, and the settings that are refused."""

import pytest
import torch
import torch.nn.functional as F

from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.model.interface import ModelError
from omnivast.model.objectives.contrastive import prefix
from omnivast.model.weights.load import load_weights
from omnivast.utils.random import StepRandom
from tests.model.tiny import batch, gram, task, vast

TASK = "ret%tvas%tva%tv%ta"


def step(changes, own=None, text=TASK, make=vast):
    model = make(label_smoothing=0.0, itm_ratio=0.0, **changes).eval()
    return model, model(own or batch(), task(text), StepRandom(7, 3, 0, 4))


def vectors(model, own):
    """Clips by track or group, and texts by kind, of unit length."""
    features = model.encode(own, tuple(Modality))
    clips = {key: model.embed_clips(features, Group.parse(key)) for key in ("v", "a", "s", "va", "vas")}
    return clips, {kind: model.embed_texts(own.captions.of(kind)) for kind in CaptionKind}


def both_ways(scores, temperature=0.07):
    rows = torch.arange(len(scores))
    return (F.cross_entropy(scores / temperature, rows) + F.cross_entropy(scores.T / temperature, rows)) / 2


def of_group(key, clips, texts):
    return texts[Group.parse(key).caption_kind] @ clips[key].T


def test_without_matching_nothing_else_is_computed():
    _, losses = step({})
    assert set(losses) == {"loss", "itc", *(f"itc.{key}" for key in ("tvas", "tva", "tv", "ta"))}
    assert losses["loss"] == losses["itc"]


def test_each_group_has_its_temperature():
    model = vast(label_smoothing=0.0, itm_ratio=0.0, temperature_per_group=True).eval()
    clips, texts = vectors(model, batch())
    own = {"v": 0.05, "a": 0.1, "va": 0.2, "vas": 0.4}
    with torch.no_grad():
        model.contra_temp.copy_(torch.tensor([own["v"], own["a"], 9.0, own["va"], 9.0, 9.0, own["vas"]]))
    losses = model(batch(), task(TASK), StepRandom(7, 3, 0, 4))
    for key, temperature in own.items():
        torch.testing.assert_close(losses[f"itc.t{key}"], both_ways(of_group(key, clips, texts), temperature).detach())
    losses["loss"].backward()
    assert (model.contra_temp.grad != 0).tolist() == [True, True, False, True, False, False, True]


def test_one_temperature_starts_those_of_all_groups(tmp_path):
    source = vast()
    with torch.no_grad():
        source.contra_temp.fill_(0.03)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    model = vast(1, temperature_per_group=True)
    load_weights(model, tmp_path / "model.pt")
    torch.testing.assert_close(model.contra_temp.detach(), torch.full((7,), 0.03))


def test_the_largest_group_teaches_each_track():
    model, losses = step({"fused_teaches": 0.5})
    clips, texts = vectors(model, batch())
    teacher = of_group("vas", clips, texts) / 0.07
    wanted = []
    for key in ("v", "a"):
        student = of_group(key, clips, texts) / 0.07
        for own, better in ((student, teacher), (student.T, teacher.T)):
            p, q = better.softmax(1), own.softmax(1)
            wanted.append((p * (p / q).log()).sum(1).mean() / 2)
    torch.testing.assert_close(losses["taught"], sum(wanted) / 2)
    torch.testing.assert_close(losses["loss"], losses["itc"] + 0.5 * losses["taught"])


def test_nothing_teaches_where_no_group_holds_the_track():
    assert "taught" not in step({"fused_teaches": 0.5}, text="ret%tv%ta")[1]


def test_the_teacher_does_not_learn_from_its_pupils():
    def gradient(weight):
        model, losses = step({"fused_teaches": weight}, text="ret%tva%tv")
        (losses["taught"] if weight else losses["loss"]).backward()
        return model.contra_head_va.weight.grad, model.contra_head_v.linear.weight.grad

    assert gradient(0.0)[0].abs().sum() > 0
    taught = gradient(1.0)
    assert not taught[0].any() and taught[1].abs().sum() > 0


def test_prefixes_are_contrasted_too():
    model, losses = step({"matryoshka_dims": [4, 8]})
    clips, texts = vectors(model, batch())
    of_prefixes = [both_ways(prefix(texts[Group.parse(key).caption_kind], d) @ prefix(clips[key], d).T)
                   for key in ("vas", "va", "v", "a") for d in (4, 8)]
    torch.testing.assert_close(losses["prefixes"], sum(of_prefixes) / 4)
    torch.testing.assert_close(losses["loss"], losses["itc"] + losses["prefixes"])


def test_an_index_of_prefixes():
    whole, short = vast().eval(), vast(index_dim=4).eval()
    own = batch()
    features = whole.encode(own, (Modality.VISION,))
    for kept, cut in ((whole.index_clips(features, Group.parse("tv")), short.index_clips(features, Group.parse("tv"))),
                      (whole.index_texts(own.captions.of(CaptionKind.OMNI)), short.index_texts(own.captions.of(CaptionKind.OMNI)))):
        first = kept["vector"][:, :4]
        torch.testing.assert_close(cut["vector"], first / first.norm(dim=1, keepdim=True))


def test_tracks_are_contrasted_with_each_other():
    model, losses = step({"clip_pairs": {"va": 0.5, "vs": 2}})
    clips, _ = vectors(model, batch())
    pairs = {"va": both_ways(clips["v"] @ clips["a"].T), "vs": both_ways(clips["v"] @ clips["s"].T)}
    for pair, wanted in pairs.items():
        torch.testing.assert_close(losses[f"pairs.{pair}"], wanted.detach())
    torch.testing.assert_close(losses["loss"], losses["itc"] + 0.5 * pairs["va"] + 2 * pairs["vs"])


def test_a_corpus_without_a_track_has_no_pair_of_it():
    assert "pairs" not in step({"clip_pairs": {"va": 0.5}}, text="ret%tv")[1]


def test_a_silent_clip_looks_for_nothing():
    """It costs what a guess among four does, and is a wrong one for the others."""
    own = batch()
    own.present = {Modality.AUDIO: torch.tensor([True, False, True, True])}
    model, losses = step({"clip_pairs": {"va": 0.5}}, own)
    clips, _ = vectors(model, own)
    scores = clips["v"] @ clips["a"].T / 0.07
    wanted = [F.cross_entropy(table[row], torch.tensor(row)) if row != 1 else torch.tensor(4.0).log()
              for table in (scores, scores.T) for row in range(4)]
    torch.testing.assert_close(losses["pairs.va"], (sum(wanted) / 8).detach())


@pytest.mark.parametrize("cosine", [0.0, 0.5])
def test_gram_by_sigmoid_starts_as_vast(cosine):
    """Its best score, a volume of 0 and a cosine of 1, has the logit 0; its worst, a volume of 1 and a cosine of 0, has -10."""
    model, losses = step({"contrastive_loss": "sigmoid", "gram_cosine": cosine}, text="ret%tva", make=gram)
    logits = model.contrast.logits(torch.tensor([cosine, cosine - 1.0]), *model.contrast_scalars(Group.parse("tva")))
    torch.testing.assert_close(logits, torch.tensor([0.0, -10.0]))
    assert losses["loss"].isfinite()


@pytest.mark.parametrize("changes, message", [
    ({"matryoshka_dims": [8, 17]}, "matryoshka_dims: vectors have 16 numbers .contra_dim.; the first 17 of them cannot be taken"),
    ({"matryoshka_dims": [0]}, "matryoshka_dims: .* the first 0 of them"),
    ({"index_dim": 32}, "index_dim: .* the first 32 of them"),
    ({"clip_pairs": {"av": 1.0}}, "clip_pairs: 'av' is no pair of tracks; valid are va, vs, as"),
    ({"clip_pairs": {"va": 0}}, "clip_pairs: the weight of va is a number above 0, got 0"),
    ({"clip_pairs": {"va": "much"}}, "clip_pairs: the weight of va is a number above 0, got 'much'"),
])
def test_values_that_mean_nothing(changes, message):
    with pytest.raises(ModelError, match=message):
        vast(**changes)
