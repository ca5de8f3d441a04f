"""What is trained of a language model, and adapters as files."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from omnivast.config.schema import ModelConfig
from omnivast.model.avllm.tuning import adapter_state, has_adapter, load_adapter_state, merged, save_adapter, targets, tuned
from omnivast.model.interface import ModelError
from omnivast.model.text.llm import load_llm
from tests.model.avllm.tiny import avllm, make_llm
from tests.model.tiny import vast

IDS = torch.arange(20).view(2, 10)
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_llm(tmp_path_factory.mktemp("llm"), initializer_range=0.02, tie_word_embeddings=True)


def make(folder, tune="lora", **settings):
    cfg = ModelConfig(model_type="avllm", llm=folder, llm_tune=tune, **settings)
    return tuned(load_llm(cfg)[0], cfg)


def trained(llm):
    return [name for name, parameter in llm.named_parameters() if parameter.requires_grad]


def disturbed(llm):
    """The model with an adapter that does something."""
    torch.manual_seed(1)
    for name, parameter in llm.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return llm


def test_projectors_train_nothing_of_it_and_full_all(folder):
    assert trained(make(folder, "projectors")) == []
    full = make(folder, "full")
    assert trained(full) == [name for name, _ in full.named_parameters()] and "model.embed_tokens.weight" in trained(full)


def test_lora_trains_adapters_alone_and_begins_as_the_model(folder):
    llm = make(folder, llm_lora_rank=4)
    assert all("lora_" in name for name in trained(llm)) and len(trained(llm)) == 2 * 2 * 7
    assert not any("embed_tokens" in name or "lm_head" in name for name in trained(llm))
    assert llm.model.layers[0].mlp.up_proj.lora_A["default"].weight.shape == (4, 64)
    assert torch.equal(llm(IDS).logits, make(folder, "projectors")(IDS).logits)


def test_rank_alpha_dropout_and_targets(folder):
    llm = make(folder, llm_lora_rank=2, llm_lora_alpha=6.0, llm_lora_dropout=0.25, llm_lora_targets=["q_proj", "mlp.up_proj"])
    assert sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained(llm)}) == ["q_proj", "up_proj"]
    layer = llm.model.layers[1].self_attn.q_proj
    assert layer.scaling["default"] == 3.0 and layer.lora_dropout["default"].p == 0.25


def test_a_target_that_matches_nothing_names_the_linears(folder):
    llm = load_llm(ModelConfig(model_type="avllm", llm=folder))[0]
    assert targets(llm, []) == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    for target in ("qproj", "lm_head", "embed_tokens", "proj"):
        with pytest.raises(ModelError, match=rf"llm_lora_targets: '{target}' matches no linear layer.*there are down_proj, gate_proj, "
                                             rf"k_proj"):
            targets(llm, ["v_proj", target])
    with pytest.raises(ModelError, match="Did you mean 'q_proj'"):
        make(folder, llm_lora_targets=["qproj"])


def test_merged_is_equal_to_unmerged(folder):
    llm = disturbed(make(folder))
    before = llm(IDS).logits
    plain = make(folder, "projectors")
    assert (before - plain(IDS).logits).abs().max() > 0.1
    assert merged(llm) is llm and not has_adapter(llm)
    torch.testing.assert_close(llm(IDS).logits, before, atol=1e-5, rtol=0)
    assert [name for name, _ in llm.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert merged(plain) is plain


def test_a_merged_model_is_a_folder_of_transformers(folder, tmp_path):
    llm = merged(disturbed(make(folder)))
    llm.save_pretrained(tmp_path)
    from transformers import AutoModelForCausalLM
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(IDS).logits, llm(IDS).logits)


def test_peft_loads_the_adapters_folder(folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    llm = disturbed(make(folder, llm_lora_rank=3, llm_lora_targets=["q_proj", "down_proj"]))
    save_adapter(llm, tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(theirs(IDS).logits, llm(IDS).logits, atol=1e-6, rtol=0)


def test_an_adapters_state_alone(folder):
    llm, other = disturbed(make(folder)), make(folder)
    state = adapter_state(llm)
    assert all(name.startswith("base_model.model.model.layers.") and name.endswith((".lora_A.weight", ".lora_B.weight")) for name in state)
    load_adapter_state(other, state)
    assert torch.equal(other(IDS).logits, llm(IDS).logits)


def test_an_adapter_that_does_not_fit(folder):
    state = adapter_state(make(folder, llm_lora_rank=2))
    with pytest.raises(ModelError, match=r"does not fit .*lora_A.weight is \(2, 96\), expected \(4, 96\)"):
        load_adapter_state(make(folder, llm_lora_rank=4), state)
    with pytest.raises(ModelError, match="is absent, expected"):
        load_adapter_state(make(folder, llm_lora_rank=2), {name: tensor for name, tensor in state.items() if "q_proj" not in name})
    with pytest.raises(ModelError, match="has no adapter: it was not trained with model_cfg.llm_tune lora"):
        adapter_state(make(folder, "full"))


def test_without_peft_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=re.escape('llm_tune lora: peft is not installed: pip install "omnivast[llm]"')):
        make(folder)


def test_a_model_exports_its_adapter_and_its_language_model(folder, tmp_path):
    from transformers import AutoModelForCausalLM
    model = avllm(folder, llm_tune="lora")
    disturbed(model.llm)
    before = model.llm(IDS).logits
    assert model.export_language_model(tmp_path / "adapter", whole=False) == tmp_path / "adapter"
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    llm, tokenizer = load_llm(ModelConfig(llm=str(model.export_language_model(tmp_path / "llm", whole=True))))
    torch.testing.assert_close(llm(IDS).logits, before, atol=1e-5, rtol=1e-5)
    assert tokenizer.chat_template == model.tokenizer.template.tokenizer.chat_template
    assert torch.equal(model.llm(IDS).logits, before) and has_adapter(model.llm), "the model itself was merged"
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "llm"), type(llm))


def test_other_families_have_no_language_model(tmp_path):
    with pytest.raises(ValueError, match="has no language model that can be exported"):
        vast().export_language_model(tmp_path, whole=True)
