"""The model as a whole: batching changes nothing, missing modalities, losses that add up, roles, frozen towers."""

import dataclasses
import pickle

import pytest
import torch

from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.model.vast.matching import match_pairs
from omnivast.model.vast.model import ClipFeatures
from omnivast.utils.random import StepRandom
from tests.model.tiny import CAPTIONS, CONFIG, MODALITIES, batch, task, texts, tokenizer, vast

VAS = Group(MODALITIES)
EVERYTHING = "ret%tvas%tva%tvs%tv%ta%ts_cap%tvas%tv_qa%tvas%ts"


@pytest.fixture(scope="module")
def model():
    return vast().eval()


def parts(rows=(1, 2, 1)):
    starts = [sum(rows[:i]) for i in range(len(rows))]
    return [batch(rows=slice(start, start + n)) for start, n in zip(starts, rows)]


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_features_do_not_depend_on_the_batch(masked):
    model = vast(mask_subtitle_padding=masked).eval()
    whole = model.encode(batch(), MODALITIES)
    joined = ClipFeatures.cat([model.encode(part, MODALITIES) for part in parts()])
    assert len(joined) == 4
    for modality in Modality:
        torch.testing.assert_close(joined.pooled[modality], whole.pooled[modality])
        mask = whole.condition_mask[modality]
        assert (mask is None) == (modality is not Modality.SUBTITLE or not masked)
        seen = slice(None) if mask is None else mask
        torch.testing.assert_close(joined.condition[modality][seen], whole.condition[modality][seen])
        assert mask is None or torch.equal(joined.condition_mask[modality], mask)
    one, other = model.caption(model.memory(joined), VAS, beam_size=2, max_length=5), model.caption(model.memory(whole), VAS, beam_size=2,
                                                                                                      max_length=5)
    assert one == other


@torch.no_grad()
def test_rows_of_features(model):
    features = model.encode(batch(), MODALITIES)
    picked = features.rows(torch.tensor([2, 0])).to("cpu")
    for modality in Modality:
        assert torch.equal(picked.condition[modality], features.condition[modality][[2, 0]])
    for key in ("v", "a", "s", "va", "vs", "vas"):
        clips = model.embed_clips(features, Group.parse(key))
        assert clips.shape == (4, CONFIG.contra_dim) and clips.dtype is torch.float32
        torch.testing.assert_close(clips.norm(dim=1), torch.ones(4))


@torch.no_grad()
def test_released_subtitles_are_read_up_to_their_full_length_whatever_the_batch(model):
    """Padding is attended to, as in the release: always max_subtitle_len tokens of it."""
    assert model.encode(batch(rows=slice(0, 2)), [Modality.SUBTITLE]).condition[Modality.SUBTITLE].shape[1] == CONFIG.max_subtitle_len


@torch.no_grad()
def test_matching_does_not_depend_on_how_pairs_are_arranged(model):
    memory = model.memory(model.encode(batch(), MODALITIES))
    own = texts(CAPTIONS, 14)
    every = match_pairs(model, memory, VAS, own.ids.repeat_interleave(4, 0), own.mask.repeat_interleave(4, 0),
                        torch.arange(4).repeat(4)).view(4, 4)
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    uneven = torch.tensor([0, 4, 8, 12, 1, 6, 0])  # clip 0 four times and more: read by index
    few = torch.tensor([2, 3, 6, 7])  # two clips alone, twice each
    for pairs in (shuffled, uneven, few, shuffled[:1]):
        text, clip = pairs // 4, pairs % 4
        torch.testing.assert_close(model.match(memory, VAS, own.ids[text], own.mask[text], clip), every[text, clip])


def test_total_loss_adds_up(model):
    losses = model(batch(), task(EVERYTHING), StepRandom(0, 0))
    groups = {"itc": ["tvas", "tva", "tvs", "tv", "ta", "ts"], "itm": ["tvas", "tva", "tvs", "tv", "ta", "ts"], "cap": ["tvas", "tv"],
              "qa": ["tvas", "ts"]}
    for name, own in groups.items():
        assert losses[name].item() == pytest.approx(sum(losses[f"{name}.{g}"].item() for g in own) / len(own), rel=1e-5)
    wanted = losses["itc"] + CONFIG.itm_ratio * losses["itm"] + losses["cap"] + losses["qa"]
    assert losses["loss"].item() == pytest.approx(wanted.item(), rel=1e-6)
    assert set(losses) == {"loss", *groups, *(f"{n}.{g}" for n, own in groups.items() for g in own)}
    assert losses["loss"].requires_grad and not any(losses[f"{n}.{g}"].requires_grad for n, own in groups.items() for g in own)


