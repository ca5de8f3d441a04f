"""The comparison of losses: what is run in which order, and the tables of what was found."""

import dataclasses
import json

import pytest

from omnivast.config.load import load_config
from omnivast.scripts.omnistamps import compare_losses, loss_tables
from omnivast.scripts.omnistamps.loss_variants import TABLES, VARIANTS, Variant

CLIPS = [{"clip_id": f"c{n}", "stamps": {"seen": f"p{n % 2}", "heard": f"s{n}", "said": "w"}} for n in range(4)]


class FakeStages:
    """Writes down what would be run, and leaves the files that later stages look for."""

    def __init__(self, folder, total, fresh=False):
        self.total, self.trained, self.tested, self.commands = total, {}, {}, []

    def build(self, title, recipe):
        return "clips"

    def train(self, name, title, output, arguments, inputs):
        self.trained[name] = (load_config([*arguments, "--output_dir", str(output)]), inputs)
        path = output / "ckpt" / "model_step_3.pt"
        path.parent.mkdir(parents=True)
        path.write_text("weights")
        return path

    def test(self, name, title, output, arguments, weights, inputs):
        self.tested[name] = load_config(["--mode", "testing", *arguments, "--checkpoint", str(weights), "--output_dir", str(output)])
        (output / "results").mkdir(parents=True)
        (output / "results" / "found.ret.json").write_text(json.dumps({"name": name}))

    def command(self, name, title, command, inputs):
        self.commands.append(name)
        (out,) = (command[n + 1] for n, word in enumerate(command) if word == "--output")
        with open(out, "w") as file:
            file.write("{}")

    def side_by_side(self, lanes):
        for lane in lanes.values():
            lane()


