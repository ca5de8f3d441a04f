"""Our VAST with the released miniature's weights gives what the released layers gave: features, losses, gradients, texts."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from config.schema import ModelConfig
from config.tasks import CaptionKind, Group, Modality, Task
from data.batch import Batch
from model.generate import beam_search
from model.layout import Layout
from model.objectives.generation import IGNORED
from model.step import Negatives, training_losses
from model.text import TextSizes
from model.vast import VAST
from model.weights import load_weights
from tests.model.tiny import VAST_TINY, relative, texts, tokenizer
from utils.random import StepRandom

GROUPS = ("tv", "ta", "tva", "tvs", "tvas")
FEATURES = ("v", "a", "s", "va", "vs", "vas")
EXACT = 1e-5


def build(golden: dict) -> VAST:
    eva, beats = golden["eva"]["vision_cfg"], golden["beats"]
    vision = {key: eva[key] for key in ("patch_size", "width", "layers", "head_width", "mlp_ratio", "drop_path_rate")}
    audio = {key: beats[key] for key in ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads",
                                         "embed_dim", "conv_pos", "conv_pos_groups", "layer_wise_gradient_decay_ratio")}
    cfg = ModelConfig(**golden["model_cfg"], vision_encoder_cfg=vision, audio_encoder_cfg=audio, audio_target_length=128)
    model = VAST(cfg, tokenizer(), TextSizes(**golden["bert"])).eval()
    report = load_weights(model, VAST_TINY / "checkpoint.pt")
    assert not report.missing and not report.unexpected and not report.interpolated
    model.gather_with_grad = False
    return model


@pytest.fixture(scope="module")
def released() -> SimpleNamespace:
    golden = json.loads((VAST_TINY / "golden.json").read_text())
    inputs, outputs = (load_file(VAST_TINY / f"{name}.safetensors") for name in ("inputs", "outputs"))
    model = build(golden)
    one = texts(golden["captions"], 14)
    single = Batch("clips", list("abcd"), torch.arange(4), inputs["vision_pixels"], inputs["audio_spectrograms"],
                   texts(golden["subtitles"], 16), dict.fromkeys(CaptionKind, one), texts(golden["questions"], 14),
                   texts(golden["answers"], 10))
    kinds = {CaptionKind.OMNI: texts(golden["omni_captions"], 20), CaptionKind.VISION: texts(golden["vision_captions"], 14),
             CaptionKind.AUDIO: texts(golden["audio_captions"], 14)}
    several = Batch("clips", single.clip_ids, single.index, single.frames, single.spectrograms, single.subtitles, kinds)
    with torch.no_grad():
        features = model.encode(single, list(Modality))
    negatives = Negatives(torch.tensor(golden["negative_condition_of_caption"]), torch.tensor(golden["negative_caption_of_condition"]))
    return SimpleNamespace(golden=golden, out=outputs, model=model, single=single, several=several, features=features,
                           memory=model.memory(features), negatives={Group.parse(k): negatives for k in GROUPS})


def masked(released, kinds) -> dict:
    """The recorded masks. They depend on row and position alone, so that they apply to every caption kind."""
    out, fixed = released.out, {}
    parts = [(f"cap.{kind.value}", kinds[kind], "cap", "caption") for kind in CaptionKind]
    for name, own, key, source in [*parts, ("qa", released.single.answers, "answer", "answer")]:
        ids, length = own.ids, own.ids.shape[1]
        hidden, labels, plain = (out[k][:, :length] for k in (f"{key}_masked_input_ids", f"{key}_labels", f"{source}_input_ids"))
        chosen = (labels != IGNORED) & own.mask
        fixed[name] = (torch.where(chosen & (hidden != plain), hidden, ids), ids.masked_fill(~chosen, IGNORED))
    return fixed


@torch.no_grad()
def test_every_encoder_gives_the_recorded_tokens(released):
    model, out = released.model, released.out
    assert relative(model.vision_tokens(released.single.frames), out["vision_output"]) < EXACT
    assert relative(model.audio_tokens(released.single.spectrograms), out["audio_output"]) < EXACT
    for modality in Modality:
        assert relative(released.features.condition[modality], out[f"condition_feats_{modality.value}"]) < EXACT
    for key in ("va", "vs", "vas"):
        joined = torch.cat([released.features.condition[m] for m in Group.parse(key)], 1)
        assert relative(joined, out[f"condition_feats_{key}"]) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("name", ["caption", "subtitle"])
def test_the_text_encoder_gives_the_recorded_tokens(released, name):
    ids, mask = released.out[f"{name}_input_ids"], released.out[f"{name}_attention_mask"].bool()
    assert relative(released.model.multimodal_encoder(Layout.of(ids, mask, compute_padding=True)).padded(),
                    released.out[f"{name}_output"]) < EXACT
    packed = released.model.multimodal_encoder(Layout.of(ids, mask)).padded()
    assert relative(packed[mask], released.out[f"{name}_output"][mask]) < EXACT
    own = {"caption": released.single.captions[CaptionKind.OMNI], "subtitle": released.single.subtitles}[name]
    assert torch.equal(ids[:, :own.ids.shape[1]], own.ids) and torch.equal(mask[:, :own.ids.shape[1]], own.mask)


@torch.no_grad()
def test_global_features(released):
    for key in FEATURES:
        assert relative(released.model.embed_clips(released.features, Group.parse(key)), released.out[f"feat_{key}"]) < EXACT
    assert relative(released.model.embed_texts(released.single.captions[CaptionKind.OMNI]), released.out["feat_t"]) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("group", GROUPS)
def test_matching_scores_of_every_pair(released, group):
    own, clips = released.single.captions[CaptionKind.OMNI], torch.arange(4)
    scores = released.model.match(released.memory, Group.parse(group), own.ids.repeat_interleave(4, 0), own.mask.repeat_interleave(4, 0),
                                  clips.repeat(4)).view(4, 4)
    assert relative(scores, released.out[f"itm_scores_{group}"]) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "multi_"])
def test_losses(released, prefix):
    batch = released.several if prefix else released.single
    names = "%".join(GROUPS)
    task = Task.parse(f"ret%{names}_cap%{names}" + ("" if prefix else f"_qa%{names}"))
    losses = training_losses(released.model, batch, task, StepRandom(0, 0), released.negatives, masked(released, batch.captions))
    for group in GROUPS:
        for name, key in (("itc", f"ret.{group}.itc"), ("itm", f"ret.{group}.itm"), ("cap", f"cap.{group}"), ("qa", f"qa.{group}")):
            if f"{name}.{group}" in losses:
                assert float(losses[f"{name}.{group}"]) == pytest.approx(released.golden["losses"][prefix + key], rel=EXACT)
    assert len([name for name in losses if "." in name]) == len(GROUPS) * (3 if prefix else 4)


def test_pretraining_loss_and_the_gradient_of_every_parameter(released):
    model, golden = released.model, released.golden
    task = Task.parse("ret%tvas%tva%tvs%tv%ta_cap%tvas%tva%tvs%tv%ta")
    losses = training_losses(model, released.several, task, StepRandom(0, 0), released.negatives,
                             masked(released, released.several.captions))
    model.zero_grad()
    losses["loss"].backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    recorded, ratio = golden["losses"], golden["model_cfg"]["itm_ratio"]
    assert losses["loss"].item() == pytest.approx(recorded["pretrain.total"], rel=EXACT)
    assert losses["itc"].item() == pytest.approx(recorded["pretrain.loss_itc"], rel=EXACT)
    assert losses["itm"].item() * ratio == pytest.approx(recorded["pretrain.loss_itm"], rel=EXACT)
    assert losses["cap"].item() == pytest.approx(recorded["pretrain.loss_cap"], rel=EXACT)
    assert set(norms) == set(golden["gradient_norms"])
    for name, norm in golden["gradient_norms"].items():  # biases of keys have a gradient of zero but for rounding
        assert norms[name] == pytest.approx(norm, rel=1e-4, abs=1e-7), name


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3, 5])
@pytest.mark.parametrize("key", GROUPS)
def test_generated_ids(released, key, beams):
    model, group, recorded = released.model, Group.parse(key), released.golden["generated"]
    state = model.multimodal_encoder.start(released.memory, group)
    captions = beam_search(model.multimodal_encoder, state, model.tokenizer, beams, 14, 0.6)
    answers = model.answer_ids(released.memory, group, released.single.questions, beam_size=beams)
    assert captions == [until_sep(row) for row in recorded[f"cap_ids.{key}.beam{beams}"]]
    assert answers == [until_sep(row) for row in recorded[f"qa_ids.{key}.beam{beams}"]]
    assert model.caption(released.memory, group, beam_size=beams, max_length=14) == [model.tokenizer.decode(row) for row in captions]


def until_sep(ids: list[int]) -> list[int]:
    return ids[:ids.index(102)] if 102 in ids else ids
