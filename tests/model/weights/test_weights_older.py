"""Checkpoints that are not this run's: older spellings, other counts and resolutions, subsets, folders as the release writes them."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from omnivast.config.load import load_config
from omnivast.model.build import build_model
from omnivast.model.vast.names import current_name
from omnivast.model.weights import WeightsError, load_weights, start_weights
from tests.model.tiny import BEATS, CONFIG, VAST_TINY, vast

EVA = {"patch_size": 7, "width": 16, "layers": 1, "head_width": 8, "mlp_ratio": 2.0, "drop_path_rate": 0.0}


def eva(seed=1, resolution=14, **changes):
    return vast(seed=seed, vision_encoder_type="evaclip01_giant", vision_encoder_cfg=EVA, vision_resolution=resolution, **changes)


def older(name, tower):
    """How a release before this one spelt a name."""
    if name.startswith("vision_encoder."):
        return tower + name.removeprefix("vision_encoder")
    first, dot, rest = name.partition(".")
    return first.replace("vision", "video") + dot + rest


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("tower", ["evaclip_model", "clip_model", "video_encoder"])
def test_older_spellings_load(tmp_path, tower, prefix):
    source, target = eva(seed=1), eva(seed=2)
    state = {prefix + older(name, tower): tensor for name, tensor in source.state_dict().items()}
    assert {prefix + n for n in ("video_frame_embedding", "video_type_embeddings", "hidden_trans_video_multimodal.0.weight",
                                 f"{tower}.visual.pos_embed")} < set(state)
    torch.save({**state, f"{prefix}{tower}.text.ln_final.weight": torch.zeros(2)}, tmp_path / "old.pt")
    report = load_weights(target, tmp_path / "old.pt")
    assert (report.missing, report.unexpected, report.dropped) == ((), (), ("vision_encoder.text.ln_final.weight",))
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in source.state_dict().items())


def test_names_within_a_tower_are_its_own():
    assert current_name("audio_encoder.video_proj.weight") == "audio_encoder.video_proj.weight"
    assert current_name("vision_encoder.clip_model.weight") == "vision_encoder.clip_model.weight"


def test_two_spellings_of_one_tensor_are_refused(tmp_path):
    torch.save({**vast().state_dict(), "video_frame_embedding": torch.zeros(1, 2, 32)}, tmp_path / "both.pt")
    with pytest.raises(WeightsError, match="'vision_frame_embedding' and 'video_frame_embedding' are both spellings of 'vision_frame_"):
        load_weights(vast(), tmp_path / "both.pt")


@pytest.mark.parametrize("kind", ["vision", "audio"])
@pytest.mark.parametrize("rows, into, nearest", [(3, 5, [0, 0, 1, 1, 2]), (4, 3, [0, 1, 2]), (5, 2, [0, 2]), (1, 3, [0, 0, 0])])
def test_frame_embeddings_of_another_count_take_the_nearest(tmp_path, kind, rows, into, nearest):
    source, target = (vast(seed=seed, **{f"max_{kind}_sample_num": n}) for seed, n in ((1, rows), (2, into)))
    torch.save(source.state_dict(), tmp_path / "m.pt")
    name = f"{kind}_frame_embedding"
    assert load_weights(target, tmp_path / "m.pt").interpolated == (name,)
    assert torch.equal(target.state_dict()[name], source.state_dict()[name][:, nearest])


def bilinear(grid, size):
    """Independent of torch: each new point's four neighbours, pixel centres aligned, clamped at the border."""
    old = len(grid)
    made = np.zeros((size, size, grid.shape[-1]))
    for y in range(size):
        for x in range(size):
            fy, fx = (min(max((v + 0.5) * old / size - 0.5, 0.0), old - 1.0) for v in (y, x))
            y0, x0 = int(fy), int(fx)
            y1, x1 = min(y0 + 1, old - 1), min(x0 + 1, old - 1)
            wy, wx = fy - y0, fx - x0
            made[y, x] = ((1 - wy) * ((1 - wx) * grid[y0, x0] + wx * grid[y0, x1]) + wy * ((1 - wx) * grid[y1, x0] + wx * grid[y1, x1]))
    return made


