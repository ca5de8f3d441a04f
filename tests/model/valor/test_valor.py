"""VALOR with the released miniature's weights gives what the release gave: towers, features, scores, losses, gradients, texts."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from functools import cached_property
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import CaptionKind, Group, Modality, Task
from omnivast.data.batch import Batch, Captions, Texts
from omnivast.model.build import build_model
from omnivast.model.objectives.generation import IGNORED
from omnivast.model.text.plan import CrossPass
from omnivast.model.valor.generate import best_texts
from omnivast.model.valor.prompts import CAPTION
from omnivast.model.valor.step import caption_blocks, contrastive, draw_masks, generation, question_block, training_losses
from omnivast.model.weights import load_weights
from omnivast.scripts.tools import convert_checkpoint
from omnivast.utils.random import StepRandom
from tests.model.tiny import relative
from tests.model.valor.recorded import ABLATIONS, GOLDENS, LETTERS, RELEASED, clip_words, folder_of

PAIRS = {"va": "v-a", "vta": "v-ta", "atv": "a-tv"}
"""The release's groups without the text on one side → ours."""
GROUPS = {name: Group.parse(name) for name in ("tv", "ta", "tva")}


class Recorded:
    """A folder of recorded values, and ours with its weights."""

    def __init__(self, name: str, **changes) -> None:
        folder = folder_of(name)
        self.golden = json.loads((folder / "golden.json").read_text())
        self.out = load_file(folder / "outputs.safetensors")
        self.inputs = load_file(folder / "inputs.safetensors")
        self.cfg = ModelConfig(**{**self._config(folder), **changes})
        self.model = build_model(self.cfg).eval()
        self.report = load_weights(self.model, folder / "checkpoint.pt")

    def _config(self, folder):
        cfg, golden = self.golden["model_cfg"], self.golden
        kept = ("contra_dim", "contra_type", "cross_attn_type", "fineweight_type", "late_fusion", "txt_encoder_type", "use_task_prompt",
                "contra_loss_ratio", "max_generation_len", "audio_encoder_type", "audio_melbins", "audio_target_length")
        if "clip" in golden:
            vision = {("patch_size" if key == "patch" else key): golden["clip"][key] for key in ("width", "layers", "heads", "patch")}
        else:
            own = golden["videoswin"]
            vision = {"embed_dim": own["embed_dim"], "depths": own["depths"], "num_heads": own["num_heads"], "window": own["window_size"],
                      "patch": own["patch"]}
        if cfg["txt_encoder_type"].startswith("clip"):
            sizes = {"width": "text_width", "layers": "text_layers", "heads": "text_heads", "context_length": "context_length",
                     "vocab_size": "vocab_size", "embed_dim": "embed_dim"}
            self.words = tempfile.TemporaryDirectory()
            vision_text = {"clip_text_cfg": {key: golden["clip"][name] for key, name in sizes.items()},
                           "clip_tokenizer": clip_words(Path(self.words.name))}
        else:
            vision_text = {}
        return {**{key: cfg[key] for key in kept}, **vision_text, "model_type": "valor", "pretrained": False,
                "vision_encoder_type": cfg["video_encoder_type"], "vision_resolution": cfg["video_resolution"],
                "vision_encoder_cfg": vision, "audio_encoder_cfg": golden["ast"],
                "text_encoder_type": "bert", "text_encoder_cfg": golden["bert"], "tokenizer": str(folder / "vocab.txt"),
                "max_caption_len": cfg["max_txt_len"] + 2, "max_answer_len": cfg["max_answer_len"] + 2}

    def texts(self, name, clip=None, words=None):
        """``words``: the name of the ids for CLIP's text tower."""
        ids = self.out[name]
        rows = self.out[words].tolist() if words in self.out else [[]] * len(ids)
        raw = [" ".join(LETTERS[i] for i in row if 0 < i < len(LETTERS)) for row in rows]
        return Texts(ids, ids != 0, torch.arange(len(ids)) if clip is None else torch.tensor(clip), raw)

    @cached_property
    def batch(self):
        clips = len(self.inputs["vision_pixels"])
        texts = self.texts("caption_input_ids", words="clip_input_ids")
        captions = Captions({CaptionKind.OMNI: texts}, dict.fromkeys(CaptionKind, CaptionKind.OMNI))
        return Batch("clips", [str(i) for i in range(clips)], torch.arange(clips), self.inputs["vision_pixels"],
                     self.inputs["audio_spectrograms"], captions=captions, questions=self.texts("question_input_ids"),
                     answers=self.texts("answer_input_ids"))

    @cached_property
    def masked(self):
        def drawn(ids, labels):
            return self.out[ids], self.out[labels].masked_fill(self.out[labels] < 0, IGNORED)
        kinds = [kind.value for kind in CaptionKind]
        return {**{f"cap.{kind}": drawn("cap_masked_input_ids", "cap_labels") for kind in kinds},
                **{f"mlm.{kind}": drawn("mlm_masked_input_ids", "mlm_labels") for kind in kinds},
                "qa": drawn("answer_masked_input_ids", "answer_labels")}

    @cached_property
    def features(self):
        with torch.no_grad():
            return self.model.encode(self.batch, (Modality.VISION, Modality.AUDIO))


