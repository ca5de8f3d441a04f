"""A step of a language model that sees and hears, on a GPU that is not there (as tests/model/test_waiting.py): all it computes with lies
there, and the host waits for nothing."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from omnivast.utils.fake import without_numbers
from tests.model.avllm.test_avllm import loss_of
from tests.model.avllm.tiny import avllm, batch, make_llm
from tests.model.test_waiting import Waits, on, without_skipped_layers


class WaitsForDevice(Waits):
    """Those alone in which a tensor of the device takes part: conversations are laid out on the host, in torch's tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = len(self.found)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        devices = {x.device.type for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)}
        if "cuda" not in devices:
            del self.found[before:]
        return out


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make_llm(tmp_path_factory.mktemp("llm"))


@pytest.mark.parametrize("settings", [{}, {"llm_tune": "full"}, {"llm_projector": "mlp", "llm_audio_pool": "none", "llm_normalise": False}],
                         ids=["projectors", "full", "mlp"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_a_step_waits_for_nothing(llm, settings, precision):
    model = avllm(llm, **settings)
    own = batch(model)
    with FakeTensorMode():
        fake = without_numbers(without_skipped_layers(model), "cuda").train()
        fake.precision = precision
        with WaitsForDevice() as waits:
            loss = loss_of(fake, on("cuda", own))
    assert loss.device.type == "cuda" and loss.requires_grad and waits.found == []