@pytest.fixture
def run(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(compare_losses, "Stages", lambda *words, **options: made.append(FakeStages(*words, **options)) or made[-1])
    monkeypatch.setattr(compare_losses, "read_tables", lambda *_: {})
    monkeypatch.setattr(compare_losses, "as_markdown", lambda _: "table")

    def call(*words):
        assert compare_losses.main(["--folder", str(tmp_path), *words]) == 0
        return made[-1]

    return call


def test_every_variant_is_trained_and_tested_alike(run, capsys):
    stages = run("--seeds", "7", "--steps", "3")
    assert len(stages.trained) == len(VARIANTS)
    assert len(stages.trained) + len(stages.tested) + len(stages.commands) + 1 == stages.total
    base = stages.trained["train_vast_7"][0]
    for name, variant in VARIANTS.items():
        config, _ = stages.trained[f"train_{name}_7"]
        assert config.run_cfg.seed == 7 and config.run_cfg.num_train_steps == 3 * variant.times and config.model_cfg.itm_ratio == 0
        assert config.run_cfg.learning_rate == 0.008 and config.data_cfg.train[0].batch_size == base.data_cfg.train[0].batch_size
        assert config.data_cfg.train[0].task == "%".join(["ret", *variant.groups])
        test = stages.tested[f"test_{name}_7"]
        assert test.model_cfg == config.model_cfg and test.run_cfg.itm_rerank_num == 0
        assert test.data_cfg.val[0].task == "%".join(["ret", *variant.tested])
    assert stages.tested["test_vast_7_32"].model_cfg.index_dim == 32
    assert stages.trained["train_vast_pairs_7"][0].model_cfg.clip_pairs == {"va": 0.5, "vs": 0.5}


def test_negatives_are_mined_by_the_base_of_the_same_seed(run, tmp_path, capsys):
    stages = run("--tables", "losses", "--seeds", "7", "8", "--steps", "3")
    for seed in (7, 8):
        config, inputs = stages.trained[f"train_vast_mined_{seed}"]
        assert config.data_cfg.train[0].hard_negatives == str(tmp_path / f"hard_negatives_{seed}.json") and "hard_negatives" in inputs
        searched = stages.tested[f"train_found_{seed}"]
        assert searched.data_cfg.val[0].txt.endswith("ret_train.json") and searched.data_cfg.val[0].task == "ret%tvas"
    names = list(stages.trained)
    assert names.index("train_vast_mined_7") == names.index("train_vast_7") + 1  # in the same lane


def test_debug_has_few_steps(run, capsys):
    stages = run("--size", "debug", "--tables", "groups", "--seeds", "7")
    assert {config.run_cfg.num_train_steps for config, _ in stages.trained.values()} == {4}


def result(folder, name, found):
    """A test's result: each text's first clip, and whether that is its own; R@1 follows."""
    own = [{"clip_id": f"c{n}", "text": f"t{n}", **{group: {"top": [first[n]], "itc_rank": 1} for group, first in found.items()}}
           for n in range(4)]
    metrics = {group: {"itc": {"r1": 25.0 * sum(clip == f"c{n}" for n, clip in enumerate(first)), "r5": 100.0, "r10": 100.0}}
               for group, first in found.items()}
    path = folder / f"test_{name}" / "results" / "x.ret.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"metrics": metrics, "predictions": own, "protocol": {"clips": 4}}))


@pytest.fixture
def found(tmp_path):
    (tmp_path / "clips.json").write_text(json.dumps(CLIPS))
    (tmp_path / "ceilings.json").write_text(json.dumps({key: {"r1": 50.0} for key in loss_tables.KEYS}))
    right, turned = ["c0", "c1", "c2", "c3"], ["c2", "c3", "c0", "c1"]  # turned: the right pictures, the wrong sounds
    for seed, v, va in ((1, right, turned), (2, turned, right), (3, right, right)):
        result(tmp_path, f"vast_{seed}", {"tv": v, "tva": va})
    result(tmp_path, "vast_1_16", {"tv": right, "tva": turned})
    for seed in (1, 2, 3):
        result(tmp_path, f"valor_{seed}", {"tv": turned})
    variants = {"vast": Variant("VAST", dimensions=(16,)), "valor": Variant("VALOR", groups=("tv",)), "gram": Variant("GRAM")}
    return loss_tables.read_tables(tmp_path, tmp_path, {"losses": variants}, [1, 2, 3], "vast")


def test_numbers_by_seed(found):
    row = found["tables"]["losses"]["vast"]
    assert row["r1"] == {"v": {1: 100.0, 2: 0.0, 3: 100.0}, "va": {1: 0.0, 2: 100.0, 3: 100.0}}
    assert row["facts"] == {"v": dict.fromkeys((1, 2, 3), 100.0), "va": {1: 0.0, 2: 100.0, 3: 100.0}}
    assert row["dimensions"]["16"]["facts"] == {"v": {1: 100.0}, "va": {1: 0.0}} and found["protocol"]["vast_2"] == {"clips": 4}
    assert found["tables"]["losses"]["gram"]["r1"] == {} and found["tables"]["losses"]["valor"]["trained"] == ["v"]


def test_intervals():
    # Standard deviation 10, over the root of 3, times 4.303.
    assert loss_tables.interval([10.0, 20.0, 30.0]) == pytest.approx((20.0, 24.84), abs=0.01)
    assert loss_tables.interval([5.0])[0] == 5.0 and str(loss_tables.interval([5.0])[1]) == "nan"


def test_the_tables_say_what_is_absent_and_what_is_clear(found):
    text = loss_tables.as_markdown(found)
    # Of v the mean 66.7, deviation 57.7; means over both groups 50, 50, 100.
    assert "| VAST | 66.7 ± 143.4 | 66.7 ± 143.4 | 66.7 ± 71.7 | 3 |" in text
    assert "| VALOR | 0.0 ± 0.0 | – | 0.0 ± 0.0 | 3 |" in text and "GRAM" not in text
    assert "| VALOR | -66.7 ± 143.4 | – | -66.7 ± 143.4 | 3 |" in text
    assert "| VAST | 100.0 ± 0.0 | 66.7 ± 143.4 | 83.3 ± 71.7 | 3 |" in text  # facts
    assert "| ceiling | 50.0 | 50.0 | 50.0 | |" in text and "| VAST | 83.3 ± 71.7 | 50.0 |" in text


def test_differences_that_do_not_hold_0_are_bold(found):
    rows = found["tables"]["losses"]
    rows["valor"]["facts"]["v"] = {1: 99.0, 2: 98.0, 3: 99.0}
    assert "| VALOR | -1.3 ± 1.4 | – | -1.3 ± 1.4 | 3 |" in loss_tables.as_markdown(found)
    rows["valor"]["facts"]["v"] = {1: 98.0, 2: 97.9, 3: 98.1}
    assert "| VALOR | **-2.0 ± 0.2** | – | **-2.0 ± 0.2** | 3 |" in loss_tables.as_markdown(found)


def test_seeds_that_are_absent_are_not_compared(found):
    rows = found["tables"]["losses"]
    rows["valor"]["facts"]["v"] = {2: 90.0, 3: 90.0, 4: 10.0}
    assert "| VALOR | **-10.0 ± 0.0** | – | **-10.0 ± 0.0** | 2 |" in loss_tables.as_markdown(found)


def test_variants_of_one_name_are_one_run():
    """In several tables, where they may be called otherwise."""
    for table in TABLES.values():
        for name, variant in table.items():
            assert dataclasses.replace(variant, words="") == dataclasses.replace(VARIANTS[name], words="")
