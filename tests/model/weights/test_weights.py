"""Checkpoints: strict about names and shapes, safe with files from anywhere."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from omnivast.config.schema import ModelConfig
from omnivast.model.weights import LoadReport, TowerFile, WeightsError, load_tower, load_weights, read_state_dict, start_weights
from omnivast.utils.files import sha256_file
from tests.model.tiny import CONFIG, MODALITIES, batch, vast


class Creates:
    """A pickle that would create a folder when it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def saved(tmp_path):
    model = vast(seed=1)
    torch.save(model.state_dict(), tmp_path / "model_step_7.pt")
    return tmp_path / "model_step_7.pt"


def change(path, apply):
    state = torch.load(path, weights_only=True)
    apply(state)
    torch.save(state, path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_round_trip(tmp_path, suffix):
    source, target, path = vast(seed=1), vast(seed=2), tmp_path / f"weights{suffix}"
    state = source.state_dict()
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    report = load_weights(target, path)
    assert report == LoadReport(str(path), sha256_file(path), (), (), (), ())
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in state.items())
    with torch.no_grad():
        one, other = (model.eval().encode(batch(), MODALITIES).pooled for model in (source, target))
    assert all(torch.equal(one[m], other[m]) for m in MODALITIES)


@pytest.mark.parametrize("wrap", [lambda s: {"model": s, "cfg": {"layers": 1}}, lambda s: {"state_dict": s},
                                  lambda s: {f"module.{name}": tensor for name, tensor in s.items()}])
def test_wrapped_state_dicts_are_unwrapped(saved, wrap):
    torch.save(wrap(torch.load(saved, weights_only=True)), saved)
    assert not load_weights(vast(), saved).missing


