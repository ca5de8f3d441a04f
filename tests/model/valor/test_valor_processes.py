"""A tiny VALOR of random weights: two processes with half of the batch each compute what one does with all of it; what it refuses."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch

from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.data.batch import Batch, Captions
from omnivast.model.interface import ModelError
from omnivast.model.text.layout import Layout
from omnivast.model.valor.step import compared_together
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom
from tests.model import tiny
from tests.model.tiny import ANSWERS, QUESTIONS, batch, task, texts
from tests.model.tiny import VALOR as CONFIG
from tests.model.valor.recorded import clip_words
from tests.processes import assert_same_step, mean_over_processes, together

PAIRS = "ret%tva%tv%v-a%v-ta%a-tv_cap%tv"
TASK = "ret%tva%tv%ta_cap%tva%tv_mlm%ta_qa%tva%tv"
CLIP_TEXT = {"txt_encoder_type": "clip_vit_base_16", "clip_text_cfg": {"width": 16, "layers": 2, "heads": 2, "context_length": 20,
                                                                       "vocab_size": 60, "embed_dim": 24}}
SETTINGS = {
    "released": ({}, True), "gathered without gradient": ({}, False), "late fusion": ({"late_fusion": True}, True),
    "coarse, in parallel": ({"contra_type": "coarse", "cross_attn_type": "va_parallel"}, True),
    "merged, two BERTs": ({"multimodal_use_cross_attn": False, "share_txt_and_multimodal": False}, True),
    "masks behind, smoothed": ({"full_masker": True, "label_smoothing": 0.1}, True), "CLIP's text tower": (CLIP_TEXT, True),
    "CLIP's text tower, own heads": ({**CLIP_TEXT, "init_clip_head": False, "contra_type": "coarse"}, True),
}


def valor(**changes):
    """A VALOR, with words of CLIP where its text tower reads."""
    with tempfile.TemporaryDirectory() as folder:
        words = {"clip_tokenizer": clip_words(Path(folder))} if "txt_encoder_type" in changes else {}
        return tiny.valor(**words, **changes)


def with_several_answers(own: Batch) -> Batch:
    """The batch with 3, 1, 2 or 1 answers to the questions of the clips, each with a weight."""
    counts = [[3, 1, 2, 1][number] for number in own.index.tolist()]
    clip = [row for row, count in enumerate(counts) for _ in range(count)]
    nth = [n - clip.index(row) for n, row in enumerate(clip)]
    answers = texts([ANSWERS[(own.index[row] + number) % 4] for row, number in zip(clip, nth)], CONFIG.max_answer_len, clip)
    answers.weights = torch.tensor([1.0 / (1 + number) for number in nth])
    return dataclasses.replace(own, questions=texts([QUESTIONS[own.index[row]] for row in clip], 14, clip), answers=answers)


def step(changes: dict, with_grad: bool, rank: int = 0, processes: int = 1, objectives: str = TASK, gradient: str = "paper"):
    """Losses and gradients by name of this process's share of the same four clips."""
    share = 4 // processes
    model, own = valor(**changes), batch(CONFIG, rows=slice(rank * share, (rank + 1) * share))
    own = own if changes else with_several_answers(own)
    model.gather_with_grad, model.gather_gradient = with_grad, gradient
    losses = model(own, task(objectives), StepRandom(7, 3, rank * share, 4))
    losses["loss"].backward()
    return {n: v.detach() for n, v in losses.items()}, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def work(rank: int) -> dict:
    results = {name: step(changes, with_grad, rank, 2) for name, (changes, with_grad) in SETTINGS.items()}
    results |= {objectives: step({}, True, rank, 2, objectives) for objectives in (PAIRS, "ret%tva", "cap%tva")}
    results |= {f"{objectives} released": step({}, True, rank, 2, objectives, "released") for objectives in ("ret%tva", "cap%tva")}
    for result in results.values():
        mean_over_processes(result)
    return results


