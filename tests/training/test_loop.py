import json
import os
import signal
import threading

import pytest
import torch

from omnivast.training.checkpoints.checkpoint import OutputDirError
from omnivast.training.logs.monitor import Ranking, UnreadableShare, primary_metric
from omnivast.training.loop import SKIPS_IN_A_ROW, NonFiniteLoss, Trainer, spread, train
from omnivast.training.optim import build_optimizer, set_learning_rate
from omnivast.training.stop import StopSignals
from omnivast.utils.goodput import goodput
from omnivast.utils.log import read_jsonl
from omnivast.utils.random import StepRandom, seed_everything
from tests.training.toy import Loader, Toy, config

UNTIMED = ("step", "corpus", "epoch", "loss", "losses", "lr", "grad_norm")


def metrics(folder):
    return [{name: row[name] for name in UNTIMED} for row in read_jsonl(folder / "log" / "metrics.jsonl")]


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def scores(step):
    return {"toy.cap.tv.cider": -float(step), "toy.ret.tv.itc.r1": float(step), "toy.ret.tv.itm.r1": {4: 30.0, 8: 20.0}.get(step, 1.0)}


class KilledError(Exception):
    pass


def kill_at(loader, step):
    def on_step(now):
        if now == step:
            raise KilledError
    loader.on_step = on_step


def test_a_run(tmp_path):
    loader, model = Loader(), Toy()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    summary = train(config(tmp_path, save_best=True, first_eval=True, tensorboard=True), model, loader, evaluate=scores)
    assert summary["step"] == 8 and summary["resumed_from"] is None
    assert summary["best"] == {"step": 4, "metric": "toy.ret.tv.itm.r1", "value": 30.0}
    rows = read_jsonl(tmp_path / "log" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert {row["corpus"] for row in rows} == {"corpus0", "corpus1"}
    assert rows[0]["losses"].keys() == {"loss", "itc"} and rows[1]["losses"].keys() == {"loss", "itc", "cap"}
    assert rows[0]["lr"].keys() == {"vision", "text", "head"} and rows[0]["lr"]["vision"] == rows[0]["lr"]["text"] / 2
    assert rows[7]["epoch"] == pytest.approx(4 * 8 / 20)
    assert all(row["clips_per_second"] > 0 and 0 <= row["data_wait"] <= 1 and row["grad_norm"] > 0 for row in rows)
    assert [row["step"] for row in read_jsonl(tmp_path / "log" / "eval.jsonl")] == [0, 4, 8]
    assert sorted(p.name for p in (tmp_path / "ckpt").iterdir()) == ["best.json", "best_toy.ret.tv.itm.r1.pt", "latest.json",
                                                                    "model_step_8.pt", "state_step_8.pt"]
    assert json.loads((tmp_path / "ckpt" / "best.json").read_text())["metrics"] == scores(4)
    assert any((tmp_path / "log" / "tensorboard").iterdir())
    after = model.state_dict()
    same(torch.load(tmp_path / "ckpt" / "model_step_8.pt"), after)
    assert torch.equal(start["frozen.weight"], after["frozen.weight"])
    assert not torch.equal(start["caption_head.weight"], after["caption_head.weight"])


def test_what_a_killed_and_resumed_run_tells_of_its_time(tmp_path):
    loader = Loader()
    kill_at(loader, 6)
    with pytest.raises(KilledError):
        train(config(tmp_path, profile="2"), Toy(), loader)
    assert (tmp_path / "log" / "profile" / "rank_0.json.gz").is_file()
    summary = train(config(tmp_path, resume=True), Toy(), Loader(), evaluate=scores)
    rows = read_jsonl(tmp_path / "log" / "wall.jsonl")
    assert [(row["event"], row["step"]) for row in rows] == [
        ("start", 0), ("ready", 0), ("save", 4), ("start", 4), ("evaluation", 4), ("ready", 4), ("save", 8), ("evaluation", 8), ("end", 8)]
    found = goodput(rows)
    assert found["starts"] == 2 and found["trained"] == rows[-1]["trained"] == summary["seconds"] and 0 < found["goodput"] < 1
    (row,) = read_jsonl(tmp_path / "log" / "performance.jsonl")
    assert row["step"] == 8 and row["steps"] == 4 and row["processes"][0]["clips"] == {"corpus0": 16, "corpus1": 16}
    train(config(tmp_path / "other", tensorboard=True), Toy(), Loader())
    assert len(read_jsonl(tmp_path / "other" / "log" / "wall.jsonl")) == 5


def test_the_flops_of_a_step_are_known_without_computing_one(tmp_path):
    loader, model = Loader(), Toy()
    trainer = Trainer(config(tmp_path), model, loader, None, torch.device("cpu"), StopSignals())
    found = trainer.flops(next(loader.batches(0)))
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer is not model.caption_head]
    # Forward and backward of 4 clips; the first layer's input needs no gradient, nor do the frozen layer's weights.
    assert found == sum(3 * 2 * 4 * layer.weight.numel() for layer in layers) - 2 * 4 * (6 * 8 + 8 * 8)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_step_is_the_mean_over_its_batches_clipped(tmp_path):
    run = config(tmp_path, grad_norm=0.01)
    looped, loader = Toy(dropout=0.0), Loader(total=1)
    train(run, looped, loader)
    by_hand = Toy(dropout=0.0)
    optimizer = build_optimizer(by_hand, run.run_cfg)
    set_learning_rate(optimizer, 1, 1, run.run_cfg)
    seed_everything(run.run_cfg.seed, "step", 0, 0)
    total = 0.0
    for micro, batch in enumerate(loader.batches(0)):
        total = total + by_hand(batch, loader.task(batch.corpus), StepRandom(run.run_cfg.seed, micro))["loss"]
    (total / 2).backward()
    torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 0.01)
    optimizer.step()
    for name, value in looped.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name], rtol=1e-5, atol=1e-7)
    assert metrics(tmp_path)[0]["loss"] == pytest.approx(total.item() / 2)


