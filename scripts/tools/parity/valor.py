"""A folder of values recorded from the released VALOR, laid out as tests/goldens/valor_tiny/videoswin: one line per kind of value.

It holds checkpoint.pt, vocab.txt, golden.json, inputs.safetensors and outputs.safetensors. Texts are tokenised anew; the words that were
hidden (``…_masked_input_ids``, ``…_labels``) are taken from the folder, since they were drawn. Values at padded tokens are left out:
nothing uses them, and ours are not computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnivast.config.tasks import Modality, Task
from omnivast.evaluation.metrics import recall
from omnivast.evaluation.retrieval.search import search
from omnivast.model.interface import ModelError
from omnivast.model.objectives.generation import IGNORED
from omnivast.model.text.plan import CrossPass
from omnivast.model.valor.alignment import Slots
from omnivast.model.valor.generate import best_texts
from omnivast.model.valor.prompts import CAPTION
from omnivast.model.valor.step import caption_blocks, question_block, training_losses
from omnivast.scripts.tools.parity.rows import (
    UNSUPPORTED,
    Folder,
    Line,
    Row,
    UnsupportedError,
    check_lines,
    compare_number,
    compare_numbers,
    compare_sequence,
    compare_tensor,
    until,
)
from omnivast.scripts.tools.parity.valor_model import GROUPS, Recorded, Where, group_of
from omnivast.utils.random import StepRandom

GRADIENT_NOISE = 1e-7
"""Of the whole gradient's norm. Norms below it are rounding: keys' biases have a gradient of zero."""
FULLY_MASKED = {"cap": "caption", "answer": "answer"}
"""Texts of which every word is predicted with full_masker: the start of their tensors' names, behind full_mask_ → their own name."""
SECTIONS = ("captions", "questions", "answers", "several_answers", "several_questions", "retrieval_texts", "model_cfg", "clip", "videoswin",
            "ast", "bert", "tasks", "smallest_margin")
"""Of golden.json: what is an input of others, or tells of the recording."""


# ---------------------------------------------------------------------------------------------------------------- outputs


def caption_states(r: Recorded) -> Where:
    return Where(*r.model.text_states(r.captions))


def text_part(r: Recorded, name: str, texts: str) -> Where:
    """Vectors of texts, or their weights before the softmax, at tokens; coarse: one vector of each text."""
    found = r.model.index_texts(r.texts(texts))
    return Where(found[name], found["text_mask"] > 0 if r.model.alignment.fine else None)


def clip_part(r: Recorded, letter: str, suffix: str = "") -> Tensor:
    name = "both" if letter == "va" else Modality(letter).word
    return r.clips("tv", "ta", "tva")[name + suffix]


def weights(r: Recorded, letters: str) -> Tensor:
    """Weights of the slots of some tracks, after the softmax over all of them."""
    def slots(letter: str) -> Slots:
        if letter == "t":
            texts = r.model.index_texts(r.captions)
            return Slots(texts["text"], texts["text_logits"], texts["text_mask"] > 0)
        return Slots(clip_part(r, letter), clip_part(r, letter, "_logits"))

    return Slots.joined([slots(letter) for letter in letters]).weights()


def scores(r: Recorded, name: str, texts: str = "caption") -> Tensor:
    """(texts, clips); of late fusion a sum, of which ``similarity`` is the mean. Without the text on one side: (clips, clips)."""
    group = group_of(name)
    if group.alone:
        return r.model.alignment.pairs(group, r.clips(name), r.model.index_texts(r.texts(texts)), r.clips(name))
    parts = len(r.model.alignment.terms(group))
    return parts * r.model.similarity(group, r.model.index_texts(r.texts(texts)), r.clips(name))


def dual_scores(r: Recorded, back: str, name: str) -> Tensor:
    """(texts, clips): scores times their softmax over the texts or, for the way back, over the clips, times how many these are."""
    table, over = scores(r, name, "retrieval"), 1 if back else 0
    return table * (table / float(r.model.temperature)).softmax(over) * table.shape[over]


def condition(r: Recorded, letters: str) -> Tensor:
    return torch.cat([r.features.condition[Modality(letter)] for letter in letters], 1)


