"""VALOR with the released miniature's weights gives what the release gave, and its checkpoints are read and written bit for bit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import Group, Task
from omnivast.data.batch import Texts
from omnivast.model.build import build_model
from omnivast.model.valor.step import contrastive, draw_masks, training_losses
from omnivast.model.weights import load_weights
from omnivast.scripts.tools import convert_checkpoint
from omnivast.scripts.tools.parity.rows import TOLERANCES, Folder
from omnivast.scripts.tools.parity.valor_model import Recorded
from omnivast.utils.random import StepRandom
from tests.model.tiny import relative
from tests.model.valor.recorded import ABLATIONS, GOLDENS, RELEASED, folder_of
from tests.parity import check, edit

GIVEN = r"(cap|mlm|answer|several_answers)_(masked_input_ids|labels)"
"""Tensors that are inputs: what the release's masker had drawn."""
BY_CLIP = "|clip_input_ids|retrieval_input_ids"
"""Further ones where texts are read by CLIP's text tower, whose words were not recorded."""
_folders: dict[str, Recorded] = {}


def place(name: str) -> Path:
    """The folder of a recorded model."""
    folder = folder_of(name)
    if folder is None:
        pytest.skip(f"the values recorded from the released VALOR in '{name}' are not here")
    return folder


@pytest.fixture(params=RELEASED + ABLATIONS)
def r(request):
    """A folder of recorded values, and ours with its weights."""
    folder = place(request.param)
    if request.param not in _folders:
        _folders[request.param] = Recorded(Folder.read(folder, (), ""))
    return _folders[request.param]


