"""Our VAST with the released miniature's weights gives what the released layers gave, and ``omnivast parity`` notices when not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnivast.config.tasks import CaptionKind
from omnivast.model.objectives.generation import IGNORED
from omnivast.model.text.bert import TextSizes
from omnivast.model.text.layout import Layout
from omnivast.model.vast.model import VAST
from omnivast.scripts.tools.parity import vast as parity
from tests.model.tiny import VAST_TINY, relative
from tests.parity import check, edit

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def released():
    return check(VAST_TINY)


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(VAST_TINY, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("kind, tolerance", [("output", 1e-5), ("loss", 1e-5), ("gradient", 1e-4), ("sequence", 0)])
def test_every_recorded_value_is_reproduced(released, kind, tolerance):
    """What was recorded is counted here anew, so that the script cannot pass by leaving something out."""
    golden = json.loads((VAST_TINY / "golden.json").read_text())
    names = {"output": [n for n in load_file(VAST_TINY / "outputs.safetensors") if "masked" not in n and "labels" not in n],
             "loss": list(golden["losses"]), "gradient": list(golden["gradient_norms"]),
             "sequence": [f"{name}[{clip}]" for name in golden["generated"] for clip in range(4)]}[kind]
    own = {name: row for (row_kind, name), row in released.rows.items() if row_kind == kind}
    assert sorted(own) == sorted(names)
    assert {name: row for name, row in own.items() if not row[1] or row[0] > tolerance} == {}


def test_the_summary_of_a_pass(released):
    assert released.status == 0 and released.passed
    assert "nothing missing, nothing unknown, 20 tensors without use left out: vision_encoder.text.*" in released.what
    assert len(released.rows) == 30 + 39 + 189 + 180


@torch.no_grad()
@pytest.mark.parametrize("name", ["caption", "subtitle"])
def test_packed_texts_give_the_recorded_tokens(name):
    """The script computes padding as the release does; training and evaluation leave it out."""
    recorded = parity.Recorded(VAST_TINY)
    ids, mask = recorded.outputs[f"{name}_input_ids"], recorded.outputs[f"{name}_attention_mask"].bool()
    packed = recorded.model.multimodal_encoder.encode(Layout.of(ids, mask)).padded()
    assert relative(packed[mask], recorded.outputs[f"{name}_output"][mask]) < 1e-5


def test_one_changed_weight_is_named_by_what_it_changes(copy):
    state = torch.load(copy / "checkpoint.pt", weights_only=True)
    state["contra_head_va.weight"][3, 5] += 0.05
    torch.save(state, copy / "checkpoint.pt")
    result = check(copy)
    assert result.status == 1 and not result.passed
    assert result.failed[:5] == ["feat_va", "ret.tva.itc", "multi_ret.tva.itc", "pretrain.total", "pretrain.loss_itc"]
    assert result.rows["output", "itm_scores_tva"][1] and result.rows["loss", "cap.tva"][1]
    assert check(copy, "--tolerance", "output=1", "loss=1", "gradient=10").status == 0


def test_a_number_that_is_none(copy):
    outputs = load_file(copy / "outputs.safetensors")
    outputs["feat_v"][0, 0] = float("nan")
    save_file(outputs, copy / "outputs.safetensors")
    assert check(copy).failed == ["feat_v"]


def test_changed_ids_are_named(copy):
    def change(golden):
        golden["generated"]["qa_ids.ta.beam3"][2][1] += 1
        golden["generated"]["cap.tv.beam1"][0] += " room"
    edit(copy, change)
    result = check(copy)
    assert result.status == 1 and result.failed == ["cap.tv.beam1[0]", "qa_ids.ta.beam3[2]"]


def test_what_is_not_recorded_is_missing(copy):
    outputs = load_file(copy / "outputs.safetensors")
    for name in ("feat_vas", "itm_scores_ta", "feat_s"):  # no group needs feat_s
        del outputs[name]
    save_file(outputs, copy / "outputs.safetensors")
    edit(copy, lambda golden: (golden["losses"].pop("ret.tv.itm"), golden["gradient_norms"].pop("contra_temp")))
    result = check(copy)
    assert result.status == 1
    assert result.failed == ["itm_scores_ta", "feat_vas", "ret.tv.itm", "contra_temp"]
    assert result.notes["feat_vas"] == "missing in outputs.safetensors" and result.notes["ret.tv.itm"] == "not recorded"


def test_a_tensor_missing_in_the_checkpoint(copy):
    state = torch.load(copy / "checkpoint.pt", weights_only=True)
    del state["itm_head.linear1.weight"]
    torch.save(state, copy / "checkpoint.pt")
    result = check(copy)
    assert result.status == 2 and "checkpoint.pt: the checkpoint lacks 1 tensor(s): itm_head.linear1.weight" in result.text


@pytest.mark.parametrize("change, message", [
    (lambda g: g.update(loses={}), "golden.json: key 'loses' is not understood. Did you mean 'losses'?"),
    (lambda g: g.pop("answers"), "golden.json: lacks answers"),
    (lambda g: g["model_cfg"].update(contra_dims=3), "model_cfg: key 'contra_dims' is not understood. Did you mean 'contra_dim'?"),
    (lambda g: g["model_cfg"].update(contra_dim="3"), "model_cfg.contra_dim: expected int, got '3' (str)"),
    (lambda g: g["eva"].update(audio_cfg={}), "eva: key 'audio_cfg' is not understood"),
    (lambda g: g["eva"]["vision_cfg"].update(rope=True), "eva.vision_cfg: key 'rope' is not understood"),
    (lambda g: g["beats"].update(layer_norm_first=True), "beats: layer_norm_first is True; only False is implemented"),
    (lambda g: g["bert"].update(hiden_size=3), "bert: key 'hiden_size' is not understood. Did you mean 'hidden_size'?"),
    (lambda g: g["captions"].pop(), "captions has 3 entries, but there are 4 clips"),
    (lambda g: g["losses"].update({"rett.tv.itc": 1.0}), "losses, in 'rett.tv.itc': key 'rett' is not understood. Did you mean 'ret'?"),
    (lambda g: g["losses"].update({"ret.tv.itd": 1.0}), "losses: key 'ret.tv.itd' is not understood. Did you mean 'ret.tv."),
    (lambda g: g["generated"].update({"cap_ids.tv.bean3": []}), "expected cap_ids.<group>.beam<number>"),
    (lambda g: g["model_cfg"].update(vision_resolution=70), "vision_resolution is 70, vision_pixels has 56"),
])
def test_what_is_not_understood_is_refused(copy, change, message):
    edit(copy, change)
    result = check(copy)
    assert result.status == 2 and message in result.text


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "golden.json").write_text('{"eva": {}}')
    result = check(tmp_path)
    assert result.status == 2 and "lacks checkpoint.pt, vocab.txt, inputs.safetensors, outputs.safetensors" in result.text
    refused = check(VAST_TINY, "--tolerance", "outputs=1")
    assert refused.status == 2 and "--tolerance: key 'outputs' is not understood. Did you mean 'output'?" in refused.text
    refused = check(VAST_TINY, "--tolerance", "loss=small")
    assert refused.status == 2 and "--tolerance loss=small: expected a number, for example loss=1e-05" in refused.text


TEXT = {"captions": ["a red car", "two dogs running near the water", "singing"], "vision_captions": ["car", "two dogs", "a man"],
        "audio_captions": ["loud engine", "barking", "a man is singing while playing the piano"],
        "omni_captions": ["a red car in the street with loud engine sound", "two dogs", "a man is singing"],
        "subtitles": ["", "", "welcome"], "questions": ["what color is the car ?", "who ?", "what is the man doing ?"],
        "answers": ["red", "two dogs", "playing piano"]}


def record(folder):
    """Another layout: 3 clips of 1 frame and 3 slices, other sizes and lengths, few groups; recorded from our own model."""
    def noise(*shape):
        return torch.randn(shape, generator=torch.Generator().manual_seed(5))
    folder.mkdir()
    shutil.copy(VAST_TINY / "vocab.txt", folder)
    golden = {
        "model_cfg": {"contra_dim": 10, "max_vision_sample_num": 1, "max_audio_sample_num": 3, "itm_ratio": 1.0, "max_caption_len": 9,
                      "max_omni_caption_len": 12, "max_subtitle_len": 5, "vision_resolution": 42},
        "eva": {"vision_cfg": {"image_size": 42, "layers": 1, "width": 24, "head_width": 12, "mlp_ratio": 2.0, "patch_size": 14}},
        "beats": {"encoder_layers": 1, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 40, "encoder_attention_heads": 2,
                  "conv_pos": 8, "conv_pos_groups": 4, "embed_dim": 16},
        "bert": {"vocab_size": 186, "hidden_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
                 "max_position_embeddings": 32}, **TEXT,
        "negative_condition_of_caption": [2, 0, 1], "negative_caption_of_condition": [1, 2, 0],
        "losses": dict.fromkeys(["ret.tv.itc", "ret.tv.itm", "ret.tvs.itc", "ret.tvs.itm", "cap.tva", "qa.tv", "multi_cap.ta",
                                 "pretrain.total"], 0.0),
        "gradient_norms": {}, "generated": {"cap_ids.tva.beam2": [], "qa_ids.tv.beam1": [], "qa.tv.beam1": []}}
    (folder / "golden.json").write_text(json.dumps(golden))
    save_file({"vision_pixels": noise(3, 1, 3, 42, 42), "audio_spectrograms": noise(3, 3, 32, 48)}, folder / "inputs.safetensors")
    save_file({"none": torch.zeros(1)}, folder / "outputs.safetensors")
    fill(folder, golden)


def fill(folder, golden):
    torch.manual_seed(3)
    original = parity.load_weights
    try:  # no checkpoint yet: the model as it is initialised
        parity.load_weights = lambda model, path: SimpleNamespace(interpolated=())
        (folder / "checkpoint.pt").touch()
        recorded = parity.Recorded(folder)
    finally:
        parity.load_weights = original
    with torch.no_grad():
        for parameter in recorded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    torch.save(recorded.model.state_dict(), folder / "checkpoint.pt")
    made = parity.outputs(recorded)
    for key, length, source in (("cap", 9, "caption"), ("answer", 10, "answer")):
        chosen = torch.zeros(3, length, dtype=torch.bool)
        chosen[:, 1:3] = True
        ids = made[f"{source}_input_ids"]
        made[f"{key}_labels"], made[f"{key}_masked_input_ids"] = ids.masked_fill(~chosen, IGNORED), ids.masked_fill(chosen, 103)
    save_file({name: tensor.clone() for name, tensor in made.items()}, folder / "outputs.safetensors")
    recorded = parity.Recorded(folder)
    losses = recorded.losses(recorded.several, {"ret": recorded.groups["ret"].values(), "cap": recorded.groups["multi_cap"].values()})
    losses["loss"].backward()
    golden["gradient_norms"] = {n: float(p.grad.norm()) for n, p in recorded.model.named_parameters() if p.grad is not None}
    golden["losses"] = {**parity.group_losses(recorded, "", recorded.single), **parity.group_losses(recorded, "multi_", recorded.several),
                        "pretrain.total": losses["loss"].item(), **{f"pretrain.loss_{n}": losses[n].item() for n in ("itc", "itm", "cap")}}
    with torch.no_grad():
        memory = recorded.model.memory(recorded.model.encode(recorded.single, list(parity.Modality)))
        answers = recorded.model.answer_ids(memory, parity.Group.parse("tv"), recorded.texts("questions"), beam_size=1)
        state = recorded.model.multimodal_encoder.start(memory, parity.Group.parse("tva"))
        captions = parity.beam_search(recorded.model.multimodal_encoder, state, recorded.tokenizer, 2, 9, 0.6)
    golden["generated"] = {"qa_ids.tv.beam1": [[*row, 102, 0] for row in answers], "cap_ids.tva.beam2": captions,
                           "qa.tv.beam1": [recorded.tokenizer.decode(row) for row in answers]}
    (folder / "golden.json").write_text(json.dumps(golden))


def test_a_folder_of_another_layout(tmp_path):
    record(tmp_path / "other")
    # A process of its own, started elsewhere.
    run = subprocess.run([sys.executable, "-m", "omnivast", "parity", "other", "--values"], cwd=tmp_path, capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    lines = run.stdout.splitlines()
    assert lines[0].startswith("other: VAST, 3 clips") and lines[-1].startswith("passed: ")
    for row in ("  itm_scores_tvs ", "  multi_cap.ta ", "  contra_head_vs.weight ", "  cap_ids.tva.beam2[2] ",
                "gradient    gradient_norms "):
        assert sum(line.startswith(row) for line in lines) == 1
    assert not any("beam5" in line or "tvas" in line for line in lines)


def test_the_other_layout_is_another(tmp_path):
    """Its sizes reach the model, and other texts give other values."""
    record(tmp_path / "other")
    recorded = parity.Recorded(tmp_path / "other")
    assert isinstance(recorded.model, VAST) and recorded.model.multimodal_encoder.sizes == TextSizes(186, 40, 1, 2, 48, 32)
    assert recorded.model.vision_encoder.width == 24 and recorded.cfg.audio_target_length == 32 and recorded.cfg.audio_melbins == 48
    assert recorded.several.captions[CaptionKind.OMNI].ids.shape == (3, 12)
    edit(tmp_path / "other", lambda golden: golden["captions"].__setitem__(0, "a blue car"))
    assert {"caption_input_ids", "feat_t", "itm_scores_tv", "cap.tva"} <= set(check(tmp_path / "other").failed)