@pytest.mark.parametrize("kill", [0, 3, 4, 5, 7])
def test_a_resumed_run_is_bit_identical(tmp_path, kill):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    model = Toy()
    train(config(unbroken, save_every=3, save_best=True, first_eval=True), model, Loader(), evaluate=scores)
    loader = Loader()
    kill_at(loader, kill)
    with pytest.raises(KilledError):
        train(config(broken, save_every=3, save_best=True, first_eval=True), Toy(), loader, evaluate=scores)
    torch.manual_seed(123)
    resumed = Toy()
    with torch.no_grad():
        resumed.text_encoder.weight += 0.0 if kill < 3 else 1.0
    summary = train(config(broken, save_every=3, save_best=True, first_eval=True, resume=True), resumed, Loader(), evaluate=scores)
    assert summary["resumed_from"] == {0: None, 3: 3, 4: 4, 5: 4, 7: 6}[kill]
    same(model.state_dict(), resumed.state_dict())
    assert metrics(unbroken) == metrics(broken)
    assert read_jsonl(unbroken / "log" / "eval.jsonl") == read_jsonl(broken / "log" / "eval.jsonl")
    assert (unbroken / "ckpt" / "best.json").read_text() == (broken / "ckpt" / "best.json").read_text()
    same(*(torch.load(folder / "ckpt" / "best_toy.ret.tv.itm.r1.pt") for folder in (unbroken, broken)))
    one, other = (torch.load(f / "ckpt" / "state_step_8.pt") for f in (unbroken, broken))
    for index, values in one["optimizer"]["state"].items():
        assert all(torch.equal(value, other["optimizer"]["state"][index][name]) for name, value in values.items())


def test_killed_within_an_evaluation_it_is_made_up_for(tmp_path):
    def killed(step):
        raise KilledError

    with pytest.raises(KilledError):
        train(config(tmp_path, save_best=True), Toy(), Loader(), evaluate=killed)
    steps = []
    again = config(tmp_path, save_best=True, resume=True)
    summary = train(again, Toy(), Loader(), evaluate=lambda step: steps.append(step) or scores(step))
    assert summary["resumed_from"] == 4 and steps == [4, 8]
    assert summary["best"]["step"] == 4
    assert train(config(tmp_path, resume=True), Toy(), Loader(), evaluate=lambda step: steps.append(step) or {})["metrics"] == scores(8)
    assert steps == [4, 8]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_saves_and_exits_with_its_code(tmp_path, number, code):
    loader = Loader()
    loader.on_step = lambda step: os.kill(os.getpid(), number) if step == 2 else None
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        train(config(tmp_path), Toy(), loader)
    assert stopped.value.code == code and signal.getsignal(number) is before
    assert json.loads((tmp_path / "ckpt" / "latest.json").read_text())["step"] == 3