@pytest.fixture
def copy(tmp_path):
    """A copy of the folder that is kept here, to be changed."""
    shutil.copytree(place("videoswin"), tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("name", RELEASED + ABLATIONS)
def test_every_recorded_value_is_reproduced(name):
    """What was recorded is counted here anew, so that nothing passes by being left out."""
    folder = place(name)
    golden, outputs = json.loads((folder / "golden.json").read_text()), load_file(folder / "outputs.safetensors")
    found = check(folder)
    given = GIVEN + (BY_CLIP if "clip_input_ids" in outputs else "")
    wanted = [("output", tensor) for tensor in outputs if not re.fullmatch(given, tensor)]
    wanted += [("loss", loss) for loss in golden["losses"]] + [("sequence", sentence) for sentence in golden["prompts"]]
    wanted += [("sequence", f"{text}[{row}]") for text, rows in golden["generated"].items() for row in range(len(rows))]
    wanted += [("output", "temperature"), *(("gradient", f"no_gradient.{task}") for task in golden["no_gradient"])]
    assert not set(wanted) - set(found.rows)
    rest = sorted(set(found.rows) - set(wanted))
    for section, task in (("gradient_norms", "pretrain."), ("gradient_norms_dual", "pretrain_dual.")):
        assert sum(value.startswith(task) for _, value in rest) == len(golden[section])
    assert all(kind == "gradient" or value.startswith("retrieval_metrics.") for kind, value in rest)
    assert len([value for _, value in rest if value.startswith("retrieval_metrics.")]) == 8 * len(golden["retrieval_metrics"])
    assert found.failed == [] and found.status == 0
    assert all(error <= TOLERANCES[kind] for (kind, _), (error, _) in found.rows.items())


def test_a_model_that_cannot_be_built_fails(copy):
    edit(copy, lambda golden: golden["model_cfg"].update(multimodal_encoder_type="roberta"))
    found = check(copy)
    assert found.status == 1 and found.failed == ["model_cfg"]
    assert found.notes["model_cfg"].startswith("not supported by this version: multimodal_encoder_type 'roberta'; it has 'bert_base_")


def test_what_no_line_knows_fails(copy):
    outputs = load_file(copy / "outputs.safetensors")
    save_file({**outputs, "feat_s": torch.zeros(2)}, copy / "outputs.safetensors")
    edit(copy, lambda golden: (golden["losses"].update({"ret.tvs": 1.0}), golden.update(more={})))
    found = check(copy)
    for name in ("feat_s", "ret.tvs", "more"):
        assert found.notes[name].startswith("not supported by this version: ")


def test_a_changed_weight_and_a_changed_text_are_named(copy):
    state = torch.load(copy / "checkpoint.pt", weights_only=True)
    state["text_fine_weight.0.weight"] *= 1.1
    torch.save(state, copy / "checkpoint.pt")
    edit(copy, lambda golden: golden["generated"]["qa_ids.tv.beam3"][2].__setitem__(0, 7))
    failed = check(copy).failed
    assert {"weight_logit_t", "weight_tv_t", "sim_tv", "ret.tva", "pretrain.total", "qa_ids.tv.beam3[2]"} <= set(failed)
    assert not {"feat_t", "weight_logit_v", "cap.tva", "qa_ids.tv.beam1[2]"} & set(failed)


def test_the_released_names_are_read_strictly(r):
    report = r.report
    assert (report.missing, report.unexpected, report.interpolated) == ((), (), ())
    state = torch.load(Path(report.path), weights_only=True)
    own = {r.model.names.released(name) for name in r.model.state_dict()}
    unused = ("txt_encoder.", "multimodal_encoder.pooler.", "clip_model.")
    wanted = {name for name in state if not name.startswith(unused) and "relative_position_index" not in name}
    if "clip_model.logit_scale" in state:
        wanted |= {"clip_model.logit_scale", *(name for name in state if name.startswith("clip_model.visual."))}
        wanted -= {"clip_model.visual.proj"}
    if r.cfg.txt_encoder_type.startswith("clip"):
        wanted |= {name for name in state if name.startswith("clip_model.")} - {"clip_model.prompt_embedding.weight"}
    assert own == wanted
    for name, tensor in r.model.state_dict().items():
        assert torch.equal(tensor, state[r.model.names.released(name)]), name
        assert r.model.names.current(r.model.names.released(name)) == name or name.endswith("cls.predictions.decoder.bias")


@pytest.mark.parametrize("name", ["VALOR-B", "VALOR-L"])
def test_full_size_models_have_the_released_names_both_ways(name, tmp_path):
    """Through a checkpoint of every released name and shape whose tensors repeat one number, so that it takes no space."""
    shapes = json.loads((GOLDENS / "valor_released_parameters.json").read_text())[name]
    released, ours, back = (tmp_path / f"{part}.pt" for part in ("released", "ours", "back"))
    torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, released)
    vision = {"VALOR-B": "videoswin_base_k600_22k", "VALOR-L": "clip_vit_large_14_336px"}[name]
    cfg = ModelConfig(model_type="valor", pretrained=False, vision_encoder_type=vision, audio_encoder_type="ast", audio_target_length=512,
                      text_encoder_type="bert", text_encoder_cfg={"vocab_size": 30522},
                      tokenizer=str(GOLDENS / "valor_tiny/videoswin/vocab.txt"))
    with torch.device("meta"):
        model = build_model(cfg)
    with pytest.warns(UserWarning, match="no-op"):  # nothing is copied into a model without memory
        report = load_weights(model, released)
    assert (report.missing, report.unexpected, report.interpolated) == ((), (), ())
    assert convert_checkpoint.main([str(released), str(ours), "--model_type", "valor"]) == 0
    assert convert_checkpoint.main([str(ours), str(back), "--to", "released", "--unused", str(released), "--model_type", "valor"]) == 0
    assert {key: list(x.shape) for key, x in torch.load(back, weights_only=True).items()} == shapes


