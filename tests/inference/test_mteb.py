"""The example that runs MTEB's harness on OmniStamps; mteb is no dependency of ours."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from tests.media_factory import write_video

EXAMPLE = Path(__file__).parents[2] / "examples" / "mteb_omnistamps.py"


def test_the_harness_runs_on_a_model_of_ours(run, tmp_path, monkeypatch):
    pytest.importorskip("mteb", reason="mteb is not installed: pip install mteb")
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    (tmp_path / "clips").mkdir()
    texts = ["a red car", "two dogs running"]
    rows = [{"video_id": f"c{number}", "desc": text, "subtitle": "hello welcome today"} for number, text in enumerate(texts)]
    for row in rows:
        write_video(tmp_path / "clips" / f"{row['video_id']}.mp4", frames=10, fps=10, sound=True)
    (tmp_path / "ret_test.json").write_text(json.dumps(rows))
    spec = importlib.util.spec_from_file_location("mteb_omnistamps", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    scores = example.evaluate(str(run), str(tmp_path))
    assert scores["recall_at_1"] in (0.0, 0.5, 1.0) and scores["recall_at_10"] == 1.0
