"""Towers: the registry, timm models, the small ViT, BEATs."""

import dataclasses

import pytest
import torch

from omnivast.model.encoders import base
from omnivast.model.encoders.base import EncoderError, register_vision
from omnivast.model.encoders.beats import Beats, relative_buckets
from omnivast.model.encoders.build import build_audio, build_vision
from omnivast.model.encoders.vit import ConvStem
from tests.model.tiny import CONFIG


def config(**changes):
    return dataclasses.replace(CONFIG, **changes)


def pixels(side=16, number=2):
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_unknown_names_name_the_nearest():
    with pytest.raises(EncoderError, match=r"vision_encoder_type: unknown encoder 'evaclip1_giant'.*Did you mean 'evaclip01_giant'"):
        build_vision(config(vision_encoder_type="evaclip1_giant"))
    with pytest.raises(EncoderError, match="audio_encoder_type: unknown encoder 'beat'.*Did you mean 'beats'"):
        build_audio(config(audio_encoder_type="beat"))
    with pytest.raises(EncoderError, match="timm has no model 'vit_tiny_patch16_244'; near are vit_tiny_patch16_224"):
        build_vision(config(vision_encoder_type="timm:vit_tiny_patch16_244"))


def test_unknown_sizes_name_the_nearest():
    with pytest.raises(EncoderError, match="vision_encoder_cfg has no size 'widht'; valid are .*Did you mean 'width'"):
        build_vision(config(vision_encoder_cfg={"widht": 8}))
    with pytest.raises(EncoderError, match="audio_encoder_cfg has no size 'encoder_layer'.*Did you mean 'encoder_layers'"):
        build_audio(config(audio_encoder_cfg={"encoder_layer": 1}))
    with pytest.raises(EncoderError, match="stem must be 'conv' or 'patch', got 'convolution'"):
        build_vision(config(vision_encoder_cfg={**CONFIG.vision_encoder_cfg, "stem": "convolution"}))
    with pytest.raises(EncoderError, match="stride must be a power of two that divides vision_resolution 16, got 12"):
        build_vision(config(vision_encoder_cfg={**CONFIG.vision_encoder_cfg, "stride": 12}))
    with pytest.raises(EncoderError, match="audio_target_length must be a multiple of the patch size 16, got 40"):
        build_audio(config(audio_target_length=40))
    with pytest.raises(EncoderError, match="audio_melbins must be a multiple"):
        build_audio(config(audio_melbins=20))


@pytest.mark.parametrize(("changes", "words"), [
    ({"vision_encoder_cfg": {"width": "wide"}}, r"vision_encoder_cfg.width: expected int such as 128, got 'wide' \(str\)"),
    ({"vision_encoder_cfg": {"depth": 2.5}}, "vision_encoder_cfg.depth: expected int"),
    ({"vision_encoder_cfg": {"class_token": 1}}, "class_token: expected true or false, got 1"),
    ({"vision_encoder_cfg": {"heads": 5}}, r"vision_encoder_cfg: no encoder can be built with .*\"heads\": 5.*divisible"),
    ({"audio_encoder_cfg": {"encoder_attention_heads": 0}}, "audio_encoder_cfg: no encoder can be built with"),
    ({"audio_encoder_cfg": {"encoder_layers": 0}}, "audio_encoder_cfg.encoder_layers must be at least 1, got 0"),
    ({"vision_encoder_type": "swin_base_22k_224", "vision_encoder_cfg": {"depths": 2}}, r"depths: expected a list such as \[2, 2, 18, 2\]"),
    ({"vision_encoder_type": "swin_base_22k_224", "vision_encoder_cfg": {"depths": [1, "1"]}}, "depths: expected a list"),
    ({"audio_encoder_cfg": {"encoder_layers": "two"}}, "audio_encoder_cfg.encoder_layers: expected int such as 12, got 'two'"),
    ({"audio_encoder_cfg": {"encoder_embed_dim": 30, "encoder_attention_heads": 4}}, "must divide encoder_embed_dim 30, got 4"),
    ({"audio_encoder_cfg": {"conv_pos_groups": 7}}, "conv_pos_groups must divide encoder_embed_dim 768, got 7"),
    ({"audio_encoder_type": "hf:x", "audio_encoder_cfg": {"model_type": "whisper", "d_model": "x"}}, "d_model: expected int"),
])
def test_wrong_sizes_are_named(changes, words):
    with pytest.raises(EncoderError, match=words):
        (build_vision if "vision_encoder_cfg" in changes else build_audio)(config(**changes))


def test_whole_numbers_serve_where_any_number_does():
    assert build_vision(config(vision_encoder_cfg={**CONFIG.vision_encoder_cfg, "mlp_ratio": 2})).width == 16


def test_a_new_encoder_needs_a_builder_and_a_name(monkeypatch):
    monkeypatch.setattr(base.VISION, "_items", dict(base.VISION._items))

    @register_vision("mine")
    def mine(cfg):
        encoder = torch.nn.Identity()
        encoder.width = cfg.vision_resolution
        return encoder

    assert build_vision(config(vision_encoder_type="mine")).width == 16


