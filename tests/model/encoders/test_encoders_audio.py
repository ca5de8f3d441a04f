"""Audio encoders by released name and of the transformers library: outputs, names, files, sizes, front ends."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnivast.data.audio import FRONTENDS
from omnivast.model.encoders.base import EncoderError
from omnivast.model.encoders.build import build_audio
from omnivast.model.encoders.hf_audio import transformers_audio
from omnivast.model.weights import WeightsError, load_tower, load_weights, tower_file, towers
from tests.model.tiny import BEATS, CONFIG, GOLDENS, batch, relative, task, vast

ROOT = Path(__file__).parents[3]
AST = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
HF = {
    "clap": {"model_type": "clap_audio_model", "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [1, 2],
             "spec_size": 64, "num_mel_bins": 32, "window_size": 4, "hidden_size": 16},
    "whisper": {"model_type": "whisper", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
                "num_mel_bins": 32, "max_source_positions": 32, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32,
                "vocab_size": 200, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0},
    "ast": {"model_type": "audio-spectrogram-transformer", **AST, "num_mel_bins": 32, "max_length": 32},
}
HF["clap_fused"] = {**HF["clap"], "enable_fusion": True}
TINY = {"beats": BEATS, "ast": AST, **{f"hf:{kind}": sizes for kind, sizes in HF.items()}}


def build(name, sizes=None, mel_bins=32, length=32):
    torch.manual_seed(0)
    return build_audio(config(name, sizes, mel_bins, length))


def config(name, sizes=None, mel_bins=32, length=32):
    sizes = TINY[name] if sizes is None else sizes
    return dataclasses.replace(CONFIG, audio_encoder_type=name, audio_encoder_cfg=sizes, audio_melbins=mel_bins, audio_target_length=length)


def sound(length=32, mel_bins=32, number=2):
    return torch.randn(number, length, mel_bins, generator=torch.Generator().manual_seed(1))


# ----------------------------------------------------------------------------------------------------------------- released


def golden_ast():
    folder = GOLDENS / "encoders" / "ast"
    info = json.loads((folder / "info.json").read_text())
    sizes = {"hidden_size": info["hidden"], "num_hidden_layers": info["layers"], "num_attention_heads": info["heads"],
             "intermediate_size": info["ffn"]}
    encoder = build("ast", sizes, info["melbins"], info["target_length"])
    return encoder, load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")


def test_ast_s_output_is_the_release_s():
    """With weights named as in a released checkpoint, which load_weights reads into a whole model."""
    encoder, weights, values = golden_ast()
    encoder.load_state_dict({name.removeprefix("audio_encoder."): tensor for name, tensor in weights.items()})
    with torch.no_grad():
        assert relative(encoder.eval()(values["input"]), values["output"]) < 1e-5


def test_a_released_checkpoint_keeps_ast_s_embeddings_beside_it(tmp_path):
    cfg = {"audio_encoder_type": "ast", "audio_encoder_cfg": AST}
    source, model = vast(seed=3, **cfg), vast(seed=4, **cfg)
    state = {name.replace("audio_encoder.audio_embeddings.", "audio_embeddings."): tensor for name, tensor in source.state_dict().items()}
    released = {name for name in golden_ast()[1] if ".layer.1." not in name or "audio_embeddings" in name}
    assert released <= state.keys()
    torch.save(state, tmp_path / "model.pt")
    report = load_weights(model, tmp_path / "model.pt")
    assert not (report.missing or report.unexpected)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in source.state_dict().items())


def ast_file(rows=12, columns=101, width=16):
    """A file as AST's authors published it: ``module.v.`` of a DeiT, with two tokens before 12 × 101 overlapping patches."""
    shapes = {"cls_token": (1, 1, width), "dist_token": (1, 1, width), "pos_embed": (1, 2 + rows * columns, width), "norm.weight": (width,),
              "norm.bias": (width,), "patch_embed.proj.weight": (width, 1, 16, 16), "patch_embed.proj.bias": (width,),
              "head.weight": (3, width), "head.bias": (3,), "head_dist.weight": (3, width), "head_dist.bias": (3,)}
    for i in range(2):
        shapes |= {f"blocks.{i}.{name}.{kind}": shape if kind == "weight" else shape[:1] for kind in ("weight", "bias") for name, shape in (
            ("norm1", (width,)), ("norm2", (width,)), ("attn.qkv", (3 * width, width)), ("attn.proj", (width, width)),
            ("mlp.fc1", (2 * width, width)), ("mlp.fc2", (width, 2 * width)))}
    noise = torch.Generator().manual_seed(5)
    state = {f"module.v.{name}": torch.randn(shape, generator=noise) for name, shape in shapes.items()}
    return {**state, "module.mlp_head.0.weight": torch.zeros(width), "module.mlp_head.1.bias": torch.zeros(3)}