def test_an_absent_file_names_the_nearest(saved):
    with pytest.raises(WeightsError, match=r"no weights at .*model_step_8.pt; that folder has 'model_step_7.pt'"):
        read_state_dict(saved.with_name("model_step_8.pt"))
    with pytest.raises(WeightsError, match=r"no weights at nowhere/x.pt \(looked up from .*\)$"):
        read_state_dict("nowhere/x.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("keep", [0, 100, 2000])
def test_a_truncated_file(saved, tmp_path, name, keep):
    path = tmp_path / name
    if path.suffix == ".pt":
        content = saved.read_bytes()
    else:
        save_file({"a": torch.zeros(1000)}, path)
        content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(WeightsError, match=rf"{name}: not a readable checkpoint \(truncated, or another format\): \w"):
        read_state_dict(path)


def test_a_file_of_another_format(tmp_path):
    for content in (b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(50)):
        (tmp_path / "page.pt").write_bytes(content)
        with pytest.raises(WeightsError, match="page.pt: not a readable checkpoint: neither a torch file nor safetensors"):
            read_state_dict(tmp_path / "page.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, legacy):
    path, created = tmp_path / "evil.pt", tmp_path / "created"
    if legacy:
        path.write_bytes(pickle.dumps({"contra_temp": Creates(created)}, protocol=2))
    else:
        torch.save({"contra_temp": torch.tensor(0.07), "more": Creates(created)}, path)
    with pytest.raises(WeightsError, match="evil.pt: refused, because it holds more than tensors") as refused:
        load_weights(vast(), path)
    assert "mkdir" in str(refused.value) and "weights_only" not in str(refused.value)
    assert not created.exists()
    content = pickle.loads(path.read_bytes()) if legacy else torch.load(path, weights_only=False)  # an unsafe reader executes it
    assert created.exists() and content


@pytest.mark.parametrize("content", [{}, [torch.zeros(2)], {"a": 1}])
def test_something_else_than_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"x.pt: expected a state dict \(names with tensors\)"):
        read_state_dict(tmp_path / "x.pt")


def test_the_state_of_a_training_is_told_from_its_weights(tmp_path):
    torch.save({"step": 1, "optimizer": {}}, tmp_path / "state_step_1.pt")
    with pytest.raises(WeightsError, match="found the state of a training; its weights are in the model_step_N.pt beside it"):
        read_state_dict(tmp_path / "state_step_1.pt")


def test_another_shape(saved):
    change(saved, lambda s: s.update({"contra_head_t.linear.weight": torch.zeros(4, 32)}))
    with pytest.raises(WeightsError, match=r"1 tensor\(s\) have another shape(.|\n)*_head_t.linear.weight: file \(4, 32\), model \(16, 32"):
        load_weights(vast(), saved)
    model = vast()
    before = model.contra_head_t.linear.weight.detach().clone()
    report = load_weights(model, saved, allow_missing=["contra_head_t"])
    assert torch.equal(model.contra_head_t.linear.weight, before) and report.missing == ("contra_head_t.linear.weight",)


def test_missing_names_are_refused_unless_allowed(saved):
    change(saved, lambda s: [s.pop(name) for name in list(s) if name.startswith("itm_head.")])
    with pytest.raises(WeightsError, match=r"(?s)lacks 6 tensor\(s\): itm_head.linear1.weight.*--allow_missing itm_head.$"):
        load_weights(vast(), saved)
    with pytest.raises(WeightsError, match="lacks 6"):
        load_weights(vast(), saved, allow_missing=["contra"])
    model = vast()
    report = load_weights(model, saved, allow_missing=["itm_head."])
    assert len(report.missing) == 6 and all(name.startswith("itm_head.") for name in report.missing)
    assert torch.equal(model.contra_head_t.linear.weight, torch.load(saved, weights_only=True)["contra_head_t.linear.weight"])


def test_unknown_names_are_refused_unless_allowed(saved):
    change(saved, lambda s: s.update({"itm_head.linear2.weights": torch.zeros(2)}))
    with pytest.raises(WeightsError, match=r"has unknown 1 tensor\(s\): itm_head.linear2.weights \(near: itm_head.linear2.weight\)"):
        load_weights(vast(), saved)
    assert load_weights(vast(), saved, allow_missing=["itm_head.linear2.weights"]).unexpected == ("itm_head.linear2.weights",)


def test_tensors_that_the_release_carries_without_use_are_dropped_by_name(saved):
    extra = {"vision_encoder.text.token_embedding.weight": torch.zeros(2, 2), "vision_encoder.logit_scale": torch.zeros(())}
    change(saved, lambda s: s.update(extra))
    assert set(load_weights(vast(), saved).dropped) == set(extra)


def test_frame_embeddings_of_another_length_take_the_nearest(saved):
    target = vast(max_vision_sample_num=4)
    report = load_weights(target, saved)
    source = torch.load(saved, weights_only=True)["vision_frame_embedding"]
    assert report.interpolated == ("vision_frame_embedding",)
    assert torch.equal(target.vision_frame_embedding, source.repeat_interleave(2, 1))


def test_position_embeddings_of_another_resolution_are_interpolated(tmp_path):
    """EVA at 28 pixels (2 × 2 patches) into 56 (4 × 4), bilinearly: the [CLS] is kept; between columns of 0 and 1 come a quarter and
    three quarters."""
    sizes = {"patch_size": 14, "width": 16, "layers": 1, "head_width": 8, "mlp_ratio": 2.0, "drop_path_rate": 0.0}
    source, target = (vast(vision_encoder_type="evaclip01_giant", vision_encoder_cfg=sizes, vision_resolution=r) for r in (28, 56))
    with torch.no_grad():
        source.vision_encoder.visual.pos_embed[0, 1:] = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None]
    torch.save(source.state_dict(), tmp_path / "m.pt")
    report = load_weights(target, tmp_path / "m.pt")
    assert report.interpolated == ("vision_encoder.visual.pos_embed",)
    got, old = target.vision_encoder.visual.pos_embed, source.vision_encoder.visual.pos_embed
    assert torch.equal(got[:, 0], old[:, 0])
    grid = got[0, 1:].detach().view(4, 4, 16)
    torch.testing.assert_close(grid, torch.tensor([0.0, 0.25, 0.75, 1.0])[None, :, None].expand(4, 4, 16))


def test_a_position_embedding_that_is_no_square_grid_is_another_shape(saved):
    change(saved, lambda s: s.update({"vision_encoder.body.pos_embed": torch.zeros(1, 8, 16)}))
    with pytest.raises(WeightsError, match="vision_encoder.body.pos_embed"):
        load_weights(vast(), saved)


