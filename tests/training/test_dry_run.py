import logging
from dataclasses import replace

import pytest
import torch

from omnivast.config.schema import ModelConfig
from omnivast.model.recompute import remade, remaking
from omnivast.model.weights import towers
from omnivast.training import dry_run as check
from omnivast.training.dry_run import activations, dry_run, table
from tests.training.toy import Loader, Toy, config


class EvalSet:
    name, task, clips = "val", "ret%tv", 12


def test_report(tmp_path, caplog):
    caplog.set_level(logging.INFO, "omnivast")
    model = Toy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = dry_run(config(tmp_path, checkpoint=str(tmp_path / "absent.pt")), model, Loader(), [EvalSet()])
    # vision 6·8+8 and 8+8, text 8·8+8, heads 1, 8 and 8·3+3, frozen 8·8+8
    assert report["parameters"] == {"vision": {"total": 72, "trainable": 72}, "text": {"total": 72, "trainable": 72},
                                    "head": {"total": 108, "trainable": 36}, "all": {"total": 252, "trainable": 180}}
    memory = report["memory"]
    assert memory["gradients"] == 180 * 4 and memory["optimiser"] == 2 * 180 * 4
    assert memory["weights"] == (252 + 8 + 8) * 4 + 8
    assert memory["together, at least"] == sum(list(memory.values())[:-1]) and memory["activations of one batch"] > 0
    assert [c["rows"] for c in report["corpora"]] == [20, 20] and report["evaluation"][0]["clips"] == 12
    assert "absent.pt': NOT FOUND" in caplog.text and "8 optimiser steps of 2 batch(es)" in caplog.text
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_activations_are_those_that_backward_needs(tmp_path):
    class Square(Toy):
        def forward(self, batch, task, draws):
            x = batch.spectrograms.flatten() * self.contra_temp
            return {"loss": (x * x).sum()}

    # The product keeps its left factor (4·6 numbers), the square keeps x (4·6 numbers).
    assert activations(config(tmp_path), Square(), Loader(), torch.device("cpu")) == 2 * 4 * 6 * 4


def test_what_is_made_again_does_not_count(tmp_path):
    class Remade(Toy):
        def forward(self, batch, task, draws):
            scale = batch.spectrograms.flatten()
            with remaking():
                x = remade(lambda: scale * self.contra_temp)
                return {"loss": (x * x).sum()}

    # The product keeps its left factor (4·6 numbers), the square nothing.
    assert activations(config(tmp_path), Remade(), Loader(), torch.device("cpu")) == 4 * 6 * 4


def test_what_one_gpu_would_need(tmp_path, caplog):
    caplog.set_level(logging.INFO, "omnivast")
    (found,) = dry_run(config(tmp_path), Toy(), Loader(), [])["gpu"].values()
    assert "one GPU, 4 clips of 'corpus0'" in caplog.text and "batch in 80 GB" in caplog.text
    # Beside what is always there: the gradients of 180 parameters, at least.
    assert found["peak"] >= (252 + 8 + 8) * 4 + 8 + 2 * 180 * 4 + 180 * 4

    class Deciding(Toy):
        def forward(self, batch, task, draws):
            return super().forward(batch, task, draws) if self.contra_temp.item() > 0 else {}

    assert dry_run(config(tmp_path), Deciding(), Loader(), [])["gpu"] == {}
    assert "what one GPU would need cannot be told for this model" in caplog.text


def test_a_first_batch_without_finite_loss(tmp_path):
    loader = Loader()
    loader.poison = {0}
    with pytest.raises(ValueError, match="first batch of corpus corpus0.*not finite.*clip0.0.0"):
        dry_run(config(tmp_path), Toy(), loader, [])


def test_testing_needs_no_training_loader(tmp_path):
    assert "memory" not in dry_run(config(tmp_path, mode="testing"), Toy(), None, [EvalSet()])


def test_where_the_towers_start_from(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "omnivast")
    monkeypatch.setattr(towers, "WEIGHTS", tmp_path)
    (tmp_path / "beats").mkdir()
    (tmp_path / "beats" / "BEATs_iter3_plus_AS2M.pt").write_bytes(bytes(2**20))
    asked = config(tmp_path, mode="testing")
    dry_run(replace(asked, model_cfg=ModelConfig(vision_encoder_type=None)), Toy(), None, [EvalSet()])
    assert f"the audio encoder 'beats' starts from {tmp_path}/beats/BEATs_iter3_plus_AS2M.pt: found, 1.0 MiB" in caplog.text
    assert "the text encoder 'bert-base-uncased' starts from" in caplog.text and "model.safetensors: NOT FOUND" in caplog.text
    caplog.clear()
    dry_run(replace(asked, model_cfg=ModelConfig(pretrained=False)), Toy(), None, [EvalSet()])
    assert "the start is random (model_cfg.pretrained is false)" in caplog.text


def test_table():
    assert table(("a", "b"), [("long", "1")]).splitlines() == ["", "a     b", "----  -", "long  1"]


@pytest.mark.parametrize("parallel, accumulation, shared", [
    ("ddp", 1, ""), ("fsdp", 1, "weights gradients optimiser"), ("fsdp", 2, "weights optimiser"), ("deepspeed", 1, "optimiser gradients"),
])
def test_memory_of_a_share(tmp_path, monkeypatch, parallel, accumulation, shared):
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 2}}')
    run = config(tmp_path, parallel=parallel, gradient_accumulation_steps=accumulation,
                 deepspeed_config=str(tmp_path / "zero.json") if parallel == "deepspeed" else None)
    monkeypatch.setattr(check.distributed, "world_size", lambda: 4)
    monkeypatch.setattr(check, "activations", lambda *_: 100)
    found = check.memory(run, Toy(), Loader(), torch.device("cpu"))
    whole = {"weights": 252 * 4, "gradients": 180 * 4, "optimiser": 2 * 180 * 4}
    expected = {name: size // (4 if name in shared.split() else 1) for name, size in whole.items()}
    expected["weights"] += (8 + 8) * 4 + 8  # the buffers
    assert {name: found[name] for name in whole} == expected
    # The toy's towers have no lists of blocks: all of it is put together for a step.
    assert found.get("weights together in a step") == (252 * 4 if parallel == "fsdp" else None)
    assert found["together, at least"] == sum(size for name, size in found.items() if name != "together, at least")
