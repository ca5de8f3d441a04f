"""How much work a step, a generated token and a re-ranked pair take, counted without a clock: growth here is a regression of speed."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.data.batch import Captions
from omnivast.model.objectives import generation
from omnivast.utils.random import StepRandom
from tests.model.tiny import SUBTITLES, VALOR, batch, task, texts, valor, vast

GROUPS = ("tvas", "tva", "tvs", "tv", "ta")
ALL = Group.parse("tvas")


class MatrixProducts(TorchDispatchMode):
    """Counts mm, addmm and bmm."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)
        return func(*args, **(kwargs or {}))


@contextmanager
def counting(model):
    """Calls of the text tower and of the other towers; per block: rows projected to keys, and rows of the feed-forward layer."""
    seen = Counter()
    modules = {"texts": model.multimodal_encoder, "vision": model.vision_encoder, "audio": model.audio_encoder}
    handles = [m.register_forward_hook(lambda *_, name=name: seen.update([name])) for name, m in modules.items()]
    for i, block in enumerate(model.multimodal_encoder.blocks):
        for name, linear in ((f"keys{i}", block.crossattention.projections.key), (f"fed{i}", block.intermediate["dense"])):
            handles.append(linear.register_forward_hook(
                lambda _, inputs, __, name=name: seen.update({name: inputs[0].flatten(0, -2).shape[0]})))
    yield seen
    for handle in handles:
        handle.remove()


def step_of(groups, objectives=("ret", "cap")):
    """Counts of a step over ``groups``; the model and the batch."""
    model, clips = vast().train(), batch()
    text = "_".join("%".join([objective, *groups]) for objective in objectives)
    with counting(model) as seen:
        model(clips, task(text), StepRandom(0, 0))
    return seen, model, clips


@pytest.mark.parametrize("groups", [GROUPS[:1], GROUPS])
def test_towers_run_once_and_memories_are_projected_once_whatever_the_groups(groups):
    seen, model, clips = step_of(groups)
    assert (seen["texts"], seen["audio"]) == (3, 1)  # subtitles, captions alone, all that attends to a memory
    memory = model.memory(model.encode(clips, list(ALL)))
    tokens = sum(condition.shape[0] * condition.shape[1] for condition in memory.condition.values())
    assert [seen[f"keys{i}"] for i in range(2)] == [tokens, tokens]


@pytest.mark.parametrize("text", ["ret%tva_cap%tva", "ret%tva%tv%ta_cap%tva%tv%ta_mlm%tva%tv_qa%tva%tv"])
def test_a_step_of_valor_encodes_a_modality_once_and_reads_all_texts_of_the_memory_in_one_forward(text):
    model, clips = valor().train(), batch(VALOR)
    own = clips.captions[CaptionKind.OMNI]
    clips.captions = Captions({CaptionKind.OMNI: own}, {CaptionKind.VISION: CaptionKind.OMNI, CaptionKind.AUDIO: CaptionKind.OMNI})
    with counting(model) as seen:
        model(clips, task(text), StepRandom(0, 0))
    assert (seen["texts"], seen["vision"], seen["audio"]) == (2, 1, 1)  # captions alone, all that attends to the memory
    memory = model.memory(model.encode(clips, (Modality.VISION, Modality.AUDIO)))
    tokens = sum(condition.shape[0] * condition.shape[1] for condition in memory.condition.values())
    assert [seen[f"keys{i}"] for i in range(2)] == [tokens, tokens]


def test_no_padding_is_computed_and_the_last_block_computes_only_what_is_read():
    seen, model, clips = step_of(("tvas",), ("ret",))
    captions = next(texts for kind, texts in clips.captions.items() if kind is ALL.caption_kind)
    own = int(captions.mask.sum())
    subtitles = len(SUBTITLES) * model.config.max_subtitle_len
    negatives = seen["fed0"] - subtitles - 3 * own  # captions alone, matched, with another clip; another caption with the clip
    assert 0 < negatives <= captions.mask.numel()
    assert seen["fed1"] == subtitles + 4 * len(clips)


def test_matrix_products_of_a_step_do_not_grow_with_its_groups():
    counts = []
    for groups in (GROUPS[:3], GROUPS):
        model, clips = vast().train(), batch()
        with MatrixProducts() as products:
            model(clips, task("cap%" + "%".join(groups)), StepRandom(0, 0))["loss"].backward()
        counts.append(products.count)
    assert counts[0] == counts[1]


@torch.no_grad()
def test_a_generated_token_takes_two_positions_and_no_projection_of_the_memory():
    model = vast().eval()
    memory = model.memory(model.encode(batch(), list(ALL)))
    state = model.multimodal_encoder.start(memory, ALL)
    tokens = torch.full((4,), model.tokenizer.cls)
    model.multimodal_encoder.step(state, tokens, model.tokenizer.mask)
    for _ in range(3):
        with counting(model) as seen:
            model.multimodal_encoder.step(state, tokens, model.tokenizer.mask)
        assert seen == {"fed0": 8, "fed1": 4}  # the last block's state is read at the [MASK] alone


@torch.no_grad()
def test_re_ranking_projects_each_clip_once_and_reads_one_token_per_pair():
    model = vast().eval()
    memory = model.memory(model.encode(batch(), list(ALL)))
    pairs = texts(["a red car", "two dogs running"] * 4, 12)
    with counting(model) as seen:
        model.match(memory, ALL, pairs.ids, pairs.mask, torch.arange(4).repeat_interleave(2))
    tokens = sum(condition.shape[0] * condition.shape[1] for condition in memory.condition.values())
    assert (seen["keys0"], seen["keys1"]) == (tokens, tokens)
    assert (seen["fed0"], seen["fed1"]) == (int(pairs.mask.sum()), 8)


@torch.no_grad()
def test_questions_about_a_clip_project_it_once():
    """Eight questions about four clips, in any order."""
    model = vast().eval()
    memory = model.memory(model.encode(batch(), list(ALL)))
    asked = texts(["what is the man doing ?", "who is running ?"] * 4, 12, clip=[3, 1, 0, 2, 1, 0, 3, 2])
    with counting(model) as seen:
        model.answer_ids(memory, ALL, asked, beam_size=2)
    tokens = sum(condition.shape[0] * condition.shape[1] for condition in memory.condition.values())
    assert (seen["keys0"], seen["keys1"]) == (tokens, tokens)


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_a_generated_text_takes_two_positions_per_word_and_beam(beams):
    """No text ends; the first word is looked for once per clip."""
    model = vast().eval()
    model.get_parameter("multimodal_encoder.cls.predictions.bias")[model.tokenizer.sep] = -1e4
    memory = model.memory(model.encode(batch(), list(ALL)))
    with counting(model) as seen:
        model.caption(memory, ALL, beam_size=beams, max_length=6)
    positions = 4 + 5 * 4 * beams
    assert (seen["fed0"], seen["fed1"]) == (2 * positions, positions)


class Logits(TorchDispatchMode):
    """The most rows of a matrix product as wide as the vocabulary."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm) and out.shape[1] == self.vocabulary:
            self.rows = max(self.rows, out.shape[0])
        return out


def test_logits_of_all_predicted_words_never_exist_at_once(monkeypatch):
    model, clips = vast().train(), batch()
    monkeypatch.setitem(generation.LOGITS, "cpu", 5 * model.multimodal_encoder.sizes.vocab_size)
    with Logits(model.multimodal_encoder.sizes.vocab_size) as logits:
        model(clips, task("cap%tvas%tva"), StepRandom(0, 0))["loss"].backward()
    assert logits.rows == 5