@pytest.mark.parametrize("before, after", [(14, 35), (35, 21), (21, 28)])
def test_position_embeddings_of_another_resolution_are_bilinear(tmp_path, before, after):
    source, target = eva(seed=1, resolution=before), eva(seed=2, resolution=after)
    with torch.no_grad():
        source.vision_encoder.visual.pos_embed.normal_()
    torch.save(source.state_dict(), tmp_path / "m.pt")
    report = load_weights(target, tmp_path / "m.pt")
    assert report.interpolated == ("vision_encoder.visual.pos_embed",) and not report.missing
    old, new = (model.vision_encoder.visual.pos_embed.detach()[0] for model in (source, target))
    assert torch.equal(old[0], new[0])
    side = before // 7
    wanted = bilinear(old[1:].view(side, side, -1).double().numpy(), after // 7)
    np.testing.assert_allclose(new[1:].view(wanted.shape).numpy(), wanted, atol=1e-6)


RETRIEVAL_LACKS = ("crossattention.", "multimodal_encoder.cls.", "itm_head.")


def asked_for(error):
    """What the message says to pass, as the command line reads it."""
    words = shlex.split(str(error.value).split("--allow_missing ")[1])
    config = Path(__file__).parents[3] / "config" / "debug" / "tiny.json"
    return load_config(["--config", str(config), "--allow_missing", *words]).run_cfg.allow_missing


def test_a_retrieval_only_checkpoint_loads_when_the_run_says_so(tmp_path):
    source, target = vast(seed=1), vast(seed=2)
    state = {name: t for name, t in source.state_dict().items() if not any(part in name for part in RETRIEVAL_LACKS)}
    torch.save(state, tmp_path / "ret.pt")
    with pytest.raises(WeightsError, match=r"(?s)ret.pt: the checkpoint lacks \d+ tensor.*run_cfg.allow_missing") as error:
        load_weights(target, tmp_path / "ret.pt")
    with pytest.raises(WeightsError, match="lacks"):
        load_weights(target, tmp_path / "ret.pt", allow_missing=["itm_head.", "multimodal_encoder.cls."])
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    words = asked_for(error)
    assert words == ["multimodal_encoder.bert.encoder.layer.*.crossattention.", "multimodal_encoder.cls.", "itm_head."]
    report = load_weights(target, tmp_path / "ret.pt", allow_missing=words)
    tied = "multimodal_encoder.cls.predictions.decoder.weight"  # to the word embeddings, under whose name the file has it
    assert set(report.missing) == set(fresh) - set(state) - {tied} and report.unexpected == ()
    for name, tensor in target.state_dict().items():
        if name != tied:
            assert torch.equal(tensor, state[name] if name in state else fresh[name]), name


def test_a_checkpoint_with_another_encoder_loads_when_the_run_says_so(tmp_path):
    source, target = eva(seed=1), vast(seed=2, vision_encoder_cfg={**CONFIG.vision_encoder_cfg, "width": 24})
    torch.save(source.state_dict(), tmp_path / "eva.pt")
    with pytest.raises(WeightsError) as error:
        load_weights(target, tmp_path / "eva.pt")
    for part in ("lacks", "has unknown", "have another shape", "contra_head_v.linear.weight: file (16, 16), model (16, 24)"):
        assert part in str(error.value)
    words = asked_for(error)
    assert set(words) == {"vision_encoder.", "contra_head_v.", "contra_head_va.weight", "contra_head_vs.weight", "contra_head_vas.weight",
                          "hidden_trans_vision_multimodal.0.weight"}
    report = load_weights(target, tmp_path / "eva.pt", allow_missing=words)
    assert all(name.startswith(tuple(words)) for name in (*report.missing, *report.unexpected))
    assert torch.equal(target.itm_head.linear1.weight, source.itm_head.linear1.weight)
    assert torch.equal(target.contra_head_va.bias, source.contra_head_va.bias)


RELEASED_HPS = {
    "run_cfg": {"default": "./config/vast/default_run_cfg.json", "mode": "training", "amp": "apex", "use_ddp": False, "pin_mem": True,
                "some_key_of_another_release": [1, {"x": None}], "checkpoint": "", "learning_rate": 5e-5, "output_dir": "elsewhere"},
    "model_cfg": {"model_type": "vast", "contra_dim": 24, "video_encoder_type": "evaclip01_giant", "audio_encoder_type": "beats",
                  "audio_melbins": 64, "audio_target_length": 128, "use_flash_attn": False, "max_video_sample_num": 2, "beam_size": 9,
                  "frame_embedding_type": "adaptive", "evaluation_type": "evaluation_mm", "another_old_key": 3, "vision_dim": 1408},
    "data_cfg": {"train": [{"type": "annoindexed", "name": "x", "unknown": 1}], "concatenated_nums": 1}, "local_rank": 0,
}


def test_a_folder_that_the_release_wrote_is_a_start(tmp_path, caplog):
    """log/hps.json with keys that mean nothing here; ckpt/model_step_N.pt in an older spelling; the newest is taken."""
    (tmp_path / "pre" / "log").mkdir(parents=True)
    (tmp_path / "pre" / "ckpt").mkdir()
    (tmp_path / "pre" / "log" / "hps.json").write_text(json.dumps(RELEASED_HPS, indent=4))
    released = torch.load(VAST_TINY / "checkpoint.pt", weights_only=True)
    torch.save({f"module.{older(name, 'evaclip_model')}": t for name, t in released.items()}, tmp_path / "pre/ckpt/model_step_2000.pt")
    (tmp_path / "pre/ckpt/model_step_999.pt").touch()
    for name in ("optimizer_step_2000.pt", "best_msrvtt_ret.pt"):
        (tmp_path / "pre" / "ckpt" / name).touch()
    golden = json.loads((VAST_TINY / "golden.json").read_text())
    vision = {key: golden["eva"]["vision_cfg"][key] for key in EVA}
    audio = {key: golden["beats"][key] for key in BEATS}
    (tmp_path / "own.json").write_text(json.dumps({"contra_dim": 512, "inherit_keys": [
        "vision_encoder_type", "audio_encoder_type", "audio_melbins", "audio_target_length", "contra_dim", "frame_embedding_type",
        "max_vision_sample_num", "use_flash_attn"]}))
    (tmp_path / "c.json").write_text(json.dumps({
        "run_cfg": {"pretrain_dir": str(tmp_path / "pre"), "output_dir": str(tmp_path / "out")},
        "model_cfg": {"default": "own.json", "vision_encoder_cfg": vision, "audio_encoder_cfg": audio, "text_encoder_type": "bert",
                      "text_encoder_cfg": golden["bert"], "tokenizer": str(VAST_TINY), "vision_resolution": 56, "max_audio_sample_num": 2,
                      "max_caption_len": 14},
        "data_cfg": {"train": [{"name": "own", "task": "ret%tva", "txt": "a.json", "vision": "clips", "vision_sample_num": 4,
                                "audio_sample_num": 1, "steps": 1}]}}))
    config = load_config(["--config", str(tmp_path / "c.json")])
    cfg = config.model_cfg
    assert (cfg.contra_dim, cfg.audio_target_length, cfg.max_vision_sample_num, config.run_cfg.beam_size) == (24, 128, 2, 3)
    assert "inherit_keys: 'use_flash_attn' has no effect" in caplog.text
    path = start_weights(config.run_cfg.checkpoint, config.run_cfg.pretrain_dir)
    assert path == tmp_path / "pre" / "ckpt" / "model_step_2000.pt"
    model = build_model(cfg, load_towers=False)
    report = load_weights(model, path)
    assert not report.missing and not report.unexpected and not report.interpolated and len(report.dropped) == 20
    own = model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in released.items() if name not in report.dropped)


