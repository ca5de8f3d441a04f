"""VALOR's parts: learning rates and weight decay as released, what starts from CLIP's file, two BERTs, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from omnivast.config.schema import RunConfig
from omnivast.config.tasks import Group
from omnivast.data.batch import Texts
from omnivast.model.build import build_model
from omnivast.model.encoders.base import EncoderError
from omnivast.model.encoders.clip_text import LARGE, ClipParts
from omnivast.model.interface import ModelError
from omnivast.model.valor.names import NAMES
from omnivast.model.weights import load_weights, towers
from omnivast.model.weights.towers import TowerFile
from omnivast.training.optim import build_optimizer
from tests.model.tiny import CONFIG as VAST_CONFIG
from tests.model.tiny import batch, task, vast
from tests.model.valor.recorded import GOLDENS, clip_words
from tests.model.valor.test_valor_processes import CLIP_TEXT, CONFIG, valor

RUN = RunConfig(learning_rate=1e-3, clip_lr=1e-5, clip_lr_text=1e-6, weight_decay=0.05)
SWIN = {"vision_encoder_type": "videoswin_base_k600_22k",
        "vision_encoder_cfg": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window": [2, 2, 2], "patch": [2, 4, 4]}}


def groups(**changes):
    optimizer = build_optimizer(valor(**changes), RUN)
    return {name: (group["peak_lr"], group["weight_decay"]) for group in optimizer.param_groups for name in group["param_names"]}


def test_learning_rates_and_decay_are_the_released_ones():
    found = groups(**CLIP_TEXT)
    for name, wanted in {
        "vision_encoder.visual.blocks.0.attn.qkv.weight": (1e-5, 0.05), "vision_encoder.visual.norm.weight": (1e-5, 0.05),
        "vision_encoder.visual.norm.bias": (1e-5, 0.0), "vision_encoder.visual.pos_embed": (1e-5, 0.05), "clip.visual_proj": (1e-5, 0.05),
        "clip.logit_scale": (1e-6, 0.05), "clip.text_projection": (1e-6, 0.05), "clip.text.ln_final.weight": (1e-6, 0.05),
        "clip.text.ln_final.bias": (1e-6, 0.0), "clip.text.transformer.resblocks.0.attn.in_proj_bias": (1e-6, 0.0),
        "contra_temp": (1e-3, 0.05), "video_frame_embedding": (1e-3, 0.05), "audio_encoder.body.layernorm.weight": (1e-3, 0.05),
        "multimodal_encoder.bert.embeddings.LayerNorm.weight": (1e-3, 0.0),
        "multimodal_encoder.cls.predictions.transform.LayerNorm.weight": (1e-3, 0.05),  # cls.layernorm in the release
    }.items():
        assert found[name] == wanted, name
    with_swin = groups(**SWIN)
    assert {rate for name, (rate, _) in with_swin.items() if name.startswith("vision_encoder")} == {1e-3}
    tables = [decay for name, (_, decay) in with_swin.items() if name.endswith("relative_position_bias_table")]
    assert tables and set(tables) == {0.0}


def test_the_temperature_and_the_text_tower_start_from_clips_file(tmp_path, monkeypatch):
    source = valor(**CLIP_TEXT)
    state = {name.removeprefix("visual."): tensor for name, tensor in source.vision_encoder.state_dict().items()}
    state = {f"visual.{name}": tensor for name, tensor in state.items()}
    clip = {source.names.released(f"clip.{name}").removeprefix("clip_model."): tensor for name, tensor in source.clip.state_dict().items()}
    clip["logit_scale"] = torch.tensor(4.6052)
    save_file({name: tensor.contiguous() for name, tensor in {**state, **clip}.items()}, tmp_path / "clip.safetensors")
    empty = TowerFile("ast.safetensors", None, "")
    save_file({name: tensor.contiguous() for name, tensor in source.audio_encoder.state_dict().items()}, tmp_path / "ast.safetensors")
    monkeypatch.setattr(towers, "WEIGHTS", tmp_path)
    monkeypatch.setitem(towers.TOWER_FILES, "clip_vit_base_16", dataclasses.replace(
        towers.TOWER_FILES["clip_vit_base_16"], path="clip.safetensors"))
    monkeypatch.setitem(towers.TOWER_FILES, "ast", empty)
    torch.manual_seed(9)
    words = tmp_path / "words"
    words.mkdir()
    model = build_model(dataclasses.replace(CONFIG, pretrained=True, clip_tokenizer=clip_words(words), **CLIP_TEXT))
    assert float(model.temperature.detach()) == pytest.approx(0.01, rel=1e-4)
    for name, tensor in source.clip.state_dict().items():
        if name != "logit_scale":
            assert torch.equal(model.clip.state_dict()[name], tensor), name
    for name, tensor in source.vision_encoder.state_dict().items():
        assert torch.equal(model.vision_encoder.state_dict()[name], tensor), name
    plain = build_model(dataclasses.replace(CONFIG, pretrained=True))  # BERT reads texts; the temperature is CLIP's all the same
    assert float(plain.temperature.detach()) == pytest.approx(0.01, rel=1e-4) and not hasattr(plain.clip, "text")


def test_clips_text_tower_has_the_released_names_and_shapes():
    """Of VALOR-L, whose checkpoint carries it without use."""
    released = json.loads((GOLDENS / "valor_released_parameters.json").read_text())["VALOR-L"]
    with torch.device("meta"):
        parts = ClipParts(0.07, LARGE, True, 1024)
    own = {NAMES.released(f"clip.{name}"): list(tensor.shape) for name, tensor in parts.state_dict().items()}
    without_use = {"clip_model.prompt_embedding.weight"}
    assert own == {name: shape for name, shape in released.items() if name.startswith("clip_model.") and name not in without_use
                   and (not name.startswith("clip_model.visual.") or name == "clip_model.visual.proj")}
    assert {NAMES.current(name).removeprefix("clip.") for name in own} == parts.state_dict().keys()


def test_two_berts():
    """One encodes texts, the other decodes; a checkpoint of two is read again, and one of a shared BERT serves as both."""
    model = valor(share_txt_and_multimodal=False)
    losses = model(batch(CONFIG), task("ret%tv"), None)
    losses["loss"].backward()
    touched = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert "txt_encoder" in touched and "multimodal_encoder" not in touched
    assert not any("crossattention" in name or ".cls." in name for name, _ in model.txt_encoder.named_parameters())


def test_checkpoints_of_one_and_of_two_berts(tmp_path):
    two, one = valor(share_txt_and_multimodal=False), valor()
    released = {two.names.released(name): tensor for name, tensor in two.state_dict().items()}
    torch.save(released, tmp_path / "two.pt")
    again = valor(share_txt_and_multimodal=False)
    torch.nn.init.zeros_(again.txt_encoder.bert.embeddings.word_embeddings.weight)
    load_weights(again, tmp_path / "two.pt")
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in again.state_dict().items())
    copies = {f"txt_encoder.{name.removeprefix('multimodal_encoder.')}": tensor for name, tensor in
              ((one.names.released(name), tensor) for name, tensor in one.state_dict().items()) if name.startswith("multimodal_encoder.")}
    torch.save({**{one.names.released(name): tensor for name, tensor in one.state_dict().items()}, **copies}, tmp_path / "one.pt")
    load_weights(again, tmp_path / "one.pt")
    words, others = (model.bert.embeddings.word_embeddings.weight for model in (again.txt_encoder, one.multimodal_encoder))
    assert torch.equal(words, others)


def test_the_temperature_of_a_first_checkpoint_is_read(tmp_path):
    """Ours called CLIP's scale logit_scale at first."""
    model = valor()
    state = {("logit_scale" if name == "clip.logit_scale" else name): tensor for name, tensor in model.state_dict().items()}
    torch.save({**state, "logit_scale": torch.tensor(1.0)}, tmp_path / "older.pt")
    load_weights(model, tmp_path / "older.pt")
    assert model.clip.logit_scale.item() == 1.0


