"""``python -m omnivast convert``: the release's naming and ours, both ways, bit for bit, in little memory."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnivast.scripts.tools import convert_checkpoint
from tests.model.tiny import BEATS, GOLDENS, VAST_TINY
from tests.model.vast.test_parity import check
from tests.model.weights.test_weights import Creates
from tests.model.weights.test_weights_older import older

ROOT = Path(__file__).parents[3]
RELEASED = VAST_TINY / "checkpoint.pt"


@pytest.fixture(scope="module")
def script():
    return convert_checkpoint


def read(path):
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def same(one, other):
    """Names, types, shapes and bytes."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert (tensor.dtype, tensor.shape) == (other[name].dtype, other[name].shape), name
        assert bytes(tensor.reshape(-1).view(torch.uint8).numpy()) == bytes(other[name].reshape(-1).view(torch.uint8).numpy()), name


@pytest.mark.parametrize("ours", ["ours.pt", "ours.safetensors"])
@pytest.mark.parametrize("back", ["back.pt", "back.safetensors"])
def test_released_to_ours_to_released(script, tmp_path, capsys, ours, back):
    assert script.main([str(RELEASED), str(tmp_path / ours)]) == 0
    dropped = re.findall(r"left out: (.*)", capsys.readouterr().out)
    assert len(dropped) == 20 and all(name.startswith(("vision_encoder.text.", "vision_encoder.logit_scale", "vision_encoder.visual.head."))
                                      for name in dropped)
    released = read(RELEASED)
    same(read(tmp_path / ours), {name: tensor for name, tensor in released.items() if name not in dropped})
    assert script.main([str(tmp_path / ours), str(tmp_path / back), "--to", "released"]) == 0
    same(read(tmp_path / back), {name: tensor for name, tensor in released.items() if name not in dropped})
    assert script.main([str(tmp_path / ours), str(tmp_path / back), "--to", "released", "--unused", str(RELEASED)]) == 0
    same(read(tmp_path / back), released)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_a_converted_checkpoint_has_the_same_outputs(script, tmp_path):
    for name in ("golden.json", "vocab.txt", "inputs.safetensors", "outputs.safetensors"):
        (tmp_path / name).symlink_to(VAST_TINY / name)
    assert script.main([str(RELEASED), str(tmp_path / "checkpoint.pt")]) == 0
    assert check(tmp_path).status == 0


@pytest.mark.parametrize("tower", ["evaclip_model", "clip_model", "video_encoder"])
def test_older_spellings(script, tmp_path, capsys, tower):
    released = torch.load(RELEASED, weights_only=True)
    torch.save({"model": {f"module.{older(name, tower)}": tensor for name, tensor in released.items()}}, tmp_path / "old.pt")
    assert script.main([str(tmp_path / "old.pt"), str(tmp_path / "new.pt"), "--to", "released"]) == 0
    same(read(tmp_path / "new.pt"), released)
    assert f"{sum(name.split('.')[0] != older(name, tower).split('.')[0] for name in released)} of" in capsys.readouterr().out


def test_ast_s_embeddings_lie_beside_it_in_the_release(script, tmp_path):
    released = {**load_file(GOLDENS / "encoders" / "ast" / "weights.safetensors"), "contra_head_a.linear.weight": torch.ones(2, 3)}
    assert sum(name.startswith("audio_embeddings.") for name in released) == 4
    torch.save(released, tmp_path / "in.pt")
    assert script.main([str(tmp_path / "in.pt"), str(tmp_path / "ours.pt")]) == 0
    ours = read(tmp_path / "ours.pt")
    assert all(name.startswith(("audio_encoder.", "contra_head_a.")) for name in ours)
    assert script.main([str(tmp_path / "ours.pt"), str(tmp_path / "back.pt"), "--to", "released"]) == 0
    same(read(tmp_path / "back.pt"), released)


def test_every_type_survives(script, tmp_path):
    given = {"a": torch.randn(3, 5).to(torch.bfloat16), "b": torch.randn(7).half(), "c": torch.tensor(3), "d": torch.tensor([True, False]),
             "e": torch.randn(0, 4), "f": torch.arange(6, dtype=torch.uint8).view(2, 3), "g": torch.randn(4, 6).t()}
    torch.save(given, tmp_path / "in.pt")
    assert script.main([str(tmp_path / "in.pt"), str(tmp_path / "mid.safetensors")]) == 0
    assert script.main([str(tmp_path / "mid.safetensors"), str(tmp_path / "out.bin"), "--to", "released"]) == 0
    same({name: tensor.contiguous() for name, tensor in given.items()}, read(tmp_path / "out.bin"))


def test_tied_tensors_are_stored_once(script, tmp_path):
    words = torch.randn(1000, 100)
    torch.save({"words": words, "decoder": words}, tmp_path / "in.pt")
    assert script.main([str(tmp_path / "in.pt"), str(tmp_path / "out.pt")]) == 0
    assert (tmp_path / "out.pt").stat().st_size < 1.1 * words.nbytes
    assert script.main([str(tmp_path / "in.pt"), str(tmp_path / "out.safetensors")]) == 0
    same(read(tmp_path / "out.safetensors"), {"words": words, "decoder": words})