@pytest.mark.parametrize("stem", ["conv", "patch"])
@pytest.mark.parametrize("with_cls", [False, True])
def test_the_small_vit(stem, with_cls):
    sizes = {**CONFIG.vision_encoder_cfg, "stem": stem, "class_token": with_cls}
    encoder = build_vision(config(vision_resolution=32, vision_encoder_cfg=sizes))
    tokens = encoder(pixels(32))
    assert tokens.shape == (2, 16 + with_cls, 16) and encoder.width == 16 and encoder.has_cls == with_cls
    tokens.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert isinstance(encoder.body.patch_embed, ConvStem) == (stem == "conv")


def test_the_convolutional_stem_keeps_places():
    """A change in the last corner of the picture reaches the last token and not the first."""
    stem = ConvStem(64, 8, 3, 16, stem_width=8).eval()
    stem.layers = torch.nn.Sequential(*(layer for layer in stem.layers if not isinstance(layer, torch.nn.GroupNorm)))
    with torch.no_grad():
        before, picture = stem(pixels(64, 1)), pixels(64, 1)
        picture[..., -4:, -4:] += 5
        changed = (stem(picture) - before).abs().amax(-1)[0]
    assert changed[-1] > 0 and changed[0] == 0 and len(changed) == 64


@pytest.mark.parametrize("name, has_cls", [("test_vit", True), ("test_resnet", False)])
def test_timm_models(name, has_cls):
    encoder = build_vision(config(vision_encoder_type=f"timm:{name}", vision_resolution=64, vision_encoder_cfg={}))
    tokens = encoder(pixels(64))
    assert tokens.ndim == 3 and tokens.shape[0] == 2 and tokens.shape[2] == encoder.width and encoder.has_cls == has_cls
    mean, std = encoder.pixel_statistics()
    assert mean.shape == std.shape == (1, 3, 1, 1) and (mean > 50).all() and (mean < 200).all()
    if not has_cls:  # a feature map is read row by row
        feature_map = encoder.eval().body.forward_features(pixels(64))
        assert torch.equal(encoder(pixels(64)), feature_map.flatten(2).transpose(1, 2))


def beats(**changes):
    torch.manual_seed(0)
    return build_audio(config(audio_encoder_cfg={**CONFIG.audio_encoder_cfg, "encoder_layers": 2, **changes}))


def sound(number=2, length=48, mel=32):
    return torch.randn(number, length, mel, generator=torch.Generator().manual_seed(1))


def test_beats_tokens_vary_slowest_in_time():
    encoder = beats().eval()
    tokens = encoder(sound())
    assert tokens.shape == (2, 3 * 2, 16) and encoder.frontend == "beats"
    encoder.encoder = torch.nn.Identity()
    later = sound()
    later[:, 32:, 16:] += 1  # the last patch in time, the higher half of the mel bins
    changed = (encoder(later) - encoder(sound())).abs().amax(-1)
    assert (changed[:, :5] == 0).all() and (changed[:, 5] > 0).all()


def test_beats_relative_buckets_by_hand():
    """Eight buckets up to distance 16: four per sign, of which 0 and 1 are exact; 2 to 5 share one, farther another."""
    distances = torch.tensor([0, -1, -2, -3, -5, -6, -16, -1000, 1, 2, 6, 1000])
    assert relative_buckets(distances, 8, 16).tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 7]
    far = relative_buckets(torch.tensor([-79, -80, -799, -800, -5000, 79, 5000]), 320, 800)
    assert far.tolist() == [79, 80, 159, 159, 159, 239, 319]


def test_beats_shares_the_bias_of_its_first_layer():
    encoder = beats()
    first, second = encoder.encoder.layers
    assert first.self_attn.relative_attention_bias is second.self_attn.relative_attention_bias
    assert first.self_attn.position_bias(7).shape == (2, 7, 7)


@pytest.mark.parametrize("kind", ["vision", "audio", "eva"])
def test_checkpointing_changes_no_gradient(kind):
    def gradients(enable):
        torch.manual_seed(0)
        eva = {"patch_size": 8, "width": 16, "layers": 2, "head_width": 8, "mlp_ratio": 2.0, "drop_path_rate": 0.0}
        encoder = {"vision": lambda: build_vision(config()), "audio": beats,
                   "eva": lambda: build_vision(config(vision_encoder_type="evaclip01_giant", vision_encoder_cfg=eva))}[kind]()
        encoder.set_checkpointing(enable)
        encoder.train()(sound() if kind == "audio" else pixels()).square().sum().backward()
        return {name: p.grad for name, p in encoder.named_parameters()}

    plain, saved = gradients(False), gradients(True)
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_earlier_layers_of_beats_can_learn_slower(checkpointing):
    """A decay of a half: a quarter of the gradient before two layers, half of it in the first, all of it in the last."""
    def norms(decay):
        encoder = beats(layer_wise_gradient_decay_ratio=decay).train()
        encoder.set_checkpointing(checkpointing)
        encoder(sound()).square().sum().mul(1e3).backward()
        return {name: p.grad.norm().item() for name, p in encoder.named_parameters()}

    whole, half = norms(1.0), norms(0.5)
    for name, share in (("patch_embedding.weight", 0.25), ("encoder.layers.0.fc1.weight", 0.5), ("encoder.layers.1.fc1.weight", 1.0)):
        assert half[name] == pytest.approx(share * whole[name], rel=1e-4)


def test_layers_of_beats_are_dropped_in_training_alone():
    encoder = beats(encoder_layerdrop=1.0)
    with torch.no_grad():
        trained = encoder.train()(sound())
        assert not torch.allclose(trained, encoder.eval()(sound())) and isinstance(encoder, Beats)
