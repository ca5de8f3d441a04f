"""How often the host waits for the device. On a GPU that is not there (fake tensors) every question for a number raises, and so does an
operation on tensors of two devices; the copies that are allowed are counted, and answered with numbers made up for the test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.data.batch import Batch, Captions
from omnivast.model.build import build_model
from omnivast.model.text import generate
from omnivast.model.valor import alignment
from omnivast.model.valor import generate as valor_generate
from omnivast.model.vast import matching, negatives
from omnivast.utils import transfer
from omnivast.utils.fake import without_numbers
from omnivast.utils.random import StepRandom
from tests.model.tiny import CAPTIONS, MODALITIES, VALOR, VAST_TINY, batch, task, texts, valor, vast
from tests.model.vast.test_full_size import released_config

VAS = Group(MODALITIES)
EVERYTHING = "ret%tvas%tva%tvs%tv%ta%ts_cap%tvas%tv_qa%tvas%ts"
OF_VALOR = "ret%tva%tv%ta_cap%tva%tv_mlm%tv_qa%tva"
QUESTIONS = texts(["what is the man doing ?", "who is running ?", "who is running ?"], 12, clip=[0, 1, 3])


@pytest.fixture
def gpu():
    """A GPU without numbers."""
    with FakeTensorMode():
        yield "cuda"


@pytest.fixture
def asked(monkeypatch):
    """How often the host asked the device; it is answered by ``asked.answer(tensor)``."""
    class Asked(list):
        def answer(self, tensor):
            return np.random.default_rng(len(self)).integers(4, size=tensor.shape)

    found = Asked()

    def to_host(tensor):
        if tensor.device.type == "cpu":
            return transfer.on_host(tensor)
        found.append(tuple(tensor.shape))
        return found.answer(tensor)

    for module in (negatives, generate, matching, alignment, valor_generate):
        monkeypatch.setattr(module, "to_host", to_host)
    return found


class Waits(TorchDispatchMode):
    """Names of operations that ask the device for a number or a size, or copy to it while the host waits."""

    SIZED = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "equal",
             "bincount", "repeat_interleave", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(x is not None and x.dtype is torch.bool for x in args[1])
        blocking = name == "_to_copy" and args[0].device.type == "cpu" and kwargs.get("device", args[0].device).type == "cuda"
        if name in self.SIZED or by_mask or (blocking and not kwargs.get("non_blocking")):
            self.found.append(str(func))
        return func(*args, **kwargs)


def on(device, own: Batch) -> Batch:
    """The batch with media that have no numbers."""
    return own.map_media(lambda x: torch.empty(x.shape, dtype=x.dtype, device=device))


def without_skipped_layers(model):
    """A layer that may be left out is asked for on the host, which has no numbers either here."""
    for module in model.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0
    return model


def test_what_is_looked_for_is_found(gpu):
    x = torch.zeros(3, device=gpu)
    with pytest.raises(DataDependentOutputException):
        x[0].item()
    with pytest.raises(RuntimeError, match="cpu"):
        x + torch.zeros(3)
    with Waits() as waits:
        torch.zeros(3).to(gpu)
    assert waits.found == ["aten._to_copy.default"]
    with Waits() as waits, transfer.planning():
        y = torch.arange(3.0)
        y[y > 1], y.nonzero(), y.unique(), bool(y[0] > 0), torch.equal(y, y)
    assert len(waits.found) == 5


@pytest.mark.parametrize(("text", "times", "settings"), [
    (EVERYTHING, 1, {}), (EVERYTHING, 1, {"missing_modality": "mask", "mask_subtitle_padding": True, "checkpointing": True}),
    ("ret%tv", 1, {}), ("cap%ta_qa%tvas", 0, {})], ids=["all", "masked", "ret", "cap"])
def test_a_step_waits_for_the_hard_negatives_alone(gpu, asked, text, times, settings):
    with transfer.planning():
        model, own = vast(**settings), batch()
        own.present = {m: torch.tensor([True, m is not Modality.AUDIO, True, True]) for m in MODALITIES}
        own.questions, own.answers = QUESTIONS, texts(["playing piano", "two dogs", "red"], 6, clip=[0, 1, 3])
    model, own = without_numbers(without_skipped_layers(model), gpu).train(), on(gpu, own)
    with Waits() as waits:
        losses = model(own, task(text), StepRandom(0, 0))
    assert len(asked) == times and waits.found == []
    assert {x.device.type for x in losses.values()} == {"cuda"} and losses["loss"].requires_grad


def test_the_backward_pass_waits_for_nothing():
    """On the CPU: torch has no backward pass for fake tensors of a GPU that is not there."""
    model = without_skipped_layers(vast(missing_modality="mask")).train()
    with Waits() as waits:
        model(batch(), task(EVERYTHING), StepRandom(0, 0))["loss"].backward()
    assert waits.found == []


def test_a_step_of_the_released_model(gpu, asked):
    """Its sizes, one frame and two slices, all objectives."""
    config = released_config(VAST_TINY / "vocab.txt")
    with transfer.planning():
        captions = texts(CAPTIONS, config.max_omni_caption_len)
        with torch.device("meta"):
            model = without_skipped_layers(build_model(config))
    own = Batch("clips", list("abcd"), torch.arange(4), torch.empty(4, 1, 3, 224, 224, dtype=torch.uint8, device=gpu),
                torch.empty(4, 2, config.audio_target_length, config.audio_melbins, device=gpu), captions,
                Captions(dict.fromkeys(CaptionKind, captions)), captions, captions)
    with Waits() as waits:
        losses = without_numbers(model, gpu).train()(own, task(EVERYTHING), StepRandom(0, 0))
    assert sum(p.numel() for p in model.parameters()) > 1.2e9
    assert len(asked) == 1 and waits.found == [] and losses["loss"].device.type == "cuda"


@pytest.mark.parametrize("settings", [{}, {"checkpointing": True}, {"contra_type": "coarse"}, {"late_fusion": True}],
                         ids=["fine", "checkpointing", "coarse", "late"])
def test_a_step_of_valor_waits_for_nothing(gpu, asked, settings):
    with transfer.planning():
        model, own = valor(**settings), batch(VALOR)
    model, own = without_numbers(model, gpu).train(), on(gpu, own)
    with Waits() as waits:
        losses = model(own, task(OF_VALOR), StepRandom(0, 0))
    assert asked == [] and waits.found == []
    assert {x.device.type for x in losses.values()} == {"cuda"} and losses["loss"].requires_grad


def test_the_backward_pass_of_valor_waits_for_nothing():
    model = valor().train()
    with Waits() as waits:
        model(batch(VALOR), task(OF_VALOR), StepRandom(0, 0))["loss"].backward()
    assert waits.found == []


def test_valor_waits_once_per_token_and_once_for_scores(gpu, asked):
    with transfer.planning():
        model, own = valor(), batch(VALOR)
    model, own, group = without_numbers(model, gpu).eval(), on(gpu, own), Group((Modality.VISION, Modality.AUDIO))
    asked.answer = lambda tensor: np.zeros(tensor.shape, np.int64)
    with torch.no_grad(), Waits() as waits:
        features = model.encode(own, group.modalities)
        rows = model.best_captions(model.memory(features), group, beam_size=3, max_length=8)
        assert len(asked) == 8 + 1 and len(rows) == 4  # whether all have ended, and in the end the texts
        model.similarity(group, model.index_texts(own.captions[group.caption_kind]), model.index_clips(features, group))
    assert len(asked) == 10 and waits.found == []


@pytest.fixture
def decoder(gpu):
    """A model, and a memory of four clips, on the GPU."""
    with transfer.planning():
        model, own = vast(), batch()
    model = without_numbers(model, gpu).eval()
    with torch.no_grad():
        yield model, model.memory(model.encode(on(gpu, own), MODALITIES))


USES = {
    "greedy": (lambda model, memory: model.caption(memory, VAS, beam_size=1, max_length=8), 8),
    "beams": (lambda model, memory: model.caption(memory, VAS, beam_size=3, max_length=8), 8),
    "answer": (lambda model, memory: model.answer(memory, VAS, QUESTIONS, beam_size=2), 6),
    "sample": (lambda model, memory: model.sample_captions(memory, VAS, draws=torch.rand(4, 2, 12), top_k=5), 12),
    "match": (lambda model, memory: model.match(memory, VAS, QUESTIONS.ids, QUESTIONS.mask, QUESTIONS.clip), 0),
    "embed": (lambda model, memory: model.embed_texts(QUESTIONS), 0),
}


@pytest.mark.parametrize("use", USES)
def test_generation_waits_once_per_token_for_all_clips(decoder, asked, use):
    apply, times = USES[use]
    with Waits() as waits:
        apply(*decoder)
    assert len(asked) == times and waits.found == []


def test_generation_ends_with_the_last_text_and_leaves_finished_clips(decoder, asked):
    model, memory = decoder
    ends = [[False, False, True, False], [True, False, False, False], [True, True]]
    asked.answer = lambda x: np.where(ends[len(asked) - 1], model.tokenizer.sep, 5)
    with Waits() as waits:
        rows = generate.beam_search(model.multimodal_encoder, model.multimodal_encoder.start(memory, VAS), model.tokenizer, 1, 12, 0.6)
    assert asked == [(4,), (4,), (2,)] and [len(ids) for ids in rows] == [1, 2, 0, 2] and waits.found == []