def test_towers_load_from_their_own_files(tmp_path):
    source, target = vast(seed=1).audio_encoder, vast(seed=2).audio_encoder
    state = dict(source.state_dict())
    torch.save({"cfg": {"encoder_layers": 1}, "model": {**state, "predictor.weight": torch.zeros(2)}}, tmp_path / "beats.pt")
    load_tower(target, tmp_path / "beats.pt", layout(dropped=("predictor.",)))
    assert all(torch.equal(tensor, target.state_dict()[name]) for name, tensor in state.items())
    torch.save({"old." + name: tensor for name, tensor in state.items()} | {"other.weight": torch.zeros(2)}, tmp_path / "renamed.pt")
    load_tower(target, tmp_path / "renamed.pt", layout(rename={"old.": ""}, dropped=("o*er.we",)))
    load_tower(target, tmp_path / "renamed.pt", layout(prefix="old."))
    with pytest.raises(WeightsError, match="has unknown 1.*predictor.weight"):
        load_tower(target, tmp_path / "beats.pt", layout())
    del state["patch_embedding.weight"]
    torch.save(state, tmp_path / "beats.pt")
    with pytest.raises(WeightsError, match="lacks 1.*patch_embedding.weight"):
        load_tower(target, tmp_path / "beats.pt", layout())
    load_tower(target, tmp_path / "beats.pt", layout(optional=("patch_embedding",)))
    made = torch.full((8, 1, 16, 16), 3.0)
    load_tower(target, tmp_path / "beats.pt", layout(convert=lambda state, module: {**state, "patch_embedding.weight": made}))
    assert torch.equal(target.patch_embedding.weight, made)
    torch.save({**state, "layer_norm.weight": torch.zeros(3)}, tmp_path / "beats.pt")
    with pytest.raises(WeightsError, match=r"layer_norm.weight has shape \(3,\), the model expects \(8,\)"):
        load_tower(target, tmp_path / "beats.pt", layout(optional=("patch_embedding",)))


def layout(**settings):
    return TowerFile("tower.pt", None, "", **settings)


class Scripted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.table = torch.nn.Linear(2, 3), torch.nn.Parameter(torch.randn(2, 5).half())
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x):
        return self.inner(x)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_gives_its_tensors_without_running(tmp_path):
    """As which OpenAI publishes CLIP. A pickle of anything else in it is refused."""
    module, path = Scripted(), tmp_path / "clip.pt"
    torch.jit.script(module).save(str(path))
    read = read_state_dict(path)
    assert set(read) == {"table", "count", "inner.weight", "inner.bias"}
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in module.state_dict().items())
    created = tmp_path / "created"
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/constants.pkl", b"")
        archive.writestr("evil/data.pkl", pickle.dumps({"a": Creates(created)}, protocol=2))
    with pytest.raises(WeightsError, match="evil.pt: refused.*mkdir"):
        read_state_dict(tmp_path / "evil.pt")
    assert not created.exists()


def test_the_file_that_a_run_starts_from(tmp_path, saved):
    assert start_weights(None, None) is None and start_weights(str(saved), "elsewhere") == saved
    with pytest.raises(WeightsError, match=r"no weights at gone.pt \(looked up from .*\) \(run_cfg.checkpoint\)"):
        start_weights("gone.pt", None)
    with pytest.raises(WeightsError, match="is a folder: name a .pt or .safetensors file, or a run's folder with --pretrain_dir"):
        start_weights(str(tmp_path), None)
    with pytest.raises(WeightsError, match="that folder has 'model_step_"):
        start_weights(f"{saved}t", None)
    with pytest.raises(WeightsError, match="holds no ckpt/model_step_N.pt"):
        start_weights(None, str(tmp_path))
    (tmp_path / "ckpt").mkdir()
    for name in ("model_step_9.pt", "model_step_100.pt", "state_step_200.pt", "model_best.pt"):
        (tmp_path / "ckpt" / name).touch()
    assert start_weights(None, str(tmp_path)) == tmp_path / "ckpt" / "model_step_100.pt"
    assert start_weights(None, str(tmp_path), 9) == tmp_path / "ckpt" / "model_step_9.pt" and start_weights(str(saved), None, 9) == saved
    with pytest.raises(WeightsError, match="run_cfg.pretrain_step is 8, but .*ckpt has no model_step_8.pt; it has those of steps 9, 100"):
        start_weights(None, str(tmp_path), 8)


def test_the_test_model_is_small():
    assert isinstance(CONFIG, ModelConfig) and sum(p.numel() for p in vast().parameters()) < 100_000
