"""``import omnivast`` in another program: at once, and with what one needs first."""

import subprocess
import sys
from pathlib import Path

import pytest

import omnivast
from omnivast.config.load import load_config
from omnivast.model.build import build_model

ROOT = Path(__file__).resolve().parents[2]


def test_a_config_and_its_model(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = omnivast.load_config("debug/tiny.json")
    model = omnivast.build_model(config.model_cfg)
    assert config.model_cfg.contra_dim == 64 and sum(parameter.numel() for parameter in model.parameters()) > 100_000
    assert omnivast.load_config(["--config", "debug/tiny.json", "--seed", "7"]).run_cfg.seed == 7
    assert omnivast.load_config is load_config and omnivast.build_model is build_model
    assert {"load_config", "build_model"} <= {*dir(omnivast)}


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="module 'omnivast' has no attribute 'lod_config'"):
        _ = omnivast.lod_config
    assert not hasattr(omnivast, "__path_of_nothing__")


def test_importing_it_imports_nothing_slow():
    code = "import sys, omnivast; omnivast.load_config; assert not {'torch', 'numpy', 'av'} & {*sys.modules}, sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