def states(r: Recorded, kind: str, name: str, logits: bool) -> Tensor | Where:
    """The decoder's states of the masked texts, or its logits where words are predicted."""
    task, group = Task.parse(f"{kind}%{name}"), group_of(name)
    block = (question_block(r.model, r.batch, group, r.masked) if kind == "qa"
             else caption_blocks(r.model, r.batch, task, group, r.masked)[0])
    passes = [CrossPass(0, len(block.layout), r.model.memory(r.features), group)]
    output = r.model.multimodal_encoder.encode(block.layout, passes)
    if logits:
        return r.model.multimodal_encoder.logits(output.at(block.labels != IGNORED))
    width = r.texts("answer" if kind == "qa" else "caption").ids.shape[1]
    return Where(output.padded()[:, -width:], torch.from_numpy(block.layout.real[:, -width:].copy()))


def full_mask_ids(r: Recorded, kind: str) -> Tensor:
    texts = r.texts(FULLY_MASKED[kind])
    return torch.cat([texts.ids, torch.full_like(texts.ids, r.model.tokenizer.mask)], 1)


def full_mask_labels(r: Recorded, kind: str) -> Tensor:
    """In our rows, which leave out each text's last token, the labels are the last columns too."""
    r = r.option("full_masker")
    group = group_of("tv")
    block = (question_block(r.model, r.batch, group, {}) if kind == "answer"
             else caption_blocks(r.model, r.batch, Task.parse("cap%tv"), group, {})[0])
    length = r.texts(FULLY_MASKED[kind]).ids.shape[1]
    labels = torch.from_numpy(block.labels[:, 1 - length:].copy())
    return torch.nn.functional.pad(labels.masked_fill(labels == IGNORED, -1), (length, 1), value=-1)


def question_prompts(r: Recorded) -> Tensor:
    questions = r.texts("question")
    return torch.from_numpy(r.model.prompts.question(questions.ids, questions.mask)[0])


OUTPUTS = (
    Line(r"(caption|question|answer|retrieval|several_answers|several_questions)_input_ids", lambda r, name: r.texts(name).ids),
    Line(r"(?:cap|mlm|answer|several_answers)_(?:masked_input_ids|labels)"),  # drawn by the release
    Line(r"full_mask_(cap|answer)_input_ids", full_mask_ids),
    Line(r"full_mask_(cap|answer)_labels", full_mask_labels),
    Line(r"qa_prompt_ids", question_prompts),
    Line(r"vision_output", lambda r: r.model.vision_tokens(r.batch.frames)),
    Line(r"audio_output", lambda r: r.model.audio_tokens(r.batch.spectrograms)),
    Line(r"caption_output", caption_states),
    Line(r"feat_t", lambda r: text_part(r, "text", "caption")),
    Line(r"feat_(v|a|va)", clip_part),
    Line(r"retrieval_feat_t", lambda r: text_part(r, "text", "retrieval")),
    Line(r"weight_logit_t", lambda r: text_part(r, "text_logits", "caption")),
    Line(r"weight_logit_(v|a)", lambda r, letter: clip_part(r, letter, "_logits")),
    Line(r"weight_[tva]+_([tva]+)", weights),
    Line(r"sim_([tva]+)", scores),
    Line(r"sim_([tva]+)_(late_fusion|fineweight_none)", lambda r, name, option: scores(r.option(option), name)),
    Line(r"retrieval_sim_([tva]+)", lambda r, name: scores(r, name, "retrieval")),
    Line(r"condition_feats_([va]+)", condition),
    Line(r"(cap|mlm|qa)_hidden_([tva]+)", lambda r, kind, name: states(r, kind, name, logits=False)),
    Line(r"(cap|mlm|qa)_logits_([tva]+)", lambda r, kind, name: states(r, kind, name, logits=True)),
    Line(r"retrieval_dual_softmax_(back_)?([tva]+)", dual_scores),
)


def compare_output(name: str, made: Tensor | Where, wanted: Tensor) -> Iterator[Row]:
    where = made.mask.cpu() if isinstance(made, Where) and made.mask is not None else None
    made = (made.values if isinstance(made, Where) else made).cpu()
    if where is not None and made.shape == wanted.shape:
        made, wanted = made[where], wanted[where]
    yield compare_tensor(name, made, wanted)


# ------------------------------------------------------------------------------------------------------ losses, gradients