def test_ast_starts_from_its_authors_file(tmp_path):
    """The tower of the file computed independently: timm's own attention with the joint projection, on patches that do not overlap."""
    from timm.models.vision_transformer import VisionTransformer

    state = ast_file()
    torch.save(state, tmp_path / "ast.pth")
    encoder = build("ast", AST).eval()
    load_tower(encoder, tmp_path / "ast.pth", tower_file("ast"))
    plain = VisionTransformer(img_size=(32, 32), patch_size=16, in_chans=1, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0,
                              num_classes=0, global_pool="token").eval()
    grid = state["module.v.pos_embed"][:, 2:].reshape(1, 12, 101, 16).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (2, 2), mode="bilinear").flatten(2).transpose(1, 2)
    own = {name.removeprefix("module.v."): tensor for name, tensor in state.items() if "head" not in name and "dist" not in name}
    plain.load_state_dict({**own, "pos_embed": torch.cat([state["module.v.pos_embed"][:, :1], grid], 1)})
    with torch.no_grad():
        assert relative(encoder(sound()), plain.forward_features(sound().transpose(1, 2)[:, None])) < 1e-5
    del state["module.v.norm.bias"]
    torch.save(state, tmp_path / "ast.pth")
    with pytest.raises(WeightsError, match=r"ast.pth: the checkpoint lacks 1 tensor\(s\): last_layernorm.bias"):
        load_tower(encoder, tmp_path / "ast.pth", tower_file("ast"))


def beats_file(encoder, path, **cfg):
    state = encoder.state_dict()
    kept = {name: tensor for name, tensor in state.items() if "layers.1.self_attn.relative_attention_bias" not in name}
    torch.save({"cfg": {**{key: encoder.size[key] for key in ("encoder_layers", "max_distance", "deep_norm")}, "finetuned_model": True,
                        "layer_norm_first": False, "predictor_class": 527, **cfg},
                "model": {**kept, "predictor.weight": torch.zeros(3), "predictor.bias": torch.zeros(3)}}, path)


def test_beats_reads_every_variant(tmp_path, monkeypatch):
    monkeypatch.setattr(towers, "WEIGHTS", tmp_path)
    (tmp_path / "beats").mkdir()
    sizes = {**BEATS, "encoder_layers": 2}
    source = build("beats", sizes)
    for name, file in (("beats", "BEATs_iter3_plus_AS2M"), ("beats:BEATs_iter3", "BEATs_iter3"),
                       ("beats:BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2", "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2")):
        described = tower_file(name)
        assert described.place == tmp_path / "beats" / f"{file}.pt" and described.url is None and file in described.by_hand
        beats_file(source, described.place)
        torch.manual_seed(1)
        encoder = build_audio(config(name, sizes))
        load_tower(encoder, described.place, described)
        assert all(torch.equal(tensor, encoder.state_dict()[key]) for key, tensor in source.state_dict().items())


@pytest.mark.parametrize(("cfg", "message"), [
    ({"max_distance": 1280}, 'of another model: max_distance is 1280, expected 800; set it in audio_encoder_cfg: {"max_distance": 1280}'),
    ({"deep_norm": False}, r'deep_norm is False, expected True; set it in audio_encoder_cfg: {"deep_norm": false}'),
    ({"layer_norm_first": True}, "layer_norm_first is True, expected False; this BEATs has nothing else"),
])
def test_a_beats_file_of_other_sizes_is_refused(tmp_path, cfg, message):
    encoder = build("beats")
    beats_file(encoder, tmp_path / "b.pt", **cfg)
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_tower(encoder, tmp_path / "b.pt", tower_file("beats"))


# ------------------------------------------------------------------------------------------------------------- transformers


