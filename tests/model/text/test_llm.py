"""Loading a language model from a folder or a GGUF file; each that cannot be used is one sentence."""

from __future__ import annotations

import json
import re
import struct
import sys
from pathlib import Path

import pytest
import torch

from omnivast.config.schema import ModelConfig
from omnivast.model.interface import ModelError
from omnivast.model.text.gguf import read_head
from omnivast.model.text.llm import check_llm, context_of, load_llm
from tests.model.avllm.tiny import make_llm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture
def broken(folder, tmp_path):
    """A copy of the folder, to be damaged."""
    for file in Path(folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def config(path, **settings):
    return ModelConfig(model_type="avllm", llm=None if path is None else str(path), **settings)


def error_of(cfg):
    with pytest.raises(ModelError) as error:
        load_llm(cfg)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_is_what_transformers_reads(folder):
    from transformers import AutoModelForCausalLM
    llm, tokenizer = load_llm(config(folder))
    ids = torch.tensor([tokenizer("What is it?").input_ids])
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(llm(ids).logits, reference(ids).logits)
    assert not llm.training and {p.dtype for p in llm.parameters()} == {torch.float32}


def changed(folder, **settings):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def test_folders_that_cannot_be_used(broken, folder, tmp_path):
    assert "model_cfg.llm is not set" in error_of(config(None))
    assert re.search(r"no such folder or file.*nothing is fetched\. Did you mean ", error_of(config(folder + "x")))
    for file in ("tokenizer.json", "model.safetensors", "config.json"):
        content = (broken / file).read_bytes()
        (broken / file).unlink()
        expected = {"tokenizer.json": "has no tokenizer: expected one of tokenizer.json, tokenizer.model",
                    "model.safetensors": "has no weights as safetensors: expected model.safetensors or",
                    "config.json": "has no config.json, so it is no folder of transformers"}[file]
        assert expected in error_of(config(broken))
        (broken / file).write_bytes(content)
    (broken / "model.gguf").write_bytes(b"")
    (broken / "config.json").unlink()
    assert f"it holds model.gguf: set model_cfg.llm to {broken / 'model.gguf'}" in error_of(config(broken))


def test_pickled_weights_are_not_read(broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle, which can run programs and is not read" in error_of(config(broken))


def test_models_of_other_kinds(broken):
    changed(broken, model_type="t5", architectures=["T5ForConditionalGeneration"])
    assert "is a 't5', which is no causal language model" in error_of(config(broken))
    changed(broken, model_type="bert", architectures=["BertForMaskedLM"])
    assert "holds a BertForMaskedLM, which is no causal language model; expected BertLMHeadModel" in error_of(config(broken))
    changed(broken, model_type="lama", architectures=["LamaForCausalLM"], auto_map={"AutoModelForCausalLM": "x.LamaForCausalLM"})
    assert re.search("it comes with code of its own, which is not run.*Did you mean 'llama'", error_of(config(broken)))
    (broken / "config.json").write_text("{")
    assert "config.json cannot be read" in error_of(config(broken))


def test_tensors_that_are_missing_or_of_other_sizes(broken):
    changed(broken, num_hidden_layers=3)
    expected = "lacks 9 tensor(s) of a LlamaForCausalLM of its config.json, or has them in other sizes, model.layers.2."
    assert expected in error_of(config(broken))
    changed(broken, num_hidden_layers=2, intermediate_size=64)
    assert "lacks 6 tensor(s)" in (error := error_of(config(broken))) and "model.layers.0.mlp.down_proj.weight first" in error


def test_a_tokenizer_with_more_tokens_than_the_model(broken):
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(broken)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(broken)
    assert "the tokenizer has 401 tokens, but the table of embeddings only 400 rows" in error_of(config(broken))


def test_the_context_is_the_models_or_less(folder):
    llm, _ = load_llm(config(folder))
    assert context_of(llm, config(folder)) == 512 and context_of(llm, config(folder, llm_context=100)) == 100
    with pytest.raises(ModelError, match=r"llm_context is 1000, but the language model was made for 512 tokens"):
        context_of(llm, config(folder, llm_context=1000))


# ---------------------------------------------------------------------------------------------------------------------- GGUF


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def write_gguf(path, architecture="llama", tokenizer=True):
    """The head of a GGUF file without tensors."""
    pairs = [text("general.tags") + struct.pack("<IIQ", 9, 8, 2) + text("one") + text("two"),
             text("general.sizes") + struct.pack("<IIQ3f", 9, 6, 3, 1.0, 2.0, 3.0),
             text("general.architecture") + struct.pack("<I", 8) + text(architecture),
             text("llama.block_count") + struct.pack("<II", 4, 2)]
    pairs += [text("tokenizer.ggml.model") + struct.pack("<I", 8) + text("gpt2")] if tokenizer else []
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs))
    return path


def test_the_head_of_a_gguf_file(tmp_path):
    assert read_head(write_gguf(tmp_path / "m.gguf")) == {"general.tags": None, "general.sizes": None, "general.architecture": "llama",
                                                          "llama.block_count": 2, "tokenizer.ggml.model": "gpt2"}


def test_gguf_files_that_cannot_be_read(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    path = tmp_path / "m.gguf"
    check_llm(config(write_gguf(path)))
    cases = [(lambda: write_gguf(path, "lama"), "does not read GGUF files of architecture 'lama'; it reads .*Did you mean 'llama'"),
             (lambda: write_gguf(path, tokenizer=False), "has no tokenizer"),
             (lambda: path.write_bytes(b"PK"), "is no GGUF file that can be read: it does not begin with GGUF"),
             (lambda: path.write_bytes(write_gguf(path).read_bytes()[:60]), "it ends within its head"),
             (lambda: path.write_bytes(b"GGUF" + struct.pack("<IQQ", 9, 0, 0)), "it is of version 9"),
             (lambda: path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("x") + struct.pack("<I", 99)), "its head is damaged")]
    for write, message in cases:
        write()
        assert re.search(message, error_of(config(path)))
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert 'gguf is not installed: pip install "omnivast[llm]"' in error_of(config(write_gguf(path)))
    assert "a file, but not .gguf" in error_of(config(path.rename(tmp_path / "m.bin")))