def test_a_signal_within_an_evaluation_exits_at_once(tmp_path):
    def evaluate(step):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not reached")

    with pytest.raises(SystemExit) as stopped:
        train(config(tmp_path), Toy(), Loader(), evaluate=evaluate)
    assert stopped.value.code == 143
    assert json.loads((tmp_path / "ckpt" / "latest.json").read_text())["step"] == 4


def test_a_signal_shortly_before_an_evaluation_exits_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "restore", lambda self: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(SystemExit) as stopped:
        train(config(tmp_path, resume=True, first_eval=True), Toy(), Loader(), evaluate=lambda step: pytest.fail("not reached"))
    assert stopped.value.code == 138


def test_training_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(config(tmp_path), Toy(), Loader())["step"]))
    thread.start()
    thread.join()
    assert results == [8]


def test_a_nonfinite_loss_stops_with_the_clips_saved(tmp_path):
    loader, model = Loader(), Toy()
    loader.poison = {2}
    with pytest.raises(NonFiniteLoss, match="step 3.*corpus0.*itc.*nonfinite_step_3.json.*--resume true"):
        train(config(tmp_path, save_every=2, max_nonfinite_steps=0), model, loader)
    details = json.loads((tmp_path / "log" / "nonfinite_step_3.json").read_text())
    assert details["clip_ids"] == [[[f"clip2.{micro}.{i}" for i in range(4)] for micro in range(2)]]
    assert details["losses"]["itc"] == "nan"
    saved = torch.load(tmp_path / "ckpt" / "model_step_2.pt")
    assert torch.equal(model.text_encoder.weight, saved["text_encoder.weight"])


def test_a_nonfinite_gradient_stops_too(tmp_path):
    model = Toy()
    model.text_encoder.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteLoss, match="gradient norm"):
        train(config(tmp_path, max_nonfinite_steps=0), model, Loader())
    assert json.loads((tmp_path / "log" / "nonfinite_step_1.json").read_text())["not_finite"] == "gradient"


def test_a_nonfinite_loss_on_a_full_disk_is_a_clear_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("omnivast.training.logs.nonfinite.write_atomically", full)
    loader = Loader()
    loader.poison = {2}
    with pytest.raises(OutputDirError, match="step 3: the loss is not finite.*nonfinite_step_3.json.*No space left.*checkpoint is intact"):
        train(config(tmp_path), Toy(), loader)


def test_nonfinite_steps_are_left_out_up_to_their_limit(tmp_path, caplog):
    """Losses at steps 3 and 5, a gradient at step 6; nothing that the steps did stays, running statistics included."""
    loader, model, states = Loader(), Toy(), {}
    loader.poison = {2, 4}
    loader.on_step = lambda step: states.update({step: {name: value.clone() for name, value in model.state_dict().items()}})
    model.text_encoder.weight.register_hook(lambda grad: grad * float("inf") if max(states) == 5 else grad)
    train(config(tmp_path, max_nonfinite_steps=3, valid_freq=0), model, loader)
    states[8] = model.state_dict()
    for step in range(8):
        unchanged = all(torch.equal(value, states[step + 1][name]) for name, value in states[step].items())
        assert unchanged == (step in (2, 4, 5)), step
    assert all(value.isfinite().all() for value in states[8].values())
    rows = read_jsonl(tmp_path / "log" / "metrics.jsonl")
    assert [row["nonfinite_steps"] for row in rows] == [0, 0, 1, 1, 2, 3, 3, 3]
    assert [row["loss"] is None for row in rows] == [step in (2, 4) for step in range(8)]
    assert sorted(path.name for path in (tmp_path / "log").glob("nonfinite*")) == [f"nonfinite_step_{n}.json" for n in (3, 5, 6)]
    assert "step 6 (corpus corpus1): the gradient norm is not finite" in caplog.text and "(3 of at most 3 such steps" in caplog.text
    assert torch.load(tmp_path / "ckpt" / "state_step_8.pt")["counters"]["nonfinite"] == 3