def loss(r: Recorded, kind: str, name: str) -> float:
    """Of a group; "all": the mean over tv, ta and tva."""
    if name == "all":
        return sum(loss(r, kind, group) for group in GROUPS) / len(GROUPS)
    group = group_of(name)
    task = Task.parse(f"{kind}%{group}")
    return float(training_losses(r.model, r.batch, task, StepRandom(0, 0), r.masked)[f"{kind}.{group}"])


def several_answers_loss(r: Recorded, name: str) -> float:
    group = group_of(name)
    masked = {"qa": r.drawn("several_answers")}
    return float(training_losses(r.model, r.several_answers, Task.parse(f"qa%{group}"), StepRandom(0, 0), masked)[f"qa.{group}"])


LOSSES = (
    Line(r"(ret|cap|mlm|qa)\.([tva]+|all)", loss),
    Line(r"option\.(late_fusion|fineweight_none|lm|full_masker|label_smoothing_0\.1)\.(ret|cap|mlm|qa)\.([tva]+)",
         lambda r, option, kind, name: loss(r.option(option), kind, name)),
    Line(r"(pretrain\w*)\.(contra_loss|caption_loss|mlm_loss|total)", lambda r, task, name: r.pretraining(task)[0][name]),
    Line(r"qa_several\.([tva]+)", several_answers_loss),
)


def compare_gradients(r: Recorded) -> Iterator[Row]:
    """A row per parameter's gradient norm of each pretraining task, and one of those that must have none."""
    for section, task in (("gradient_norms", "pretrain"), ("gradient_norms_dual", "pretrain_dual")):
        own = {f"{task}.{name}": value for name, value in r.pretraining(task)[1].items()}
        wanted = {f"{task}.{r.model.names.current(name)}": value for name, value in r.golden[section].items()}
        noise = GRADIENT_NOISE * math.hypot(*wanted.values())
        yield from compare_numbers("gradient", own, wanted, noise, section)
        without = {f"{task}.{r.model.names.current(name)}" for name in r.golden["no_gradient"][task]}
        moved = [name for name in own if name in without and own[name] > noise]
        yield Row("gradient", f"no_gradient.{task}", len(moved), 0.0, f"has a gradient here: {', '.join(moved[:5])}" if moved else "")


# ---------------------------------------------------------------------------------------------------------------- the rest


def generated(r: Recorded, kind: str, ids: str, name: str, beams: str) -> list[Any]:
    """Captions or answers of every clip, as ids or as texts."""
    memory, group = r.model.memory(r.features), group_of(name)
    if kind == "qa":
        rows = r.model.answer_ids(memory, group, r.texts("question"), beam_size=int(beams))
    else:
        state = r.model.multimodal_encoder.start(memory, group, r.model.prompts.task(CAPTION, len(memory)))
        found = best_texts(r.model.multimodal_encoder, state, r.model.tokenizer, int(beams), r.cfg.max_generation_len, r.model.masks)
        rows = [own[0] for own in found]
    return rows if ids else [r.model.tokenizer.decode(row) for row in rows]


def several_questions(r: Recorded, name: str) -> list[Any]:
    return r.model.answer_ids(r.model.memory(r.features), group_of(name), r.texts("several_questions"), beam_size=1)


GENERATED = (
    Line(r"(cap|qa)(_ids)?\.([tva]+)\.beam(\d+)", generated),
    Line(r"lm\.(cap|qa)(_ids)?\.([tva]+)\.beam(\d+)", lambda r, *which: generated(r.option("lm"), *which)),
    Line(r"qa_several_ids\.([tva]+)\.beam1", several_questions),
)


