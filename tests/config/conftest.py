"""A small valid config on disk, for tests to change and load."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from omnivast.config.load import load_config
from omnivast.config.schema import Config

DATASET = {"name": "clips", "task": "ret%tvas", "txt": "a.json", "vision": "videos", "vision_sample_num": 2, "audio_sample_num": 1}
BASE = {"run_cfg": {}, "model_cfg": {}, "data_cfg": {"train": [{**DATASET, "steps": 5}], "val": [DATASET]}}


class Workshop:
    """Writes config files into a folder, which is the working directory, and loads them with flags."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, name: str, content: Any) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def load(self, *flags: str, run: Any = None, model: Any = None, train: Any = None, val: Any = None) -> Config:
        """BASE with these keys added; ``train`` and ``val`` are added to the only dataset of their list."""
        content = copy.deepcopy(BASE)
        content["run_cfg"].update(run or {})
        content["model_cfg"].update(model or {})
        content["data_cfg"]["train"][0].update(train or {})
        content["data_cfg"]["val"][0].update(val or {})
        self.write("c.json", content)
        return load_config(["--config", "c.json", *flags])


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Workshop(tmp_path)