def test_nonfinite_steps_are_counted_across_an_interruption(tmp_path):
    def loader(kill=None):
        made = Loader()
        made.poison = {1, 5, 6}
        if kill is not None:
            kill_at(made, kill)
        return made

    unbroken, resumed = Toy(), Toy()
    train(config(tmp_path / "unbroken"), unbroken, loader())
    with pytest.raises(KilledError):
        train(config(tmp_path / "broken"), Toy(), loader(kill=5))
    train(config(tmp_path / "broken", resume=True), resumed, loader())
    same(unbroken.state_dict(), resumed.state_dict())
    assert metrics(tmp_path / "unbroken") == metrics(tmp_path / "broken")
    with pytest.raises(NonFiniteLoss, match="step 7 .*2 such step.s. before it were left out, as many as max_nonfinite_steps allows"):
        train(config(tmp_path / "limited", max_nonfinite_steps=2), Toy(), loader())
    train(config(tmp_path / "limited", max_nonfinite_steps=3, resume=True), limited := Toy(), loader())
    same(unbroken.state_dict(), limited.state_dict())


def test_loss_spikes_are_logged_with_their_clips_by_a_resumed_run_too(tmp_path, caplog):
    def run(folder, kill=None, **settings):
        loader, model, now = Loader(total=80), Toy(), []

        def on_step(step):
            now.append(step)
            if step == kill:
                raise KilledError

        def louder(module, given, losses):
            return {name: value + (5.0 if now[-1] in (41, 60) else 0.0) for name, value in losses.items()}

        loader.on_step = on_step
        model.register_forward_hook(louder)
        train(config(tmp_path / folder, save_every=25, **settings), model, loader)

    run("unbroken")
    rows = read_jsonl(tmp_path / "unbroken" / "log" / "loss_spikes.jsonl")
    assert [(row["step"], row["corpus"]) for row in rows] == [(42, "corpus1"), (61, "corpus0")]
    assert rows[0]["clip_ids"] == [[[f"clip41.{micro}.{i}" for i in range(4)] for micro in range(2)]]
    assert rows[0]["loss"] > rows[0]["threshold"] > rows[0]["median"] and rows[0]["losses"].keys() == {"loss", "itc", "cap"}
    assert "step 42 (corpus corpus1): the loss" in caplog.text
    for kill in (55, 70):
        with pytest.raises(KilledError):
            run("broken", kill, resume=True)
    run("broken", resume=True)
    assert read_jsonl(tmp_path / "broken" / "log" / "loss_spikes.jsonl") == rows
    run("off", loss_spike_factor=0.0)
    assert read_jsonl(tmp_path / "off" / "log" / "loss_spikes.jsonl") == []


def scaled(folder, model, loader, **run):
    """A training with a gradient scaler, which torch has for the CPU as well."""
    trainer = Trainer(config(folder, precision="fp16", **run), model, loader, None, torch.device("cpu"), StopSignals())
    return trainer.run()


def test_an_fp16_overflow_skips_the_step_and_halves_the_scale(tmp_path):
    model, weights, loader = Toy(), {}, Loader(total=3)
    model.text_encoder.weight.register_hook(lambda grad: grad * float("inf") if 1 in weights and 2 not in weights else grad)
    loader.on_step = lambda step: weights.update({step: model.text_encoder.weight.clone()})
    scaled(tmp_path, model, loader, valid_freq=0)
    rows = read_jsonl(tmp_path / "log" / "metrics.jsonl")
    assert [row["skipped"] for row in rows] == [False, True, False]
    assert [row["scale"] for row in rows] == [65536.0, 32768.0, 32768.0]
    assert rows[1]["grad_norm"] is None and rows[0]["grad_norm"] < 10
    assert torch.equal(weights[1], weights[2]) and not torch.equal(weights[0], weights[1])


def test_fp16_resumes_with_its_scale(tmp_path):
    loader, unbroken, resumed = Loader(), Toy(), Toy()
    scaled(tmp_path / "unbroken", unbroken, Loader())
    kill_at(loader, 5)
    with pytest.raises(KilledError):
        scaled(tmp_path / "broken", Toy(), loader)
    scaled(tmp_path / "broken", resumed, Loader(), resume=True)
    same(unbroken.state_dict(), resumed.state_dict())


def test_fp16_that_only_overflows_stops(tmp_path):
    model = Toy()
    model.text_encoder.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteLoss, match=f"step {SKIPS_IN_A_ROW + 1} .*gradient norm"):
        scaled(tmp_path, model, Loader(total=40))