_found: dict[str, Recorded] = {}


def recorded(name: str) -> Recorded:
    if folder_of(name) is None:
        pytest.skip(f"the values recorded from the released VALOR in '{name}' are not here")
    if name not in _found:
        _found[name] = Recorded(name)
    return _found[name]


@pytest.fixture(params=RELEASED + ABLATIONS)
def r(request):
    return recorded(request.param)


def test_the_released_names_are_read_strictly(r):
    report = r.report
    assert (report.missing, report.unexpected, report.interpolated) == ((), (), ())
    state = torch.load(Path(report.path), weights_only=True)
    own = {r.model.names.released(name) for name in r.model.state_dict()}
    unused = ("txt_encoder.", "multimodal_encoder.pooler.", "clip_model.")
    reads_by_clip = r.cfg.txt_encoder_type.startswith("clip")
    wanted = {name for name in state if not name.startswith(unused) and "relative_position_index" not in name}
    if "clip_model.logit_scale" in state:
        wanted |= {"clip_model.logit_scale", *(name for name in state if name.startswith("clip_model.visual."))}
        wanted -= {"clip_model.visual.proj"}
    if reads_by_clip:
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


def test_prompts(r):
    for sentence, ids in r.golden["prompts"].items():
        assert r.model.prompts.ids[sentence] == ids


@torch.no_grad()
def test_towers_and_features(r):
    assert relative(r.model.vision_tokens(r.batch.frames), r.out["vision_output"]) < 1e-5
    assert relative(r.model.audio_tokens(r.batch.spectrograms), r.out["audio_output"]) < 1e-5
    for modality, name in ((Modality.VISION, "v"), (Modality.AUDIO, "a")):
        assert relative(r.features.condition[modality], r.out[f"condition_feats_{name}"]) < 1e-5
    clips = r.model.embed_clips(r.features, list(GROUPS.values()))
    texts = r.model.index_texts(r.batch.captions[CaptionKind.OMNI])
    fine = r.model.alignment.fine
    ids = r.out.get("clip_input_ids", r.out["caption_input_ids"])
    mask = ids != 0 if fine else slice(None)  # coarse: a vector each
    assert relative(texts["text"][mask], r.out["feat_t"][mask]) < 1e-5
    assert not fine or torch.equal(texts["text_mask"] > 0, mask)
    assert relative(clips["vision"], r.out["feat_v"]) < 1e-5 and relative(clips["audio"], r.out["feat_a"]) < 1e-5
    if fine:
        assert relative(texts["text_logits"][mask], r.out["weight_logit_t"][mask]) < 1e-5
        assert relative(clips["vision_logits"], r.out["weight_logit_v"]) < 1e-5
        assert relative(clips["audio_logits"], r.out["weight_logit_a"]) < 1e-5
    if "feat_va" in r.out:
        assert relative(clips["both"], r.out["feat_va"]) < 1e-5


