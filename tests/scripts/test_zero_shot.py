import json
import subprocess

import pytest

from scripts import zero_shot


@pytest.fixture
def setting(tmp_path, monkeypatch):
    """Configs a, b and c; weights; a run.py that fails on the benchmarks in ``broken`` and counts its calls."""
    for name in "abc":
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / f"{name}.json").write_text("{}")
    (tmp_path / "w.pt").write_bytes(b"x")
    calls, broken = [], {"b"}

    def run(words, *, stdout, **_):
        folder = zero_shot.Path(words[words.index("--output_dir") + 1])
        calls.append(folder.name)
        if folder.name in broken:
            stdout.write(b"DataError: no such folder | b\n")
            return subprocess.CompletedProcess(words, 2)
        (folder / "results").mkdir(parents=True, exist_ok=True)
        own = {"dataset": "msrvtt_ret", "groups": ["tvas"], "frames": 16, "slices": 1, "resolution": 224, "rerank_depth": 50}
        content = {"protocol": own, "metrics": {"tvas": {"itm": {"r1": 50.0}}}, "predictions": []}
        (folder / "results" / "x.ret.json").write_text(json.dumps(content))
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(zero_shot.subprocess, "run", run)
    arguments = ["--checkpoint", str(tmp_path / "w.pt"), "--configs", str(tmp_path / "configs"), "--output", str(tmp_path / "out"),
                 "--benchmarks", "a", "b", "c"]
    return tmp_path, arguments, calls, broken


def test_one_broken_benchmark_costs_only_itself_and_what_is_done_is_kept(setting, capsys):
    folder, arguments, calls, broken = setting
    assert zero_shot.main(arguments) == 1 and calls == ["a", "b", "c"]
    text = (folder / "out" / "zero_shot.md").read_text()
    assert "| a tvas | R@1 | 50.0 | 49.3 | none |" in text and "| b | failed: exit status 2: DataError: no such folder / b |" in text
    assert "1 of 3 failed: b" in capsys.readouterr().err
    broken.clear()
    assert zero_shot.main(arguments) == 0 and calls == ["a", "b", "c", "b"]
    found = json.loads((folder / "out" / "zero_shot.json").read_text())
    assert list(found) == ["a", "b", "c"] and found["b"]["results"]["x.ret.json"]["metrics"] == {"tvas": {"itm": {"r1": 50.0}}}
    (folder / "w.pt").write_bytes(b"other")
    assert zero_shot.main(arguments) == 0 and calls[4:] == ["a", "b", "c"]


def test_what_is_wrong_on_the_command_line_is_named(setting, capsys):
    _, arguments, calls, _ = setting
    for words, message in ((arguments[2:], "name the weights"), ([*arguments, "d"], "unknown benchmark 'd'; there are: a, b, c"),
                           (["--checkpoint", "absent.pt"], "absent.pt holds no weights")):
        with pytest.raises(SystemExit) as stopped:
            zero_shot.main(words)
        assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not calls and "retrieval-msrvtt" in zero_shot.choices() and len(zero_shot.choices()) == 27
