"""Mixed precision as a GPU has it, where layer norms, softmax and sums come out in float32, unlike on a CPU: on a GPU that is not there
(fake tensors) whatever meets a tensor of another type than it may fails as it would on a real one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omnivast.config.tasks import CaptionKind
from omnivast.data.batch import Batch, Captions
from omnivast.model.build import build_model
from omnivast.model.text import generate
from omnivast.model.valor import alignment
from omnivast.model.valor import generate as valor_generate
from omnivast.model.vast import matching, negatives
from omnivast.utils import transfer
from omnivast.utils.fake import without_numbers
from omnivast.utils.random import StepRandom
from tests.model.avllm import tiny as avllm_tiny
from tests.model.avllm.test_avllm import loss_of
from tests.model.test_waiting import EVERYTHING, OF_VALOR, QUESTIONS, USES, on, without_skipped_layers
from tests.model.tiny import CAPTIONS, MODALITIES, VALOR, VAST_TINY, batch, gram, task, texts, valor, vast
from tests.model.vast.test_full_size import released_config

HALVES = [torch.bfloat16, torch.float16]


class OneType(TorchDispatchMode):
    """Operations whose numbers must all be of one type, as a GPU's kernels want them; fake tensors mind it in some of them alone."""

    NAMES = ("mm", "addmm", "bmm", "baddbmm", "convolution", "native_layer_norm", "index_put", "index_put_", "index_copy", "index_copy_",
             "index_add", "index_add_", "scatter", "scatter_", "scatter_add", "scatter_add_", "masked_scatter", "masked_scatter_",
             "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
             "scaled_dot_product_attention", "lerp", "lerp_", "addcmul", "addcmul_")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = {x.dtype for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.is_floating_point()}
        if func.overloadpacket.__name__ in self.NAMES and len(found) > 1:
            raise AssertionError(f"{func}: {', '.join(sorted(map(str, found)))}")
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Autocast as on a card that has both halves; the host's questions are answered with numbers made up."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)

    def to_host(tensor):
        return transfer.on_host(tensor) if tensor.device.type == "cpu" else np.random.default_rng(0).integers(4, size=tensor.shape)

    for module in (negatives, generate, matching, alignment, valor_generate):
        monkeypatch.setattr(module, "to_host", to_host)


def fake(model, half):
    found = without_numbers(without_skipped_layers(model), "cuda")
    found.precision = half
    return found


def test_what_is_looked_for_is_found():
    with FakeTensorMode(), torch.autocast("cuda", torch.bfloat16):
        x, w = torch.zeros(4, 4, device="cuda"), torch.zeros(4, 4, device="cuda")
        half = F.linear(x, w)
        assert half.dtype is torch.bfloat16 and F.layer_norm(half, (4,)).dtype is torch.float32
        with OneType():
            x @ half, x.index_put((torch.zeros(4, dtype=torch.int64, device="cuda"),), half)  # which autocast brings together
            with pytest.raises(AssertionError, match="index_copy"):
                x.index_copy(0, torch.zeros(4, dtype=torch.int64, device="cuda"), half)
            with pytest.raises(AssertionError, match="aten.mm"), torch.autocast("cuda", enabled=False):
                x @ half


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("make", "text"), [
    (vast, EVERYTHING), (lambda: vast(missing_modality="mask", mask_subtitle_padding=True, checkpointing=True), EVERYTHING),
    (lambda: vast(contrastive_loss="sigmoid"), "ret%tvas%tv"), (gram, EVERYTHING)], ids=["vast", "masked", "sigmoid", "gram"])
def test_a_step(make, text, half):
    model, own = make(), batch()
    own.questions, own.answers = QUESTIONS, texts(["playing piano", "two dogs", "red"], 6, clip=[0, 1, 3])
    with FakeTensorMode(), OneType():
        losses = fake(model, half).train()(on("cuda", own), task(text), StepRandom(0, 0))
    assert {(loss.device.type, loss.dtype) for loss in losses.values()} == {("cuda", torch.float32)}


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("settings", [{}, {"checkpointing": True}, {"contra_type": "coarse"}, {"late_fusion": True}],
                         ids=["fine", "checkpointing", "coarse", "late"])
def test_a_step_of_valor(settings, half):
    model, own = valor(**settings), batch(VALOR)
    with FakeTensorMode(), OneType():
        losses = fake(model, half).train()(on("cuda", own), task(OF_VALOR), StepRandom(0, 0))
    assert {(loss.device.type, loss.dtype) for loss in losses.values()} == {("cuda", torch.float32)}


def test_a_step_of_the_released_model():
    """Its towers: EVA-CLIP and BEATs."""
    config = released_config(VAST_TINY / "vocab.txt")
    captions = texts(CAPTIONS, config.max_omni_caption_len)
    with torch.device("meta"):
        model = build_model(config)
    with FakeTensorMode(), OneType():
        own = Batch("clips", list("abcd"), torch.arange(4), torch.empty(4, 1, 3, 224, 224, dtype=torch.uint8, device="cuda"),
                    torch.empty(4, 2, config.audio_target_length, config.audio_melbins, device="cuda"), captions,
                    Captions(dict.fromkeys(CaptionKind, captions)), captions, captions)
        loss = fake(model, torch.bfloat16).train()(own, task(EVERYTHING), StepRandom(0, 0))["loss"]
    assert (loss.device.type, loss.dtype) == ("cuda", torch.float32)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("use", USES)
@torch.no_grad()
def test_a_use(use, half):
    model, own = vast(), batch()
    with FakeTensorMode(), OneType():
        model = fake(model, half).eval()
        USES[use][0](model, model.memory(model.encode(on("cuda", own), MODALITIES)))


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("tune", ["projectors", "lora", "full"])
def test_a_step_of_a_language_model(tmp_path, tune, half):
    if tune == "lora":
        pytest.importorskip("peft")
    model = avllm_tiny.avllm(avllm_tiny.make_llm(tmp_path), llm_tune=tune)
    own = avllm_tiny.batch(model)
    with FakeTensorMode(), OneType():
        loss = loss_of(fake(model, half).train(), on("cuda", own))
    assert (loss.device.type, loss.dtype) == ("cuda", torch.float32)