@torch.no_grad()
def test_scores_and_contrastive_losses(r):
    texts = r.model.index_texts(r.batch.captions[CaptionKind.OMNI])
    for name, group in GROUPS.items():
        clips = r.model.index_clips(r.features, group)
        parts = len(r.model.alignment.terms(group))  # of which similarity is the mean
        assert relative(parts * r.model.similarity(group, texts, clips), r.out[f"sim_{name}"]) < 1e-5
        assert torch.equal(r.model.similarity(group, texts, clips, by_clip=True), r.model.similarity(group, texts, clips).T)
    losses = contrastive(r.model, r.batch, tuple(GROUPS.values()), r.features)
    assert float(r.model.temperature.detach()) == pytest.approx(r.golden["temperature"], rel=1e-6)
    for name in GROUPS:
        assert float(losses[f"ret.{name}"]) == pytest.approx(r.golden["losses"][f"ret.{name}"], rel=1e-5)


@torch.no_grad()
def test_groups_without_the_text_on_one_side(r):
    groups = {name: Group.parse(own) for name, own in PAIRS.items()}
    if not r.model.alignment.fine:
        with pytest.raises(ValueError, match="group v-ta is compared slot by slot; it needs model_cfg.contra_type fine"):
            r.model.check_task(Task.parse("ret%v-ta"))
        return
    clips, texts = r.model.embed_clips(r.features, list(groups.values())), r.model.index_texts(r.batch.captions[CaptionKind.OMNI])
    for name, group in groups.items():
        assert relative(r.model.alignment.pairs(group, clips, texts, clips), r.out[f"sim_{name}"]) < 1e-5
    losses = contrastive(r.model, r.batch, (*groups.values(), *GROUPS.values()), r.features)
    for name, group in {**groups, **GROUPS}.items():
        assert float(losses[f"ret.{group}"]) == pytest.approx(r.golden["losses"][f"ret.{name}"], rel=1e-5)


@torch.no_grad()
def test_scores_of_more_texts_than_clips(r):
    texts = r.model.index_texts(r.texts("retrieval_input_ids", words="retrieval_input_ids"))
    for name, group in GROUPS.items():
        scores = len(r.model.alignment.terms(group)) * r.model.similarity(group, texts, r.model.index_clips(r.features, group))
        assert relative(scores, r.out[f"retrieval_sim_{name}"]) < 1e-5