def test_unreadable_clips_are_listed_and_fatal_past_their_share(tmp_path, caplog):
    loader = Loader(total=40, batch_size=8)
    loader.unreadable = {0: 1, 5: 1}
    train(config(tmp_path / "few", max_unreadable=0.05), Toy(), loader)
    rows = read_jsonl(tmp_path / "few" / "log" / "unreadable.jsonl")
    assert rows == [{"step": s + 1, "corpus": f"corpus{s % 2}", "clip_id": f"bad{s}.0", "reason": "not a video"} for s in (0, 5)]
    assert "'bad0.0' of corpus0: not a video" in caplog.text
    loader.unreadable = dict.fromkeys(range(40), 1)
    with pytest.raises(UnreadableShare, match=r"6 of 102 training clips \(5.9 %\).*max_unreadable = 5 %.*unreadable.jsonl.*_changed_data"):
        train(config(tmp_path / "many", max_unreadable=0.05), Toy(), loader)
    assert len(read_jsonl(tmp_path / "many" / "log" / "unreadable.jsonl")) == 6


def test_log_steps(tmp_path):
    train(config(tmp_path, log_steps=3), Toy(), Loader())
    assert [row["step"] for row in metrics(tmp_path)] == [3, 6, 8]


def test_zero_shot_evaluates_and_stops(tmp_path):
    model = Toy()
    summary = train(config(tmp_path, zero_shot=True), model, Loader(), evaluate=scores)
    assert summary["step"] == 0 and summary["metrics"] == scores(0) and summary["best"] is None
    assert not list((tmp_path / "ckpt").iterdir()) and metrics(tmp_path) == []


def test_evaluation_and_training_modes(tmp_path):
    model, modes = Toy(), []
    train(config(tmp_path), model, Loader(), evaluate=lambda step: modes.append((model.training, torch.is_grad_enabled())) or {})
    assert modes == [(False, False)] * 2 and model.training


def test_refusals_before_training(tmp_path):
    train(config(tmp_path, num_train_steps=8), Toy(), Loader())
    with pytest.raises(ValueError, match="already holds a run"):
        train(config(tmp_path), Toy(), Loader())
    with pytest.raises(RuntimeError, match="run_cfg.seed: 50, now 51"):
        train(config(tmp_path, num_train_steps=8, seed=51, resume=True), Toy(), Loader())
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        train(config(tmp_path / "other", precision="fp16"), Toy(), Loader())
    other = Toy()
    other.caption_head = torch.nn.Linear(8, 4)
    with pytest.raises(RuntimeError, match="does not fit this model"):
        train(config(tmp_path, num_train_steps=8, resume=True), other, Loader())


def test_a_loader_that_ends_early(tmp_path):
    loader = Loader()
    loader.batches = lambda start: iter([])
    with pytest.raises(RuntimeError, match="the loader ended in step 1 of 8"):
        train(config(tmp_path), Toy(), loader)


def test_spread():
    assert spread(10, 2) == [5, 10]
    assert spread(10, 3) == [3, 7, 10]
    assert spread(10, 0) == [10]
    assert spread(3, 10) == [1, 2, 3]


def test_primary_metric():
    assert primary_metric({"a.cap.tv.cider": 1, "a.ret.tv.itc.r5": 2, "a.ret.tv.itc.r1": 2, "b.ret.tva.itm.r1": 3}) == "b.ret.tva.itm.r1"
    assert primary_metric({"a.qa.tv.accuracy": 1, "a.cap.tv.bleu4": 2, "a.cap.tv.cider": 2}) == "a.cap.tv.cider"
    assert primary_metric({"x": 1, "y": 2}) == "x" and primary_metric({}) is None
    # What only looks like it: another metric, and a dataset that is called so.
    assert primary_metric({"a.ret.tv.itm.r10": 1, "a.ret.tv.itc.r1": 2}) == "a.ret.tv.itc.r1"
    assert primary_metric({"cider.qa.tv.accuracy_normalised": 1, "b.qa.tv.accuracy": 2}) == "b.qa.tv.accuracy"


def test_of_some_metrics_less_is_better():
    ranking = Ranking()
    for step, rank in ((1, 9.0), (2, 4.0), (3, 4.0)):
        ranking.add(step, {"a.ret.tv.itc.median_rank": rank})
    assert ranking.steps() == [2, 3, 1] and ranking.best == {"step": 2, "metric": "a.ret.tv.itc.median_rank", "value": 4.0}


