"""Averaged weights: what they are, that they are saved and taken up again exactly, and that evaluation can use them."""

import json

import pytest
import torch

from omnivast.config.checks import check
from omnivast.config.fields import ConfigError
from omnivast.training.averaging import WeightAverage
from omnivast.training.checkpoints.checkpoint import CheckpointError, load_latest
from omnivast.training.engines.base import Engine
from omnivast.training.loop import train
from tests.training.test_loop import KilledError, kill_at, same, scores
from tests.training.toy import Loader, Toy, config


def weights(folder, kind, step=8):
    return torch.load(folder / "ckpt" / f"{kind}_step_{step}.pt", weights_only=True)


def test_the_average_is_that_of_the_weights_after_each_step(tmp_path):
    engine = Engine(Toy(), config(tmp_path).run_cfg, torch.device("cpu"))
    weight, average = engine.model.caption_head.weight, WeightAverage(engine, 0.9)
    wanted = weight.detach().clone()
    for step in range(1, 201):
        with torch.no_grad():
            weight.add_(0.1)
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * weight.detach()
    frozen, now = engine.model.frozen.weight.clone(), weight.detach().clone()
    assert torch.allclose(average.state_dict()["caption_head.weight"], wanted, atol=1e-4) and torch.equal(weight, now)
    with average.swapped():
        assert torch.allclose(weight, wanted, atol=1e-4) and torch.equal(engine.model.frozen.weight, frozen)
    assert torch.equal(weight, now)


@pytest.mark.parametrize("settings", [{}, {"async_save": True}], ids=["", "in the background"])
def test_a_resumed_run_has_the_average_of_an_unbroken_one_to_the_bit(tmp_path, settings):
    train(config(tmp_path / "plain"), Toy(), Loader())
    train(config(tmp_path / "whole", ema_decay=0.8, **settings), Toy(), Loader())
    same(weights(tmp_path / "whole", "model"), weights(tmp_path / "plain", "model"))  # it leaves the training as it is
    assert not torch.equal(weights(tmp_path / "whole", "ema")["caption_head.weight"],
                           weights(tmp_path / "whole", "model")["caption_head.weight"])
    loader = Loader()
    kill_at(loader, 6)
    with pytest.raises(KilledError):
        train(config(tmp_path / "parts", ema_decay=0.8, **settings), Toy(), loader)
    assert load_latest(tmp_path / "parts" / "ckpt").step == 4
    train(config(tmp_path / "parts", ema_decay=0.8, resume=True, **settings), Toy(), Loader())
    for kind in ("model", "ema"):
        same(weights(tmp_path / "parts", kind), weights(tmp_path / "whole", kind))
    assert sorted(path.name for path in (tmp_path / "parts" / "ckpt").iterdir()) == [
        "ema_step_8.pt", "latest.json", "model_step_8.pt", "state_step_8.pt"]


def test_a_damaged_average_is_a_damaged_checkpoint(tmp_path):
    train(config(tmp_path, ema_decay=0.8), Toy(), Loader())
    path = tmp_path / "ckpt" / "ema_step_8.pt"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="ema_step_8.pt' is truncated"):
        load_latest(tmp_path / "ckpt")


def test_a_run_without_one_may_begin_one(tmp_path, caplog):
    loader = Loader()
    kill_at(loader, 6)
    caplog.set_level("INFO", "omnivast")
    with pytest.raises(KilledError):
        train(config(tmp_path), Toy(), loader)
    train(config(tmp_path, ema_decay=0.8, resume=True), Toy(), Loader())
    assert "the average begins with its weights" in caplog.text
    state = torch.load(tmp_path / "ckpt" / "state_step_8.pt", weights_only=True)
    assert state["averaged_steps"] == 4 and "averaged" not in state


def test_evaluations_and_the_best_model_are_of_the_average_where_asked(tmp_path):
    model, seen = Toy(), {}

    def evaluate(step):
        seen[step] = {name: value.clone() for name, value in model.state_dict().items()}
        return scores(step)

    train(config(tmp_path, ema_decay=0.8, ema_evaluate=True, save_best=True, keep_last=9), model, Loader(), evaluate=evaluate)
    for step in (4, 8):
        same(seen[step], weights(tmp_path, "ema", step))
    same(model.state_dict(), weights(tmp_path, "model"))
    assert json.loads((tmp_path / "ckpt" / "best.json").read_text())["step"] == 4
    assert (tmp_path / "ckpt" / "best_toy.ret.tv.itm.r1.pt").read_bytes() == (tmp_path / "ckpt" / "ema_step_4.pt").read_bytes()


@pytest.mark.parametrize(("settings", "message"), [
    ({"ema_decay": 0.9, "parallel": "deepspeed", "deepspeed_config": __file__}, "ema_decay: DeepSpeed"),
    ({"ema_evaluate": True}, "no averaged weights: set run_cfg.ema_decay"),
    ({"profile": "five"}, "profile 'five': expected the steps")])
def test_what_cannot_be_is_refused_before_the_run(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        check(config(tmp_path, **settings), tmp_path / "config.json")