@torch.no_grad()
def test_a_batch_of_shorter_texts_scores_alike(r):
    """The score depends on whether a text fills max_caption_len, not on the other texts of its batch."""
    if r.model.alignment.late:
        pytest.skip("a sum of two, halved")
    whole = r.batch.captions[CaptionKind.OMNI]
    short = Texts(whole.ids[3:, :int(whole.mask[3].sum())], whole.mask[3:, :int(whole.mask[3].sum())], whole.clip[3:], whole.raw[3:])
    group = GROUPS["tva"]
    got = r.model.similarity(group, r.model.index_texts(short), r.model.index_clips(r.features, group))
    assert relative(got, r.out["sim_tva"][3:]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("setting, name", [({"late_fusion": True}, "late_fusion"), ({"fineweight_type": "none"}, "fineweight_none")])
@pytest.mark.parametrize("folder", RELEASED)
def test_options_of_the_alignment(folder, setting, name):
    recorded(folder)
    r = Recorded(folder, **setting)
    texts = r.model.index_texts(r.batch.captions[CaptionKind.OMNI])
    (scores,) = r.model.alignment.scores([GROUPS["tva"]], texts, r.model.index_clips(r.features, GROUPS["tva"]))
    assert relative(scores, r.out[f"sim_tva_{name}"]) < 1e-5
    losses = contrastive(r.model, r.batch, (GROUPS["tva"],), r.features)
    assert float(losses["ret.tva"]) == pytest.approx(r.golden["losses"][f"option.{name}.ret.tva"], rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["cap", "mlm", "qa"])
def test_generation_losses_hidden_states_and_logits(r, kind):
    task = Task.parse(f"{kind}%tv%ta%tva")
    losses = generation(r.model, r.batch, task, r.model.memory(r.features), r.masked)
    assert relative(losses[kind], torch.stack([losses[f"{kind}.{name}"] for name in GROUPS]).mean()) < 1e-6
    for name, group in GROUPS.items():
        assert float(losses[f"{kind}.{name}"]) == pytest.approx(r.golden["losses"][f"{kind}.{name}"], rel=1e-5)
        block = (question_block(r.model, r.batch, group, r.masked) if kind == "qa"
                 else caption_blocks(r.model, r.batch, task, group, r.masked)[0])
        passes = [CrossPass(0, len(block.layout), r.model.memory(r.features), group)]
        output = r.model.multimodal_encoder.encode(block.layout, passes)
        assert relative(r.model.multimodal_encoder.logits(output.at(block.labels != IGNORED)), r.out[f"{kind}_logits_{name}"]) < 1e-5
        if kind != "mlm":
            width = r.out[f"{kind}_hidden_{name}"].shape[1]
            real = torch.from_numpy(block.layout.real[:, -width:].copy())
            assert relative(output.padded()[:, -width:][real], r.out[f"{kind}_hidden_{name}"][real]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("folder", RELEASED)
def test_captions_without_masks(folder):
    """caption_type lm: losses and texts."""
    recorded(folder)
    r = Recorded(folder, caption_type="lm")
    memory, sep, longest = r.model.memory(r.features), r.model.tokenizer.sep, r.cfg.max_generation_len
    losses = generation(r.model, r.batch, Task.parse("cap%tv%ta%tva_qa%tv%ta%tva"), memory, r.masked)
    for name, group in GROUPS.items():
        for kind in ("cap", "qa"):
            assert float(losses[f"{kind}.{name}"]) == pytest.approx(r.golden["losses"][f"option.lm.{kind}.{name}"], rel=1e-5)
        for beams in (1, 3):
            found = r.model.answer_ids(memory, group, r.batch.questions, beam_size=beams)
            wanted = r.golden["generated"][f"lm.qa_ids.{name}.beam{beams}"]
            assert [row + [sep] * (longest - len(row)) for row in found] == wanted
            captions = r.model.caption(memory, group, beam_size=beams, max_length=longest)
            assert captions == r.golden["generated"][f"lm.cap.{name}.beam{beams}"]


@torch.no_grad()
@pytest.mark.parametrize("folder", RELEASED)
def test_a_row_of_masks_behind_the_text(folder):
    """full_masker: ids, labels, losses."""
    recorded(folder)
    r = Recorded(folder, full_masker=True)
    task = Task.parse("cap%tv%ta%tva_qa%tv%ta%tva")
    losses = generation(r.model, r.batch, task, r.model.memory(r.features), {})
    for name, group in GROUPS.items():
        (captions,), answers = caption_blocks(r.model, r.batch, task, group, {}), question_block(r.model, r.batch, group, {})
        for kind, block in (("cap", captions), ("qa", answers)):
            assert float(losses[f"{kind}.{name}"]) == pytest.approx(r.golden["losses"][f"option.full_masker.{kind}.{name}"], rel=1e-5)
            wanted = r.out[f"full_mask_{'cap' if kind == 'cap' else 'answer'}_labels"]
            assert block.labels[block.labels != IGNORED].tolist() == wanted[wanted >= 0].tolist()
    drawn = draw_masks(r.model, r.batch, Task.parse("cap%tv_mlm%tv_qa%tv"), StepRandom(0, 0))
    assert [name.split(".")[0] for name in drawn] == ["mlm"]


@torch.no_grad()
@pytest.mark.parametrize("folder", RELEASED)
def test_label_smoothing(folder):
    """Of captions alone."""
    recorded(folder)
    r = Recorded(folder, label_smoothing=0.1)
    losses = generation(r.model, r.batch, Task.parse("cap%tv%ta%tva_mlm%tv_qa%tv"), r.model.memory(r.features), r.masked)
    for name in GROUPS:
        assert float(losses[f"cap.{name}"]) == pytest.approx(r.golden["losses"][f"option.label_smoothing_0.1.cap.{name}"], rel=1e-5)
    for name in ("mlm.tv", "qa.tv"):
        assert float(losses[name]) == pytest.approx(r.golden["losses"][name], rel=1e-5)


@torch.no_grad()
def test_several_weighed_answers_to_a_question(r):
    several = r.golden["several_answers"]
    clip = [row for row, own in enumerate(several["answers"]) for _ in own]
    answers = r.texts("several_answers_input_ids", clip)
    answers.weights = torch.tensor([weight for own in several["weights"] for weight in own])
    questions = r.batch.questions
    questions = Texts(questions.ids[clip], questions.mask[clip], torch.tensor(clip), [""] * len(clip))
    batch = dataclasses.replace(r.batch, questions=questions, answers=answers)
    labels = r.out["several_answers_labels"]
    masked = {"qa": (r.out["several_answers_masked_input_ids"], labels.masked_fill(labels < 0, IGNORED))}
    losses = generation(r.model, batch, Task.parse("qa%tv%ta%tva"), r.model.memory(r.features), masked)
    for name in GROUPS:
        assert float(losses[f"qa.{name}"]) == pytest.approx(r.golden["losses"][f"qa_several.{name}"], rel=1e-5)


@torch.no_grad()
def test_all_objectives_share_one_forward(r):
    task = Task.parse("ret%tv_cap%tva%tv_mlm%tv_qa%tva")
    losses = training_losses(r.model, r.batch, task, StepRandom(0, 0), r.masked)
    for name in ("ret.tv", "cap.tv", "cap.tva", "mlm.tv", "qa.tva"):
        assert float(losses[name]) == pytest.approx(r.golden["losses"][name], rel=1e-5)
    wanted = r.golden["model_cfg"]["contra_loss_ratio"] * losses["ret"] + losses["cap"] + losses["mlm"] + losses["qa"]
    assert float(losses["loss"]) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("name, recorded_norms, ours", [
    ("pretrain", "gradient_norms", "ret%tva%tv%ta_cap%tva%tv%ta"), ("pretrain_dual", "gradient_norms_dual", "ret%tv_cap%tv_mlm%tv")])
def test_gradients_of_pretraining(r, name, recorded_norms, ours):
    r.model.zero_grad()
    losses = training_losses(r.model, r.batch, Task.parse(ours), StepRandom(0, 0), r.masked)
    ratio = r.golden["model_cfg"]["contra_loss_ratio"]
    assert float(ratio * losses["ret"].detach()) == pytest.approx(r.golden["losses"][f"{name}.contra_loss"], rel=1e-5)
    assert float(losses["cap"].detach()) == pytest.approx(r.golden["losses"][f"{name}.caption_loss"], rel=1e-5)
    assert float(losses["loss"].detach()) == pytest.approx(r.golden["losses"][f"{name}.total"], rel=1e-5)
    losses["loss"].backward()
    wanted = {r.model.names.current(key): value for key, value in r.golden[recorded_norms].items()}
    released = {_stored(r.model, key): p.grad for key, p in r.model.named_parameters()}
    noise = 1e-7 * sum(value ** 2 for value in wanted.values()) ** 0.5
    wrong = {key: (float(released[key].norm()), value) for key, value in wanted.items()
             if abs(float(released[key].norm()) - value) > 1e-4 * value + noise}
    assert not wrong
    r.model.zero_grad()


def _stored(model, parameter):
    """The name in the state dict of a parameter (towers store their own by the release's names)."""
    pointers = {tensor.data_ptr(): name for name, tensor in reversed(model.state_dict().items())}
    return pointers[model.get_parameter(parameter).data_ptr()]


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_generated_texts(r, beams):
    longest, memory = r.cfg.max_generation_len, r.model.memory(r.features)

    def filled(rows):
        return [row + [r.model.tokenizer.sep] * (longest - len(row)) for row in rows]

    for name, group in GROUPS.items():
        state = r.model.multimodal_encoder.start(memory, group, r.model.prompts.task(CAPTION, len(memory)))
        found = best_texts(r.model.multimodal_encoder, state, r.model.tokenizer, beams, longest)
        assert filled([own[0] for own in found]) == r.golden["generated"][f"cap_ids.{name}.beam{beams}"]
        captions = r.model.caption(memory, group, beam_size=beams, max_length=longest)
        assert captions == r.golden["generated"][f"cap.{name}.beam{beams}"]
        answers = r.model.answer_ids(memory, group, r.batch.questions, beam_size=beams)
        assert filled(answers) == r.golden["generated"][f"qa_ids.{name}.beam{beams}"]


@torch.no_grad()
def test_several_questions_of_a_clip(r):
    clip = [row for row, own in enumerate(r.golden["several_questions"]) for _ in own]
    questions = r.texts("several_questions_input_ids", clip)
    for name, group in GROUPS.items():
        found = r.model.answer_ids(r.model.memory(r.features), group, questions, beam_size=1)
        padded = [row + [r.model.tokenizer.sep] * (r.cfg.max_generation_len - len(row)) for row in found]
        assert padded == r.golden["generated"][f"qa_several_ids.{name}.beam1"]
