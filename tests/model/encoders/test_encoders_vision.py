"""Vision encoders by released name, and any of timm's and open_clip's: outputs, names, sizes, files, resolutions."""

import dataclasses
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import interpolate

from omnivast.model.encoders.base import EncoderError
from omnivast.model.encoders.build import build_vision
from omnivast.model.encoders.naming import store_as_released
from omnivast.model.weights import TOWER_FILES, WeightsError, load_tower, load_weights, tower_file
from tests.model.tiny import CONFIG, GOLDENS, batch, relative, vast

EVA = {"patch_size": 8, "width": 16, "layers": 2, "head_width": 8, "mlp_ratio": 2.0}
SWIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window": 2, "drop_path_rate": 0.0}
TINY = {
    "evaclip01_giant": {**EVA, "drop_path_rate": 0.0}, "evaclip02_base": {**EVA, "rope_grid": 2}, "evaclip02_bige": EVA,
    "clip_vit_base_16": {"patch_size": 8, "width": 16, "layers": 2, "heads": 2},
    "swin_base_22k_224": SWIN, "videoswin_base_k600_22k": {**SWIN, "window": [2, 2, 2]},
    "timm:test_vit": {}, "timm:test_resnet": {},
    "open_clip:ViT-B-16-quickgelu:openai": {"patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
}
GOLDEN = {
    "evaclip02_rope": ("evaclip02_base", 64, {"width": 64, "layers": 3, "head_width": 16, "mlp_ratio": 2.6667, "rope_grid": 4}),
    "evaclip02_postnorm": ("evaclip02_bige", 56, {"width": 64, "layers": 3, "head_width": 16}),
    "clip_vit": ("clip_vit_base_16", 64, {"width": 64, "layers": 3, "heads": 4}),
    "swin": ("swin_base_22k_224", 64, {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window": 4}),
    "videoswin": ("videoswin_base_k600_22k", 64, {"embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window": [4, 4, 4]}),
}
# Pixels, parameters (published, with heads: 1.0 B, 86 M, 304 M, 4.4 B, 86 M, 88 M, 304 M, 88 M, 197 M, 88 M, 50 M), tokens of a frame
FULL = {
    "evaclip01_giant": (224, 1_011_146_112, 257), "evaclip02_base": (224, 85_869_312, 197), "evaclip02_large": (224, 303_317_952, 257),
    "evaclip02_bige": (224, 4_348_720_896, 257), "clip_vit_base_16": (224, 85_799_424, 197), "clip_vit_base_32": (224, 87_456_000, 50),
    "clip_vit_large_14": (224, 303_179_776, 257), "clip_vit_large_14_336px": (336, 303_507_456, 577),
    "swin_base_22k_224": (224, 86_743_224, 49),
    "swin_large_22k_224": (224, 194_995_476, 49), "videoswin_base_k600_22k": (224, 87_638_984, 49),
    "videoswin_small_k400_1k": (224, 49_509_078, 49),
}


def build(name, resolution=16, sizes=None):
    torch.manual_seed(0)
    sizes = TINY[name] if sizes is None else sizes
    return build_vision(dataclasses.replace(CONFIG, vision_encoder_type=name, vision_resolution=resolution, vision_encoder_cfg=sizes))


def needs_open_clip():
    pytest.importorskip("open_clip", reason="open_clip_torch is not installed")


def frames(side=16, clips=2, number=2):
    return torch.randn(clips, number, 3, side, side, generator=torch.Generator().manual_seed(0))


def golden(kind):
    """Weights, input (B, F, 3, H, W) and output (B, F, N, width) of a miniature."""
    folder = GOLDENS / "encoders" / kind
    if not folder.is_dir():  # too large for the repository
        folder = GOLDENS.parents[2] / "shared" / "parity" / "encoders" / kind
        if not folder.is_dir():
            pytest.skip(f"no {folder}")
    weights, values = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    if kind == "videoswin":  # (B, channel, F, H, W) both
        return weights, values["input"].transpose(1, 2), values["output"].permute(0, 2, 3, 4, 1).flatten(2, 3)
    return weights, values["input"][:, None], values["output"][:, None]


@pytest.mark.parametrize("kind", GOLDEN)
def test_outputs_are_the_release_s(kind, tmp_path):
    """From a file laid out as the tower's own, with what surrounds the tower there."""
    weights, pixels, expected = golden(kind)
    name, resolution, sizes = GOLDEN[kind]
    file = tower_file(name)
    around = {start.replace("*", "0") + "weight": torch.zeros(3) for start in file.dropped if start.endswith(".")}
    content = {file.prefix + key: tensor for key, tensor in {**around, **weights}.items()}
    if file.prefix:
        content["cls_head.fc_cls.weight"] = torch.zeros(3)
    torch.save({"model": content}, tmp_path / "tower.pt")
    encoder = build(name, resolution, sizes).eval()
    load_tower(encoder, tmp_path / "tower.pt", file)
    with torch.no_grad():
        got = encoder.encode_frames(pixels)
    assert got.shape == expected.shape and relative(got, expected) < 1e-5
    stored = encoder.state_dict()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in stored.items())
    unused = [key for key in weights if key not in stored]
    assert all("rope" in key or "attn_mask" in key or key.startswith("visual.head.") or key == "visual.proj" for key in unused)


@pytest.mark.parametrize("kind", GOLDEN)
def test_whole_checkpoints_hold_the_release_s_names(kind, tmp_path):
    weights, _, _ = golden(kind)
    name, resolution, sizes = GOLDEN[kind]
    changes = {"vision_encoder_type": name, "vision_resolution": resolution, "vision_encoder_cfg": sizes}
    model = vast(seed=1, **changes)
    state = model.state_dict()
    tower = {key.removeprefix("vision_encoder."): tensor for key, tensor in state.items() if key.startswith("vision_encoder.")}
    assert all(tensor.shape == weights[key].shape for key, tensor in tower.items())
    released = {**state, **{f"vision_encoder.{key}": tensor for key, tensor in weights.items()}}
    torch.save(released, tmp_path / "released.pt")
    report = load_weights(model, tmp_path / "released.pt")
    assert not report.missing and not report.unexpected and set(report.dropped) == set(released) - set(state)
    assert all(torch.equal(tensor, released[key]) for key, tensor in model.state_dict().items())
    other = vast(seed=2, **changes)
    other.load_state_dict(model.state_dict())  # strictly, as a resumed run does
    assert all(torch.equal(own, others) for own, others in zip(model.parameters(), other.parameters()))


@pytest.mark.parametrize("name", FULL)
def test_full_sizes(name):
    resolution, parameters, tokens = FULL[name]
    with torch.device("meta"):
        encoder = build(name, resolution, {}).eval()
        out = encoder.encode_frames(torch.zeros(1, 2, 3, resolution, resolution))
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert out.shape == (1, 2, tokens, encoder.width)


@pytest.mark.parametrize("name", TINY)
def test_checkpointing_changes_no_gradient(name):
    if name.startswith("open_clip"):
        needs_open_clip()

    def gradients(enable):
        encoder = build(name, 160 if name == "timm:test_vit" else 16).train()
        encoder.set_checkpointing(enable)
        calls = []
        for module in encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm):
                module.register_forward_hook(lambda *_: calls.append(1))
        encoder.encode_frames(frames(160 if name == "timm:test_vit" else 16)).square().sum().backward()
        return {n: p.grad for n, p in encoder.named_parameters()}, len(calls)

    (plain, once), (saved, again) = gradients(False), gradients(True)
    assert all(gradient is not None for gradient in plain.values()), [n for n, g in plain.items() if g is None]
    for key, gradient in plain.items():
        torch.testing.assert_close(saved[key], gradient)
    assert 1.3 * once < again <= 2 * once


@pytest.mark.parametrize("name", ["evaclip01_giant", "evaclip02_base", "clip_vit_base_16", "swin_base_22k_224", "videoswin_base_k600_22k"])
def test_mixed_precision(name):
    encoder = build(name).eval()
    with torch.no_grad():
        plain = encoder.encode_frames(frames())
        with torch.autocast("cpu", torch.bfloat16):
            assert relative(encoder.encode_frames(frames()).float(), plain) < 0.02


def test_checkpointing_that_a_library_lacks_is_refused():
    encoder = build("timm:inception_v3", 96, {})
    encoder.set_checkpointing(False)
    with pytest.raises(EncoderError, match="checkpointing: timm's InceptionV3 cannot recompute"):
        encoder.set_checkpointing(True)


@pytest.mark.parametrize("name", ["evaclip02_bige", "clip_vit_base_16", "swin_base_22k_224", "videoswin_base_k600_22k"])
def test_frozen(name):
    sizes = {**TINY[name], **({"drop_path_rate": 0.5} if "drop_path_rate" in TINY[name] else {})}
    changes = {"vision_encoder_type": name, "vision_encoder_cfg": sizes, "frozen_vision": True, "checkpointing": True}
    model = vast(**changes).train()
    images = batch(dataclasses.replace(CONFIG, **changes)).frames
    tokens = model.vision_tokens(images)
    assert torch.equal(tokens, model.vision_tokens(images)) and not tokens.requires_grad
    assert not any(p.requires_grad for p in model.vision_encoder.parameters())


def test_names_and_sizes_that_are_not_known():
    for name in ("evaclip02_base", "clip_vit_base_32", "swin_large_22k_224", "videoswin_base_k600_22k", "videoswin_small_k400_1k"):
        with pytest.raises(EncoderError, match="vision_encoder_cfg has no size 'layerz'; valid are"):
            build(name, 16, {"layerz": 2})
    with pytest.raises(EncoderError, match="'evaclip02_bigE'.*Did you mean 'evaclip02_bige'"):
        build("evaclip02_bigE", 16, {})
    with pytest.raises(EncoderError, match="vision_resolution must be a multiple of 8 for a Swin of 2 stages, got 20"):
        build("swin_base_22k_224", 20)
    with pytest.raises(EncoderError, match="timm's 'test_vit' does not take it: .*'widht'"):
        build("timm:test_vit", 160, {"widht": 2})


def test_open_clip_s_names_that_are_not_known():
    needs_open_clip()
    with pytest.raises(EncoderError, match="open_clip has no model 'ViT-B-17'; near are ViT-B-16"):
        build("open_clip:ViT-B-17", 16, {})
    with pytest.raises(EncoderError, match="has no weights 'openal'.*Did you mean 'openai'"):
        build("open_clip:ViT-B-16:openal", 16, {})
    with pytest.raises(EncoderError, match="different preprocessing or activation; name one, as in open_clip:ViT-B-16:openai"):
        build("open_clip:ViT-B-16", 16, {})
    with pytest.raises(EncoderError, match="pools its tokens by attention"):
        build("open_clip:coca_ViT-B-32", 32, {})


def test_rotary_frequencies_follow_the_grid_of_pretraining():
    """At the pretrained grid they are those that the release stores; on a grid twice as fine, every second is."""
    weights, _, _ = golden("evaclip02_rope")
    name, resolution, sizes = GOLDEN["evaclip02_rope"]
    stored = torch.cat([weights["visual.rope.freqs_sin"], weights["visual.rope.freqs_cos"]], 1)
    torch.testing.assert_close(build(name, resolution, sizes).visual.rope.get_embed(), stored)
    finer = build(name, 2 * resolution, sizes).visual.rope.get_embed().unflatten(0, (8, 8))
    torch.testing.assert_close(finer[::2, ::2].flatten(0, 1), stored)


@pytest.mark.parametrize("kind, key", [("evaclip02_rope", "visual.pos_embed"), ("clip_vit", "visual.positional_embedding")])
def test_other_resolutions_interpolate_the_grid_bilinearly(kind, key, tmp_path):
    weights, _, _ = golden(kind)
    name, resolution, sizes = GOLDEN[kind]
    encoder = build(name, 96, sizes)
    save_file(weights, tmp_path / "tower.safetensors")
    load_tower(encoder, tmp_path / "tower.safetensors", tower_file(name))
    table, got = weights[key].view(17, 64), encoder.state_dict()[key]
    grid = interpolate(table[1:].T.reshape(1, 64, 4, 4), scale_factor=1.5, mode="bilinear")[0].flatten(1).T
    assert got.shape == (*weights[key].shape[:-2], 37, 64)
    torch.testing.assert_close(got.view(37, 64), torch.cat([table[:1], grid]))
    assert encoder.encode_frames(frames(96)).shape == (2, 2, 37, 64)


def test_windows_of_another_size_are_another_shape(tmp_path):
    weights, _, _ = golden("swin")
    name, resolution, sizes = GOLDEN["swin"]
    save_file(weights, tmp_path / "tower.safetensors")
    encoder = build(name, 128, sizes)  # the same window over more of the picture: nothing to interpolate
    load_tower(encoder, tmp_path / "tower.safetensors", tower_file(name))
    assert encoder.encode_frames(frames(128)).shape == (2, 2, 256, 64)
    with pytest.raises(WeightsError, match=r"relative_position_bias_table has shape \(49, 2\), the model expects \(81, 2\)"):
        load_tower(build(name, resolution, {**sizes, "window": 5}), tmp_path / "tower.safetensors", tower_file(name))


def test_a_clip_s_frames_see_each_other_in_video_swin_alone():
    for name, sees in (("swin_base_22k_224", False), ("videoswin_base_k600_22k", True)):
        encoder, clip = build(name, 32).eval(), frames(32, 1, 3)
        other = clip.clone()
        other[:, 1] += 1
        with torch.no_grad():
            changed = (encoder.encode_frames(clip) - encoder.encode_frames(other)).abs().amax((0, 2, 3))
        assert changed[1] > 0 and bool(changed[0] > 0) == sees
        assert encoder.encode_frames(frames(32, 2, 1)).shape == (2, 1, 16, 16)


def test_the_two_clips_are_one_function(tmp_path):
    """open_clip's ViT reads the released CLIP's tensors and gives its outputs."""
    needs_open_clip()
    weights, pixels, expected = golden("clip_vit")
    name = "open_clip:ViT-B-16-quickgelu:openai"
    encoder = build(name, 64, {"width": 64, "layers": 3, "head_width": 16}).eval()
    save_file({**weights, "logit_scale": torch.zeros(1), "token_embedding.weight": torch.zeros(2)}, tmp_path / "clip.safetensors")
    load_tower(encoder, tmp_path / "clip.safetensors", tower_file(name))
    with torch.no_grad():
        assert relative(encoder.encode_frames(pixels), expected) < 1e-5
    assert encoder.has_cls and encoder.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_open_clip_s_other_towers(tmp_path):
    needs_open_clip()
    siglip = build("open_clip:ViT-B-16-SigLIP2:webli", 80, {"timm_model_name": "test_vit", "timm_pool": "token"}).eval()
    assert siglip.mean == siglip.std == (0.5, 0.5, 0.5) and siglip.encode_frames(frames(80)).shape == (2, 2, 26, 64)
    state = {f"visual.{n.replace('body.', 'trunk.')}": t for n, t in siglip.state_dict().items()}
    save_file({**state, "visual.head.proj.weight": torch.zeros(2), "visual.trunk.head.weight": torch.zeros(2)}, tmp_path / "s.safetensors")
    load_tower(siglip, tmp_path / "s.safetensors", tower_file("open_clip:ViT-B-16-SigLIP2:webli"))
    clipa = build("open_clip:ViT-L-14-CLIPA", 28, {"width": 16, "layers": 1, "head_width": 8})
    assert not clipa.has_cls and clipa.encode_frames(frames(28)).shape == (2, 2, 4, 16)
    resnet = build("open_clip:RN50-quickgelu:openai", 64, {"layers": [1, 1, 1, 1], "width": 16})
    assert resnet.encode_frames(frames(64)).shape == (2, 2, 4, 512)
    with pytest.raises(EncoderError, match="ResNets cannot recompute"):
        resnet.set_checkpointing(True)


def test_open_clip_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(EncoderError, match=r"'open_clip:ViT-B-16:openai': open_clip is not installed: pip install .omnivast\[open_clip\]"):
        build("open_clip:ViT-B-16:openai", 16, {})
    assert tower_file("open_clip:ViT-B-16:openai").url is None


SMALL_VIT = {"embed_dim": 32, "depth": 1, "num_heads": 2}
TIMM = [  # name, resolution, settings, tokens, width, has [CLS], mean
    ("vit_small_patch16_dinov3", 64, SMALL_VIT, 17, 32, True, 0.485),  # four registers
    ("vit_base_patch16_siglip_224.v2_webli", 64, SMALL_VIT, 16, 32, False, 0.5),
    ("vit_pe_core_tiny_patch16_384", 64, SMALL_VIT, 17, 32, True, 0.5),
    ("eva02_tiny_patch14_224", 56, SMALL_VIT, 17, 32, True, 0.48145466),
    ("vit_medium_patch16_reg4_gap_256", 64, SMALL_VIT, 16, 32, False, 0.5),  # registers without a [CLS]
    ("convnext_atto", 64, {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}, 4, 8, False, 0.485),
    ("swin_tiny_patch4_window7_224", 64, {"depths": (1, 1), "embed_dim": 16, "num_heads": (1, 2), "window_size": 4}, 64, 32, False, 0.485),
]


@pytest.mark.parametrize("name, side, settings, tokens, width, has_cls, mean", TIMM)
def test_any_of_timm_s(name, side, settings, tokens, width, has_cls, mean, tmp_path):
    encoder = build(f"timm:{name}", side, settings).train()
    encoder.set_checkpointing(True)
    out = encoder.encode_frames(frames(side))
    assert out.shape == (2, 2, tokens, width) and encoder.has_cls == has_cls and encoder.mean[0] == mean
    whole = timm.create_model(name, num_classes=3, img_size=side, **settings) if "convnext" not in name else timm.create_model(
        name, num_classes=3, **settings)
    save_file(whole.state_dict(), tmp_path / "timm.safetensors")
    load_tower(encoder, tmp_path / "timm.safetensors", tower_file(f"timm:{name}"))
    own = encoder.body.state_dict()
    assert own and all(torch.equal(tensor, whole.state_dict()[key]) for key, tensor in own.items())


def test_a_timm_file_of_another_resolution(tmp_path):
    whole = timm.create_model("vit_base_patch16_siglip_224", num_classes=0, img_size=64, **SMALL_VIT)
    save_file(whole.state_dict(), tmp_path / "timm.safetensors")
    encoder = build("timm:vit_base_patch16_siglip_224", 32, SMALL_VIT)
    load_tower(encoder, tmp_path / "timm.safetensors", tower_file("timm:vit_base_patch16_siglip_224"))
    assert encoder.encode_frames(frames(32)).shape == (2, 2, 4, 32)
    same = encoder.body.blocks[0].attn.qkv.weight
    assert torch.equal(same, whole.blocks[0].attn.qkv.weight) and encoder.body.pos_embed.mean().item() == pytest.approx(
        whole.pos_embed.mean().item(), abs=5e-3)


def test_where_files_lie():
    assert all(not file.path.startswith("/") and file.by_hand for file in TOWER_FILES.values())
    assert tower_file("clip_vit_base_16").path == "clip/ViT-B-16.pt" and tower_file("clip_vit_base_16").sha256 in tower_file(
        "clip_vit_base_16").url
    assert tower_file("vit_small_scratch") is None and tower_file("swan:x") is None
    timm_file = tower_file("timm:vit_base_patch16_siglip_224")
    assert timm_file.path == "timm/vit_base_patch16_siglip_224.safetensors"
    assert timm_file.url == "https://huggingface.co/timm/vit_base_patch16_siglip_224.v2_webli/resolve/main/model.safetensors"
    assert tower_file("hf:some/where").path == "hf/some/where/model.safetensors"
    needs_open_clip()
    open_clip = tower_file("open_clip:ViT-B-16-SigLIP2:webli")
    assert open_clip.path == "open_clip/ViT-B-16-SigLIP2.webli.safetensors"
    assert open_clip.url == "https://huggingface.co/timm/ViT-B-16-SigLIP2/resolve/main/open_clip_model.safetensors"


def test_names_that_would_collide_are_refused():
    with pytest.raises(ValueError, match="two parameters have one released name"):
        store_as_released(nn.Linear(2, 2), {"weight": "x", "bias": "x"})