def whole_model(kind):
    """A model of transformers as it is published: with what surrounds the audio tower."""
    library = transformers_audio()
    torch.manual_seed(7)
    sizes = {key: value for key, value in HF[kind].items() if key != "model_type"}
    if kind == "whisper":
        return library.WhisperForConditionalGeneration(library.WhisperConfig(**sizes))
    if kind == "ast":
        return library.ASTForAudioClassification(library.ASTConfig(**sizes))
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 20,
            "max_position_embeddings": 8}
    return library.ClapModel(library.ClapConfig(audio_config=sizes, text_config=text))


def expected_tokens(kind, model, spectrogram):
    """What transformers itself computes."""
    if kind == "whisper":
        return model.model.encoder(spectrogram.transpose(1, 2)).last_hidden_state
    if kind == "ast":
        tokens = model.audio_spectrogram_transformer(spectrogram)
        return torch.cat([tokens.pooler_output[:, None], tokens.last_hidden_state[:, 2:]], 1)
    channels = 4 if kind == "clap_fused" else 1
    features = model.audio_model(spectrogram[:, None].repeat(1, channels, 1, 1), is_longer=torch.zeros(len(spectrogram), 1))
    return features.last_hidden_state.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(("kind", "layout"), [*((kind, "safetensors") for kind in HF), ("ast", "bin"), ("ast", "sharded")])
def test_a_hugging_face_folder(kind, layout, tmp_path, monkeypatch):
    """Sizes and weights from the folder; the output is that of transformers' own model."""
    monkeypatch.setattr(towers, "WEIGHTS", tmp_path)
    folder = tmp_path / "hf" / "org" / kind
    model = whole_model(kind).eval()
    model.save_pretrained(folder)
    if layout == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    elif layout == "sharded":
        model.save_pretrained(folder, max_shard_size="5KB")
        (folder / "model.safetensors").unlink(missing_ok=True)
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    length = 64 if kind == "whisper" else 32
    name = f"hf:org/{kind}"
    encoder = build(name, {}, length=length).eval()
    file = tower_file(name)
    load_tower(encoder, file.place, file)
    with torch.no_grad():
        tokens, expected = encoder(sound(length)), expected_tokens(kind, model, sound(length))
    assert tokens.shape == expected.shape and tokens.shape[2] == encoder.width and relative(tokens, expected) < 1e-5
    direct = build(f"hf:{folder}", {}, length=length)
    assert tower_file(f"hf:{folder}").place == file.place.absolute()
    load_tower(direct, file.place, tower_file(f"hf:{folder}"))
    assert all(torch.equal(tensor, direct.state_dict()[key]) for key, tensor in encoder.state_dict().items())


def test_whisper_takes_shorter_slices(tmp_path):
    """The first positions: what is heard in the first half is what the whole model hears there, but for attention to the rest."""
    model = whole_model("whisper")
    model.save_pretrained(tmp_path)
    encoder = build(f"hf:{tmp_path}", {}, length=32)
    load_tower(encoder, tmp_path / "model.safetensors", tower_file(f"hf:{tmp_path}"))
    assert torch.equal(encoder.body.embed_positions.weight, model.model.encoder.embed_positions.weight[:16])
    assert encoder(sound(32)).shape == (2, 16, 16)


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    model = whole_model("ast")
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    file, name = tower_file(f"hf:{tmp_path}"), "audio_spectrogram_transformer.layernorm.weight"
    save_file({key: tensor for key, tensor in state.items() if key != name}, tmp_path / "model.safetensors")
    encoder = build(f"hf:{tmp_path}", {})
    with pytest.raises(WeightsError, match=r"lacks 1 tensor\(s\): body.layernorm.weight"):
        load_tower(encoder, file.place, file)
    save_file({**state, name: torch.zeros(5)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"body.layernorm.weight has shape \(5,\), the model expects \(16,\)"):
        load_tower(encoder, file.place, file)


def test_what_a_folder_says_is_checked(tmp_path):
    with pytest.raises(EncoderError, match=r"no .*nowhere/config.json.*`python -m omnivast weights hf:org/nowhere`"):
        build("hf:org/nowhere", {})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}))
    with pytest.raises(EncoderError, match="model_type 'wav2vec2' is no audio encoder known here; valid are clap"):
        build(f"hf:{tmp_path}", {})
    (tmp_path / "config.json").write_text(json.dumps(HF["ast"]))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"mean": -6.8, "num_mel_bins": 32}))
    with pytest.raises(EncoderError, match=r"preprocessor_config.json: mean is -6.8; the front end here has -4.2677393"):
        build(f"hf:{tmp_path}", {})
    with pytest.raises(EncoderError, match="audio_melbins 16: .* takes 32"):
        build("hf:ast", HF["ast"], mel_bins=16)
    for kind, length, message in (("ast", 16, "this AST takes 32 mel frames"), ("whisper", 66, "even number of mel frames, at most 64"),
                                  ("whisper", 31, "even number"), ("clap", 129, "CLAP takes at most 128 mel frames")):
        with pytest.raises(EncoderError, match=message):
            build(f"hf:{kind}", HF[kind], length=length)
    with pytest.raises(EncoderError, match="audio_encoder_cfg has no size 'd_modle'.*Did you mean 'd_model'"):
        build("hf:whisper", {**HF["whisper"], "d_modle": 8})
    with pytest.raises(EncoderError, match="unknown encoder 'hff:x'; valid are .*hf:<name or folder>"):
        build("hff:x", {})