@pytest.fixture(scope="module")
def results():
    return together(work, 2)[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_equal_one(results, name):
    assert_same_step(results[name], step(*SETTINGS[name]))


def test_groups_without_the_text_on_one_side(results):
    assert_same_step(results[PAIRS], step({}, True, objectives=PAIRS))


def test_the_released_gradient_of_the_contrast(results):
    """With two processes half of it reaches towers and heads, all of it the weights' layers and the temperature; captions learn alike."""
    for objectives, share in (("ret%tva", 0.5), ("cap%tva", 1.0)):
        (_, paper), (losses, released) = results[objectives], results[f"{objectives} released"]
        assert losses["loss"].item() == pytest.approx(results[objectives][0]["loss"].item())
        assert paper.keys() == released.keys()
        for name, gradient in paper.items():
            whole = name.startswith(("text_fine_weight", "video_fine_weight", "audio_fine_weight", "clip.logit_scale"))
            torch.testing.assert_close(released[name], gradient * (1.0 if whole else share), rtol=1e-4, atol=1e-7, msg=name)
    assert {name.split(".")[0] for name in results["ret%tva"][1]} >= {"clip", "vision_encoder", "audio_encoder", "contra_head_t",
                                                                    "multimodal_encoder", "text_fine_weight"}
def test_all_processes_exchange_the_same_whatever_captions_their_clips_have(monkeypatch):
    """Where one process has captions of one kind and another has three, both must gather as often."""
    three = batch(CONFIG)
    one = dataclasses.replace(three, captions=Captions({CaptionKind.OMNI: three.captions[CaptionKind.OMNI]},
                                                       {CaptionKind.VISION: CaptionKind.OMNI, CaptionKind.AUDIO: CaptionKind.OMNI}))
    groups = task("ret%tva%tv%ta").all_groups
    assert compared_together(one, groups) == [list(groups)]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert compared_together(one, groups) == compared_together(three, groups) == [[group] for group in groups]


def test_the_settings_differ():
    """Otherwise the comparison above would prove little."""
    norms = {name: sum(g.norm().item() for g in step(*settings)[1].values()) for name, settings in SETTINGS.items()}
    assert len({round(norm, 3) for norm in norms.values()}) == len(SETTINGS)


def test_a_prompt_sees_the_text_only_where_it_is_bidirectional():
    """Of what is computed for a prompt, a causal text changes nothing; a bidirectional one does."""
    model = valor().eval()
    texts = batch(CONFIG).captions.texts
    own = next(iter(texts.values()))
    ids, mask = model.prompts.masked_words(Group.parse("tv"), len(own))
    for causal in (True, False):
        states = []
        for words in (own.ids, own.ids.where(own.ids < 103, own.ids + 1)):
            layout = Layout.prompted(ids, mask, words, own.mask, causal)
            with torch.no_grad():
                states.append(model.multimodal_encoder.encode(layout).padded()[:, :ids.shape[1]])
        assert torch.allclose(*states, atol=1e-6) is causal


def test_scores_do_not_depend_on_the_other_texts_of_a_batch():
    model = valor().eval()
    own = next(iter(batch(CONFIG).captions.texts.values()))
    clips = model.index_clips(model.encode(batch(CONFIG), (Modality.VISION,)), Group.parse("tv"))
    length = int(own.mask[1].sum())
    alone = dataclasses.replace(own, ids=own.ids[1:2, :length], mask=own.mask[1:2, :length], clip=own.clip[1:2])
    with torch.no_grad():
        whole, one = (model.similarity(Group.parse("tv"), model.index_texts(t), clips) for t in (own, alone))
    torch.testing.assert_close(one, whole[1:2])


@pytest.mark.parametrize("key, value", [("missing_modality", "mask"), ("frame_embedding_type", "none"), ("contrastive_loss", "sigmoid"),
                                        ("fused_teaches", 0.5)])
def test_settings_that_valor_has_not(key, value):
    with pytest.raises(ModelError, match=f"model_cfg.{key} '{value}': VALOR has"):
        valor(**{key: value})


@pytest.mark.parametrize("text, message", [("ret%tvs", "VALOR has no subtitles"), ("cap%ta", "needs audio, but model_cfg.audio_encoder")])
def test_tasks_that_it_cannot_do(text, message):
    with pytest.raises(ValueError, match=message):
        valor(audio_encoder_type=None).check_task(task(text))


def test_33_frames():
    own = batch(CONFIG)
    own.frames = own.frames[:, :1].expand(-1, 33, -1, -1, -1)
    with pytest.raises(ValueError, match="embeddings for 32 frames of a clip, but the batch has 33: vision_sample_num may be 32 at most"):
        valor().encode(own, (Modality.VISION,))


def test_a_length_penalty_is_refused():
    model = valor().eval()
    memory = model.memory(model.encode(batch(CONFIG), (Modality.VISION,)))
    with pytest.raises(ValueError, match="no length penalty, but it was asked for one of 0.6"):
        model.caption(memory, Group.parse("tv"), beam_size=2, max_length=8, length_penalty=0.6)
    assert len(model.caption(memory, Group.parse("tv"), beam_size=2, max_length=8)) == 4