def metrics(r: Recorded, name: str, dual: str) -> dict[str, Any]:
    """The release's numbers of a retrieval test: ``retrieval_texts`` are searched by clips and clips by them, as evaluation does it."""
    group, listed = group_of(name), r.texts("retrieval")
    texts, clips = r.model.index_texts(listed), r.model.index_clips(r.features, group)
    keys, rows = listed.clip.numpy(), np.arange(len(clips))
    shared: dict[str, Any] = {"depth": 1, "dual_softmax": True, "temperature": r.model.dual_temperature(group)}
    forward = search(texts.tensors, clips.tensors, lambda one, other: r.model.similarity(group, one, other), keys, rows, **shared)
    backward = search(clips.tensors, texts.tensors, lambda one, other: r.model.similarity(group, other, one, by_clip=True), rows, keys,
                      **shared)
    found: dict[str, Any] = {}
    for way, result in (("forward", forward), ("backward", backward)):
        ranks = result.dual_ranks if dual and result.dual_ranks is not None else result.ranks
        own = recall.summary(ranks)
        recalls = [own[f"r{depth}"] for depth in (1, 5, 10)]
        # Of two ranks in the middle the release takes the lower one, our reports the mean.
        found |= {f"{way}_recall": "/".join(f"{value:.1f}" for value in recalls), f"{way}_ravg": round(sum(recalls) / 3, 1),
                  f"{way}_medianR": float(sorted(ranks)[(len(ranks) - 1) // 2]), f"{way}_meanR": own["mean_rank"]}
    return found


METRICS = (
    Line(r"retrieval_metrics\.([tva]+)(\.dual_softmax)?", metrics),
)


def compare_metrics(name: str, made: dict[str, Any], wanted: dict[str, Any]) -> Iterator[Row]:
    for key, value in wanted.items():
        if isinstance(value, str):
            yield compare_sequence(f"{name}.{key}", made[key], value)
        else:
            yield compare_number("output", f"{name}.{key}", made[key], value)


def check(r: Recorded) -> Iterator[Row]:
    """A row per recorded value."""
    def sequences(name: str, made: Sequence[Any], wanted: Sequence[Any]) -> Iterator[Row]:
        for place, recorded in enumerate(wanted):
            recorded = until(recorded, r.model.tokenizer.sep) if isinstance(recorded, list) else recorded
            yield compare_sequence(f"{name}[{place}]", made[place] if place < len(made) else [], recorded)

    def number(name: str, made: float, wanted: float) -> Iterator[Row]:
        yield compare_number("loss", name, made, wanted)

    def prompt(name: str, made: list[int], wanted: list[int]) -> Iterator[Row]:
        yield compare_sequence(name, made, wanted, "prompts")

    parts: tuple[tuple[str, str, tuple[Line, ...], Callable[..., Iterator[Row]]], ...] = (
        ("prompts", "sequence", (Line(r"(.*)", lambda r, sentence: r.model.prompts.ids.get(sentence, [])),), prompt),
        ("losses", "loss", LOSSES, number), ("generated", "sequence", GENERATED, sequences),
        ("retrieval_metrics", "output", METRICS, compare_metrics))
    outputs = {name: tensor for name, tensor in r.outputs.items() if name not in r.given}
    yield from check_lines(OUTPUTS, "output", outputs, r, compare_output)
    yield compare_number("output", "temperature", float(r.model.temperature.detach()), r.golden["temperature"])
    for section, kind, lines, compare in parts:
        recorded = r.golden.get(section, {})
        named = {f"{section}.{name}": value for name, value in recorded.items()} if section == "retrieval_metrics" else recorded
        yield from check_lines(lines, kind, named, r, compare)
    yield from compare_gradients(r)
    for section in r.golden:
        if section not in (*SECTIONS, *(name for name, *_ in parts), "temperature", "gradient_norms", "gradient_norms_dual", "no_gradient"):
            yield Row("output", section, math.inf, 0.0, f"{UNSUPPORTED}: nothing of golden.json has this name")


def read(path: Path, device: torch.device | str = "cpu") -> tuple[str, Iterator[Row]]:
    """What the folder is, in a line, and its rows, computed as they are asked for. A model that cannot be built is one row that says why.
    Raises FolderError, and what reading weights raises."""
    folder = Folder.read(path, ("checkpoint.pt", "vocab.txt"), "tests/goldens/valor_tiny/videoswin")
    count = len(folder.golden["captions"])
    try:
        r = Recorded(folder, device)
    except (UnsupportedError, ModelError) as error:
        return f"VALOR, {count} clips", iter([Row("model", "model_cfg", math.inf, 0.0, f"{UNSUPPORTED}: {error}")])
    headline = (f"VALOR, {count} clips, {sum(p.numel() for p in r.model.parameters()):,} parameters; checkpoint: nothing missing, nothing "
                f"unknown, {len(r.report.dropped)} tensors without use left out")
    return headline, check(r)
