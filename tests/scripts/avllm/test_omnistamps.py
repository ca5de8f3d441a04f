"""The recipe's command lines, and what it says where the language model is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnivast.config.load import load_config
from omnivast.scripts.avllm import omnistamps
from omnivast.scripts.avllm.omnistamps import Conversing, packaged_llm, parser
from omnivast.scripts.omnistamps.stages import StageError


@pytest.fixture
def llm(tmp_path):
    path = tmp_path / "llm.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage2_full", "blind"])
def test_paths_of_a_call_replace_those_of_the_configs(name, tmp_path, llm):
    recipe = Conversing("quick", Path("/clips"), 7, tmp_path, llm)
    train = load_config([*recipe.training(recipe.of(name)), "--output_dir", str(tmp_path / "run")])
    dataset = train.data_cfg.train[0]
    assert train.model_cfg.llm == str(llm) and train.run_cfg.num_train_steps == 7 and not train.data_cfg.val
    assert dataset.txt.startswith(str(tmp_path / "conversations")) and dataset.vision == "/clips/clips"


def test_a_test_reads_swapped_clips_from_the_folder(tmp_path, llm):
    recipe = Conversing("quick", None, None, tmp_path, llm)
    test = load_config([*recipe.testing(recipe.of("stage2")), "--mode", "testing", "--checkpoint", "x.pt", "--output_dir", str(tmp_path)])
    questions, swapped = test.data_cfg.val
    assert questions.vision == "datasets/omnistamps/quick/clips" and swapped.vision == str(tmp_path / "conversations" / "swapped")


def test_the_towers_are_no_language_model(tmp_path, llm):
    recipe = Conversing("debug", None, None, tmp_path, llm)
    towers = load_config([*recipe.training(recipe.of("towers")), "--output_dir", str(tmp_path / "run")])
    assert towers.model_cfg.llm is None and towers.model_cfg.tokenizer == "datasets/omnistamps/debug/vocab.txt"
    assert towers.data_cfg.train[0].txt == str(tmp_path / "conversations" / "scenes_train.json")


def test_a_missing_language_model_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(omnistamps, "PACKAGE", "llm_that_is_not_there")
    with pytest.raises(StageError, match="pip install llm-that-is-not-there"):
        packaged_llm()
    assert omnistamps.main(["--folder", str(tmp_path / "run")]) == 2
    assert "avllm: the language model is missing" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_orders_are_those_of_the_setting():
    options = parser().parse_args(["--order", "joint_first", "--tune", "full"])
    assert (options.order, options.tune, options.seed) == ("joint_first", "full", 50)