def test_a_task_alone_gives_what_it_gives_among_others(model):
    """One forward for everything is only a faster way: the same draws give the same loss for each objective and group."""
    together = model(batch(), task(EVERYTHING), StepRandom(0, 3))
    for text in ("ret%tvas", "ret%tv", "cap%tvas", "cap%tv", "qa%tvas", "ret%tva%ts"):
        alone = model(batch(), task(text), StepRandom(0, 3))
        assert {n: v.item() for n, v in alone.items() if "." in n} == pytest.approx(
            {n: together[n].item() for n in alone if "." in n}, rel=1e-5)


def test_draws_decide_the_step(model):
    one, same, other = (model(batch(), task("ret%tvas_cap%tvas"), StepRandom(0, step))["loss"].item() for step in (0, 0, 1))
    assert one == same and one != other


def test_groups_learn_from_their_own_caption_kind(model):
    own = batch()
    own.captions.texts[CaptionKind.VISION] = texts(["two dogs"] * 4, 12)
    changed, before = (model(b, task("ret%tvas%tv%ta_cap%tvas%tv%ta"), StepRandom(0, 0)) for b in (own, batch()))
    for name in ("itc", "itm", "cap"):
        assert changed[f"{name}.tv"] != before[f"{name}.tv"]
        for group in ("tvas", "ta"):
            assert changed[f"{name}.{group}"].item() == pytest.approx(before[f"{name}.{group}"].item(), rel=1e-5)


@pytest.mark.parametrize("meaning", ["zeros", "mask"])
def test_a_missing_modality(meaning):
    model, own, other = vast(missing_modality=meaning).eval(), batch(), batch()
    for b in (own, other):
        b.present = {Modality.AUDIO: torch.tensor([True, False, True, True])}
    other.spectrograms = own.spectrograms.clone()
    other.spectrograms[1] += 3.0
    got, changed = (model.encode(b, MODALITIES) for b in (own, other))
    losses, others = (model(b, task("ret%tvas%ta_cap%tvas%ta"), StepRandom(0, 0)) for b in (own, other))
    assert all(value.isfinite() for value in losses.values())
    if meaning == "zeros":
        assert got.condition_mask[Modality.AUDIO] is None and losses["loss"].item() != others["loss"].item()
        return
    assert got.condition_mask[Modality.AUDIO].any(1).tolist() == [True, False, True, True]
    torch.testing.assert_close(got.pooled[Modality.AUDIO], changed.pooled[Modality.AUDIO])
    assert not got.pooled[Modality.AUDIO][1].any()
    assert losses["cap.tvas"].item() == pytest.approx(others["cap.tvas"].item(), rel=1e-6)
    assert losses["itc.ta"].item() == pytest.approx(others["itc.ta"].item(), rel=1e-6)
    assert torch.equal(ClipFeatures.cat([got, changed]).condition_mask[Modality.AUDIO][4:], changed.condition_mask[Modality.AUDIO])


def test_mixed_precision_keeps_losses_and_embeddings_in_float32():
    model = vast().train()
    plain = model(batch(), task(EVERYTHING), StepRandom(0, 0))
    model.precision = torch.bfloat16
    mixed = model(batch(), task(EVERYTHING), StepRandom(0, 0))
    assert all(value.dtype is torch.float32 for value in mixed.values())
    for name, value in plain.items():
        assert mixed[name].item() == pytest.approx(value.item(), rel=0.1)
    with torch.no_grad():
        features = model.encode(batch(), MODALITIES)
        assert model.embed_clips(features, VAS).dtype is torch.float32
        own = texts(CAPTIONS, 14)
        assert model.match(model.memory(features), VAS, own.ids, own.mask, torch.arange(4)).dtype is torch.float32
        assert len(model.caption(model.memory(features), VAS, beam_size=2, max_length=4)) == 4
        assert len(model.answer(model.memory(features), VAS, batch().questions, beam_size=2)) == 4


