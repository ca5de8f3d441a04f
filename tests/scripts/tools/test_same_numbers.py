import copy
import json

import pytest
import torch

from scripts.tools.same_numbers import collect, differences

STEPS = [
    {"step": 1, "loss": 2.5, "losses": {"itc": 1.5, "cap": 1.0}, "grad_norm": 0.75, "seconds": 1.0, "data_wait": 0.5},
    {"step": 2, "loss": 2.25, "losses": {"itc": 1.5, "cap": 0.75}, "grad_norm": float("nan"), "seconds": 2.0, "data_wait": 0.25},
]
RESULT = {"protocol": {"checkpoint": "a.pt"}, "metrics": {"tv": {"cider": 10.0}}, "predictions": [{"clip_id": "c0", "tv": "a bird sings"}]}


def output(folder, steps=STEPS, result=RESULT, weight=1.0, moment=0.5):
    """What run.py leaves in its output folder."""
    for name in ("log", "results/step_2", "ckpt"):
        (folder / name).mkdir(parents=True)
    (folder / "log" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    (folder / "results" / "step_2" / "d.cap.json").write_text(json.dumps(result))
    (folder / "ckpt" / "latest.json").write_text(json.dumps({"step": 2}))
    torch.save({"layer.weight": torch.full((2, 3), weight, dtype=torch.bfloat16), "scale": torch.tensor(1.0)},
               folder / "ckpt" / "model_step_2.pt")
    state = {"optimizer": {"state": {0: {"exp_avg": torch.tensor([moment])}}}, "config_hash": str(folder)}
    torch.save(state, folder / "ckpt" / "state_step_2.pt")
    return {"debug": collect(folder)}


@pytest.fixture
def base(tmp_path):
    return output(tmp_path / "base")


def test_equal_but_for_times_and_places(base, tmp_path):
    steps = [{**row, "seconds": 9.0, "data_wait": 0.0} for row in STEPS]
    assert differences(base, output(tmp_path / "head", steps, {**RESULT, "protocol": {"checkpoint": "b.pt"}})) == {}


def test_another_loss_at_a_step(base, tmp_path):
    steps = copy.deepcopy(STEPS)
    steps[1]["losses"]["cap"] = 0.7500000000000001
    assert differences(base, output(tmp_path / "head", steps)) == {"debug": ["debug, step 2: losses.cap: 0.75 != 0.7500000000000001"]}


def test_a_step_is_missing(base, tmp_path):
    head = output(tmp_path / "head", STEPS[:1])
    lines = ["debug, step 2: loss: 2.25 != absent", "debug, step 2: losses.itc: 1.5 != absent", "debug, step 2: losses.cap: 0.75 != absent",
             "debug, step 2: grad_norm: nan != absent"]
    assert differences(base, head) == {"debug": lines}
    assert len(differences(head, base)["debug"]) == 4


def test_another_caption(base, tmp_path):
    head = output(tmp_path / "head", result={**RESULT, "predictions": [{"clip_id": "c0", "tv": "a bird"}]})
    assert differences(base, head) == {"debug": ["debug, results/step_2/d.cap: predictions.0.tv: 'a bird sings' != 'a bird'"]}


def test_another_weight_and_another_moment(base, tmp_path):
    lines = differences(base, output(tmp_path / "head", weight=1.0078125, moment=0.25))["debug"]
    assert [line.split(", sha256")[0] for line in lines] == ["debug, weights: layer.weight: 'bfloat16 [2, 3], largest 1.0",
                                                            "debug, state: optimizer.state.0.exp_avg: 'float32 [1], largest 0.5"]
    assert "largest 1.0078125" in lines[0]


def test_minus_zero_and_a_missing_run(base):
    assert differences({"a": {"x": 0.0}}, {"a": {"x": -0.0}}) == {"a": ["a, x: 0.0 != -0.0"]}
    assert list(differences(base, {})) == ["debug"]
