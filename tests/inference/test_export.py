"""The text tower as a file computes what the model computes, whatever runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tokenizers
import torch

from omnivast.inference import export
from omnivast.inference.export import ExportError
from omnivast.inference.pipeline import load
from omnivast.model.text.layout import Layout
from omnivast.model.text.padded import padded_states
from tests.model import tiny

TEXTS = ["a red car", "two dogs running near the water and a man", "onion", "x " * 40]


def test_padded_states_are_those_of_the_packed_tower():
    tower = tiny.text_model()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
    ids = torch.randint(5, 186, mask.shape).masked_fill(~mask, 0)
    with torch.no_grad():
        wanted = tower.encode(Layout.of(ids, mask)).padded()
        found = padded_states(tower, ids, mask)
    torch.testing.assert_close(found[mask], wanted[mask], atol=1e-6, rtol=1e-5)


def tokens_as_described(path, texts):
    """Ids and mask made from what lies beside a file, without the model."""
    facts = json.loads(path.with_name(f"{path.name}.json").read_text())
    encoded = tokenizers.Tokenizer.from_file(str(path.with_name(facts["tokenizer"]))).encode_batch(texts)
    assert max(len(one.ids) for one in encoded) <= facts["most_tokens"]
    return [np.array([getattr(one, name) for one in encoded], np.int64) for name in ("ids", "attention_mask")]


def check(model, path, run):
    for texts in (TEXTS, TEXTS[:1], TEXTS * 5):
        wanted, found = model.embed_texts(texts)["vector"].numpy(), run(*tokens_as_described(path, texts))
        assert np.abs(found - wanted).max() <= 1e-4
        assert ((found * wanted).sum(1) >= 0.99999).all()


def test_a_program_of_torch(model, tmp_path):
    path = model.export_text(tmp_path / "new" / "text.pt2")
    program = torch.export.load(path).module()
    check(model, path, lambda ids, mask: program(torch.from_numpy(ids), torch.from_numpy(mask)).numpy())
    assert sorted(one.name for one in path.parent.iterdir()) == ["text.pt2", "text.pt2.json", "text.pt2.tokenizer.json"]


def test_a_model_of_lower_precision_is_exported_in_float32(run, model, tmp_path):
    lower = load(run, precision="bf16")
    assert lower.model.precision is torch.bfloat16
    path = lower.export_text(tmp_path / "text.pt2")
    assert lower.model.precision is torch.bfloat16
    program = torch.export.load(path).module()
    check(model, path, lambda ids, mask: program(torch.from_numpy(ids), torch.from_numpy(mask)).numpy())


def test_an_onnx_file(model, tmp_path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    path = model.export_text(tmp_path / "text.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask"]
    check(model, path, lambda ids, mask: session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})[0])


def test_nothing_is_written_that_differs_from_the_model(model, tmp_path, monkeypatch):
    (tmp_path / "text.pt2").write_text("an earlier one")
    monkeypatch.setattr(export, "CLOSE", -1.0)
    with pytest.raises(ExportError, match="text.pt2: not written: its vectors differ by up to .* the model computes in float32"):
        model.export_text(tmp_path / "text.pt2")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("text.pt2", "an earlier one")]


def test_what_cannot_be_exported_is_said(model, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="a name that ends in .onnx or .pt2 says the format"):
        model.export_text(tmp_path / "text.bin")
    with pytest.raises(ExportError, match="no format 'onx'.*Did you mean 'onnx'"):
        model.export_text(tmp_path / "text.bin", "onx")
    monkeypatch.setattr(export, "import_extra", lambda package: (_ for _ in ()).throw(ImportError(f"{package} is not installed")))
    with pytest.raises(ImportError, match="onnx is not installed"):
        model.export_text(tmp_path / "text.onnx")


def test_valor_says_that_it_compares_by_more_than_a_vector():
    from omnivast.model.valor.model import VALOR

    with pytest.raises(ValueError, match="VALOR has no text tower that can be exported by itself"):
        VALOR.text_vectors(VALOR.__new__(VALOR), torch.zeros(1, 1), torch.zeros(1, 1))