# ------------------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("name", TINY)
def test_every_encoder_trains_in_a_model(name):
    """Its front end is one that the data has, its global feature is what it says, and every parameter learns."""
    model = vast(audio_encoder_type=name, audio_encoder_cfg=TINY[name]).train()
    assert model.audio_frontend in FRONTENDS
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    data = batch(model.config)
    clips = model.encode(data, task("ret%ta").modalities)
    clips.pooled[next(iter(clips.pooled))].square().sum().backward(retain_graph=True)
    clips.condition[next(iter(clips.condition))].square().sum().backward()
    without = [n for n, p in model.audio_encoder.named_parameters() if p.grad is None]
    assert not without


def test_the_global_feature_of_ast_is_its_cls():
    model = vast(audio_encoder_type="ast", audio_encoder_cfg=AST).eval()
    data = batch(model.config)
    with torch.no_grad():
        clips = model.encode(data, task("ret%ta").modalities)
        tokens = model.audio_encoder(data.spectrograms[:, 0])
    assert torch.allclose(clips.pooled[task("ret%ta").modalities[0]], tokens[:, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["ast", "hf:whisper", "hf:ast"])
def test_checkpointing_changes_no_gradient(name):
    def gradients(enable):
        sizes = {**TINY[name], **({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if "ast" in name else {})}
        encoder = build(name, sizes).train()
        encoder.set_checkpointing(enable)
        encoder(sound()).square().sum().backward()
        return {key: p.grad for key, p in encoder.named_parameters()}

    plain, saved = gradients(False), gradients(True)
    for key, gradient in plain.items():
        torch.testing.assert_close(saved[key], gradient)


BESIDE_TORCHAUDIO = """
from omnivast.config.schema import ModelConfig
from omnivast.model.encoders.build import build_audio
import torch
with torch.device("meta"):
    build_audio(ModelConfig(audio_encoder_type="ast", audio_encoder_cfg={"num_hidden_layers": 1}))
"""


def test_a_torchaudio_that_cannot_be_imported_is_no_hindrance(tmp_path):
    """As pip leaves it behind when torch alone is upgraded. Nothing here needs torchaudio."""
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('undefined symbol')")
    (tmp_path / "torchaudio-2.0.0.dist-info").mkdir()
    (tmp_path / "torchaudio-2.0.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torchaudio\nVersion: 2.0.0\n")
    done = subprocess.run([sys.executable, "-c", BESIDE_TORCHAUDIO], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_clap_cannot_recompute():
    encoder = build("hf:clap")
    encoder.set_checkpointing(False)
    with pytest.raises(EncoderError, match="model_cfg.checkpointing: transformers' ClapAudioModel cannot recompute"):
        encoder.set_checkpointing(True)


@pytest.mark.parametrize(("name", "mel_bins", "length", "parameters", "tokens"), [
    ("beats", 64, 1024, 90_311_792, 256), ("ast", 64, 1024, 85_451_520, 257),
])
def test_full_sizes(name, mel_bins, length, parameters, tokens):
    with torch.device("meta"):
        encoder = build_audio(config(name, {}, mel_bins, length))
        assert encoder.eval()(torch.zeros(1, length, mel_bins)).shape == (1, tokens, 768)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