@pytest.mark.parametrize("changes, error, message", [
    ({"txt_encoder_type": "roberta"}, ModelError, "txt_encoder_type 'roberta': valid are bert_base_uncased .* and clip_vit_base_16"),
    ({"txt_encoder_type": "clip_vit_large_14_336px"}, ModelError, "whose image tower must be model_cfg.vision_encoder_type, not clip"),
    ({**CLIP_TEXT, **SWIN}, ModelError, "must be model_cfg.vision_encoder_type, not videoswin_base_k600_22k"),
    ({**CLIP_TEXT, "max_caption_len": 21, "max_omni_caption_len": 21}, ModelError, "max_caption_len 21 exceeds the 20 positions of CLIP's"),
    ({**CLIP_TEXT, "clip_text_cfg": {"vocab_size": 50}}, ModelError, "CLIP's vocabulary has 60 tokens, but its text tower only 50"),
    ({**CLIP_TEXT, "clip_text_cfg": {"depth": 2}}, EncoderError, "model_cfg.clip_text_cfg has no size 'depth'"),
])
def test_what_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        valor(**changes)


def test_vast_refuses_what_is_valors():
    with pytest.raises(ValueError, match="group v-a is one of VALOR's; VAST compares texts with clips"):
        vast().check_task(task("ret%v-a"))
    own = batch(VAST_CONFIG)
    weighed = Texts(own.answers.ids, own.answers.mask, own.answers.clip, own.answers.raw, torch.ones(4))
    with pytest.raises(ValueError, match="corpus 'clips': its answers have weights, by which VALOR learns several answers to one question"):
        vast()(dataclasses.replace(own, answers=weighed), task("qa%tv"), None)


def test_the_dual_softmax_has_the_models_temperature():
    for changes, parts in (({}, 1), ({"late_fusion": True}, 2)):
        model = valor(**changes)
        group = task("ret%tva").all_groups[0]
        assert model.dual_temperature(group) == pytest.approx(0.07 / parts, rel=1e-5)
    assert vast().dual_temperature(group) == 0.01


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"caption_type": "lm"}, {"multimodal_use_cross_attn": False, "caption_type": "lm"}])
def test_captions_are_drawn(changes):
    """Whichever way words are predicted; where only the likeliest word may be drawn they are those of greedy search."""
    model, group = valor(**changes).eval(), Group.parse("tva")
    features = model.encode(batch(CONFIG), group.modalities)
    draws = torch.rand(4, 2, 40, generator=torch.Generator().manual_seed(0))
    drawn = model.sample_captions(model.memory(features), group, draws=draws)
    assert [len(own) for own in drawn] == [2] * 4
    likeliest = model.sample_captions(model.memory(features), group, draws=draws, top_k=1)
    greedy = model.caption(model.memory(features), group, beam_size=1, max_length=40)
    assert likeliest == [[text] * 2 for text in greedy] != drawn