def test_what_the_message_names_is_whole_parts_of_names(tmp_path):
    state = vast(seed=1).state_dict()
    layer = "multimodal_encoder.bert.encoder.layer.1.crossattention."  # the other layer's fits
    for name in ("contra_head_v.linear.weight", "itm_head.linear2.bias", *(name for name in state if name.startswith(layer))):
        state.pop(name)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(WeightsError) as error:
        load_weights(vast(), tmp_path / "m.pt")
    assert set(asked_for(error)) == {"contra_head_v.", "itm_head.linear2.bias", layer}


WRAPPED = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled, then several processes": lambda name: f"module._orig_mod.{name}",
    "lightning": lambda name: f"model.{name}",
    "lightning, compiled within": lambda name: f"model._orig_mod.{name}",
    "layers compiled": lambda name: re.sub(r"(\.\d+)\.", r"\1._orig_mod.", name),
    "fsdp and checkpointing": lambda name: re.sub(r"(\.\d+)\.", r"\1._fsdp_wrapped_module._checkpoint_wrapped_module.", name),
    "a program of one's own": lambda name: f"student.net.{name}",
}


@pytest.mark.parametrize("named", WRAPPED.values(), ids=WRAPPED)
def test_names_that_other_programs_wrote_are_recognised(tmp_path, named):
    source, target = vast(seed=1), vast(seed=2)
    torch.save({"state_dict": {named(name): tensor for name, tensor in source.state_dict().items()}}, tmp_path / "x.pt")
    report = load_weights(target, tmp_path / "x.pt")
    assert not (report.missing or report.unexpected)
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in source.state_dict().items())


def test_what_stands_beside_the_model_is_named(tmp_path):
    state = {f"model.{name}": tensor for name, tensor in vast(seed=1).state_dict().items()}
    torch.save({"state_dict": {**state, "loss.scale": torch.ones(1)}}, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError, match=r"has unknown 1 tensor\(s\): loss.scale") as error:
        load_weights(vast(), tmp_path / "x.ckpt")
    assert asked_for(error) == ["loss."]


def test_two_names_that_differ_by_what_is_added_alone_are_refused(tmp_path):
    state = vast(seed=1).state_dict()
    name = next(iter(state))
    torch.save({**state, f"_orig_mod.{name}": state[name]}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=f"'{name}' and '_orig_mod.{name}' are both '{name}'"):
        load_weights(vast(), tmp_path / "x.pt")


def test_a_checkpoint_of_another_model_is_told_and_nothing_that_would_accept_it_is_recommended(tmp_path):
    torch.save({"encoder.weight": torch.ones(2), "encoder.bias": torch.ones(2), "head.weight": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match="none of its 3 tensors is one of the model's: it is of another model") as error:
        load_weights(vast(), tmp_path / "x.pt")
    assert "the file has encoder.weight, head.weight\n  the model has contra_temp, " in str(error.value)
    assert "allow_missing" not in str(error.value)