def test_a_config_says_what_the_checkpoint_must_hold(script, tmp_path, capsys):
    golden = json.loads((VAST_TINY / "golden.json").read_text())
    sizes = golden["eva"]["vision_cfg"]
    model = {"vision_encoder_cfg": {key: sizes[key] for key in ("patch_size", "width", "layers", "head_width", "mlp_ratio")},
             "audio_encoder_cfg": {key: golden["beats"][key] for key in BEATS}, "text_encoder_type": "bert", "tokenizer": str(VAST_TINY),
             "text_encoder_cfg": golden["bert"], **golden["model_cfg"]}
    data = {"train": [{"name": "own", "task": "ret%tva", "txt": "a.json", "vision": "clips", "vision_sample_num": 2,
                       "audio_sample_num": 2, "steps": 1}]}
    config, out = tmp_path / "c.json", tmp_path / "out.pt"
    config.write_text(json.dumps({"model_cfg": model, "data_cfg": data}))
    assert script.main([str(RELEASED), str(out), "--config", str(config)]) == 0 and "fits the model of" in capsys.readouterr().out
    out.unlink()
    config.write_text(json.dumps({"model_cfg": {**model, "contra_dim": 25, "audio_encoder_type": None}, "data_cfg": {
        "train": [{**data["train"][0], "task": "ret%tv"}]}}))
    assert script.main([str(RELEASED), str(out), "--config", str(config)]) == 2 and not out.exists()
    error = capsys.readouterr().err
    assert "has unknown" in error and "audio_encoder." in error and "contra_head_t.linear.weight: file (24, 64), model (25, 64)" in error


def test_what_cannot_be_converted(script, tmp_path, capsys):
    evil, created = tmp_path / "evil.pt", tmp_path / "created"
    evil.write_bytes(pickle.dumps({"contra_temp": Creates(created)}, protocol=2))
    (tmp_path / "short.pt").write_bytes(RELEASED.read_bytes()[:5000])
    complex_numbers = tmp_path / "complex.pt"
    torch.save({"z": torch.zeros(2, dtype=torch.complex64)}, complex_numbers)
    for arguments, message in ((["gone.pt", "out.pt"], "no weights at gone.pt"),
                               ([str(RELEASED), "out.npz"], "expected a name that ends in .pt"),
                               ([str(evil), "out.pt"], "refused, because it holds more than tensors"),
                               ([str(tmp_path / "short.pt"), "out.pt"], "not a readable checkpoint"),
                               ([str(complex_numbers), "out.safetensors"], "z has type torch.complex64, which safetensors does not hold"),
                               ([str(RELEASED), "out.pt", "--unused", str(RELEASED)], "--unused goes with --to released"),
                               ([str(RELEASED), "out.pt", "--to", "released", "--unused", str(complex_numbers)], "no tensors without use")):
        target = tmp_path / arguments[1]
        assert script.main([arguments[0], str(target), *arguments[2:]]) == 2
        assert message in capsys.readouterr().err and not target.exists()
    assert script.main([str(complex_numbers), str(complex_numbers)]) == 2 and "is IN itself" in capsys.readouterr().err
    assert not created.exists() and not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_a_failed_write_leaves_what_was_there(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "out.pt").write_text("the one before")
    monkeypatch.setattr(script.torch, "save", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    assert script.main([str(RELEASED), str(tmp_path / "out.pt")]) == 2 and "No space left" in capsys.readouterr().err
    assert (tmp_path / "out.pt").read_text() == "the one before" and len(list(tmp_path.iterdir())) == 1


MEASURED = """
import re, sys
sys.path.insert(0, {folder!r})
from omnivast.scripts.tools import convert_checkpoint as script
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
seen = []
write = script._Counted.write
script._Counted.write = lambda self, data: (seen.append(anonymous()), write(self, data))[1]
for arguments in {runs!r}:
    before = anonymous()
    assert script.main(arguments) == 0
    print("MB more:", max(seen) - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc to measure memory")
def test_memory_does_not_grow_with_the_checkpoint(tmp_path):
    """12 tensors of 8 MB: the process's own memory, beside the files' pages, stays below a quarter of them."""
    state = {f"t{i}": torch.full((2**21,), float(i)) for i in range(12)}
    torch.save(state, tmp_path / "in.pt")
    save_file(state, tmp_path / "in.safetensors")
    kinds = (".pt", ".safetensors")
    runs = [[str(tmp_path / f"in{one}"), str(tmp_path / f"out{other}")] for one, other in zip(kinds, reversed(kinds))]
    run = subprocess.run([sys.executable, "-c", MEASURED.format(folder=str(ROOT), runs=runs)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    measured = [float(number) for number in re.findall(r"MB more: (.*)", run.stdout)]
    assert len(measured) == 2 and max(measured) < 24, measured
    for _, target in runs:
        same(read(Path(target)), state)