def test_conversion_both_ways_is_exact(r, tmp_path):
    torch.save(r.model.state_dict(), tmp_path / "ours.pt")
    flags = [str(tmp_path / "ours.pt"), str(tmp_path / "back.pt"), "--to", "released", "--unused", r.report.path, "--model_type", "valor"]
    assert convert_checkpoint.main(flags) == 0
    wanted, found = (torch.load(path, weights_only=True) for path in (r.report.path, tmp_path / "back.pt"))
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@torch.no_grad()
def test_similarity_either_way_and_the_shared_contrast(r):
    groups = [Group.parse(name) for name in ("tv", "ta", "tva")]
    texts = r.model.index_texts(r.captions)
    losses = contrastive(r.model, r.batch, tuple(groups), r.features)
    for group in groups:
        clips = r.model.index_clips(r.features, group)
        assert torch.equal(r.model.similarity(group, texts, clips, by_clip=True), r.model.similarity(group, texts, clips).T)
        assert float(losses[f"ret.{group}"]) == pytest.approx(r.golden["losses"][f"ret.{group}"], rel=1e-5)


@torch.no_grad()
def test_a_batch_of_shorter_texts_scores_alike(r):
    """The score depends on whether a text fills max_caption_len, not on the other texts of its batch."""
    if r.model.alignment.late:
        pytest.skip("a sum of two, halved")
    whole = r.captions
    short = Texts(whole.ids[3:, :int(whole.mask[3].sum())], whole.mask[3:, :int(whole.mask[3].sum())], whole.clip[3:], whole.raw[3:])
    group = Group.parse("tva")
    got = r.model.similarity(group, r.model.index_texts(short), r.model.index_clips(r.features, group))
    assert relative(got, r.outputs["sim_tva"][3:]) < 1e-5


@torch.no_grad()
def test_all_objectives_share_one_forward(r):
    task = Task.parse("ret%tv_cap%tva%tv_mlm%tv_qa%tva")
    losses = training_losses(r.model, r.batch, task, StepRandom(0, 0), r.masked)
    for name in ("ret.tv", "cap.tv", "cap.tva", "mlm.tv", "qa.tva"):
        assert float(losses[name]) == pytest.approx(r.golden["losses"][name], rel=1e-5)
    wanted = r.golden["model_cfg"]["contra_loss_ratio"] * losses["ret"] + losses["cap"] + losses["mlm"] + losses["qa"]
    assert float(losses["loss"]) == pytest.approx(float(wanted), rel=1e-6)


def test_groups_without_the_text_on_one_side_need_slots(r):
    if r.model.alignment.fine:
        r.model.check_task(Task.parse("ret%v-ta"))
    else:
        with pytest.raises(ValueError, match="group v-ta is compared slot by slot; it needs model_cfg.contra_type fine"):
            r.model.check_task(Task.parse("ret%v-ta"))


def test_with_a_row_of_masks_nothing_but_mlm_is_drawn():
    r = Recorded(Folder.read(place("videoswin"), (), "")).option("full_masker")
    drawn = draw_masks(r.model, r.batch, Task.parse("cap%tv_mlm%tv_qa%tv"), StepRandom(0, 0))
    assert [name.split(".")[0] for name in drawn] == ["mlm"]


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_captions_and_answers_through_the_interface(r, beams):
    memory = r.model.memory(r.features)
    for name in ("tv", "ta", "tva"):
        captions = r.model.caption(memory, Group.parse(name), beam_size=beams, max_length=r.cfg.max_generation_len)
        assert captions == r.golden["generated"][f"cap.{name}.beam{beams}"]
        answers = r.model.answer(memory, Group.parse(name), r.texts("question"), beam_size=beams)
        assert answers == r.golden["generated"][f"qa.{name}.beam{beams}"]


def test_texts_are_cleaned_as_released(r):
    """Also in the copy that data workers have."""
    import pickle

    tokenizer = pickle.loads(pickle.dumps(r.model.tokenizer))
    assert r.model.clean_text("It's  a near-the   Sea, (no)!") == "its a nearthe sea no"
    assert tokenizer.encode(["A man is -- singing!"], 9) == tokenizer.encode(["a man is singing"], 9)
