"""examples/quick_tour.ipynb runs, on any model and clips."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quick_tour.ipynb"


@pytest.fixture
def notebook():
    return json.loads(NOTEBOOK.read_text())


def run(notebook):
    """What each cell of code shows: the value of its last line where that is an expression, as in Jupyter."""
    names, shown = {}, []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            body = ast.parse("".join(cell["source"])).body
            last = body.pop() if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), cell["id"], "exec"), names)
            shown.append(last and eval(compile(ast.Expression(last.value), cell["id"], "eval"), names))
    return names, shown


def test_it_runs(notebook, model, media, tmp_path, monkeypatch, capsys):
    (tmp_path / "clips").mkdir()
    for name in ("said.mp4", "said.srt", "silent.mp4"):
        shutil.copy(media / name, tmp_path / "clips")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMNIVAST_MODEL", model.place)
    monkeypatch.setenv("OMNIVAST_CLIPS", "clips")
    names, shown = run(notebook)
    assert len(names["caption"].candidates) == 3
    assert [answer.question for answer in shown[2]] == ["what is seen?", "what is heard?"]
    assert shown[3].group == "v" and shown[4].shape == (2, 2)
    assert names["index"].report.new == 2
    assert capsys.readouterr().out.count("said.mp4") == 2


def test_it_is_kept_without_results(notebook):
    """Those would be of one machine, and change with every run."""
    assert [cell["id"] for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")] == []


def test_its_form_is_valid(notebook):
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.from_dict(notebook))