def test_frozen_towers_stay_in_evaluation_mode_and_get_no_gradient():
    cfg = {**CONFIG.vision_encoder_cfg, "drop_path_rate": 0.5}
    model = vast(frozen_vision=True, frozen_audio=True, checkpointing=True, vision_encoder_cfg=cfg).train()
    assert not model.vision_encoder.training and not model.audio_encoder.training and model.multimodal_encoder.training
    model(batch(), task(EVERYTHING), StepRandom(0, 0))["loss"].backward()
    towers = [p for name, p, role in model.parameter_roles() if role in ("vision", "audio")]
    assert towers and all(p.grad is None and not p.requires_grad for p in towers)
    assert model.vision_frame_embedding.grad is not None and model.hidden_trans_audio_multimodal[0].weight.grad.any()


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = vast(checkpointing=checkpointing).train()
        model(batch(), task(EVERYTHING), StepRandom(0, 0))["loss"].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_every_parameter_has_a_role_and_learns():
    model = vast().train()
    roles = {name: role for name, _, role in model.parameter_roles()}
    assert set(roles) == {name for name, _ in model.named_parameters()} and set(roles.values()) == {"vision", "audio", "text", "head"}
    assert (roles["contra_temp"], roles["itm_head.linear1.weight"], roles["vision_frame_embedding"]) == ("head", "head", "head")
    model(batch(), task(EVERYTHING), StepRandom(0, 0))["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_other_numbers_of_frames_take_the_nearest_frame_embedding(model):
    own = batch()
    own.frames = own.frames.repeat_interleave(2, 1)
    with torch.no_grad():
        got, base = (model.encode(b, [Modality.VISION]).condition[Modality.VISION].unflatten(1, (-1, 4)) for b in (own, batch()))
    torch.testing.assert_close(got, base.repeat_interleave(2, 1))
    none = vast(frame_embedding_type="none").eval()
    same = batch()
    same.frames = same.frames[:, :1].repeat(1, 2, 1, 1, 1)
    with torch.no_grad():
        tokens = none.encode(same, [Modality.VISION]).condition[Modality.VISION].unflatten(1, (2, -1))
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1])


def test_bytes_and_normalised_pixels_are_the_same_frames(model):
    own = batch().frames
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.vision_encoder.mean, model.vision_encoder.std))
    with torch.no_grad():
        torch.testing.assert_close(model.vision_tokens(own), model.vision_tokens((own / 255 - mean) / std))


def test_tasks_that_the_model_cannot_do():
    silent = vast(audio_encoder_type=None)
    silent.check_task(task("ret%tvs_cap%tv_qa%ts"))
    with pytest.raises(ValueError, match="group ta needs audio, but model_cfg.audio_encoder_type is null"):
        silent.check_task(task("cap%ta"))
    with pytest.raises(ValueError, match="no contrastive head for group tas"):
        vast().check_task(task("ret%tas"))
    vast().check_task(task("cap%tas"))


def test_batches_that_lack_what_the_task_needs(model):
    own = dataclasses.replace(batch(), frames=None, questions=None)
    with pytest.raises(ValueError, match="no frames"):
        model(own, task("ret%tv"), StepRandom(0, 0))
    with pytest.raises(ValueError, match="corpus 'clips': the task asks for qa"):
        model(own, task("qa%ts"), StepRandom(0, 0))


def test_several_questions_per_clip(model):
    """Answers to any number of questions of any clip, in their order; also in training."""
    own = batch()
    asked = texts(["what is the man doing ?", "who is running ?", "who is running ?"], 12, clip=[0, 1, 3])
    with torch.no_grad():
        memory = model.memory(model.encode(own, MODALITIES))
        together = model.answer_ids(memory, VAS, asked, beam_size=2)
        for row in range(3):
            one = texts([asked.raw[row]], 12, clip=[int(asked.clip[row])])
            assert model.answer_ids(memory, VAS, one, beam_size=2) == together[row:row + 1]
    own.questions, own.answers = asked, texts(["playing piano", "two dogs", "red"], 6, clip=[0, 1, 3])
    assert model(own, task("qa%tvas"), StepRandom(0, 0))["qa"].isfinite()


def test_sampled_captions_are_text(model):
    with torch.no_grad():
        memory = model.memory(model.encode(batch(), MODALITIES))
        captions = model.sample_captions(memory, VAS, draws=torch.rand(4, 2, 12, generator=torch.Generator().manual_seed(0)), top_k=5)
    assert [len(own) for own in captions] == [2, 2, 2, 2] and all(isinstance(text, str) for own in captions for text in own)


def test_the_tokenizer_travels_to_workers_and_back():
    own = tokenizer()
    again = pickle.loads(pickle.dumps(own))
    ids = again.encode(CAPTIONS, 9)
    assert ids == own.encode(CAPTIONS, 9) and all(len(row) <= 9 and row[0] == own.cls and row[-1] == own.sep for row in ids)
    assert own.decode(own.encode(["Two DOGS running"], 9)[0]) == "two dogs running" and own.encode([], 9) == []
