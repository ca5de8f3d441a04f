import json
import subprocess

import pytest

from omnivast.scripts.vast import zero_shot


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
    monkeypatch.setenv("GPUS", "1")
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


def test_whatever_a_benchmark_does_costs_only_itself(setting, monkeypatch, capsys):
    folder, arguments, calls, broken = setting
    broken.clear()
    run = zero_shot.subprocess.run

    def strange(words, **others):
        name = zero_shot.Path(words[words.index("--output_dir") + 1]).name
        if name == "a":
            raise FileNotFoundError(2, "No such file or directory")
        done = run(words, **others)
        if name == "b":
            (folder / "out" / "b" / "results" / "y.cap.json").write_text("{")
        return subprocess.CompletedProcess(words, -15) if name == "c" else done

    monkeypatch.setattr(zero_shot.subprocess, "run", strange)
    assert zero_shot.main([*arguments, "--gpus", "0"]) == 1
    found = json.loads((folder / "out" / "zero_shot.json").read_text())
    assert "could not be started: No such file" in found["a"]["error"]
    assert "its results cannot be read: JSONDecodeError" in found["b"]["error"] and "exit status -15" in found["c"]["error"]
    assert "3 of 3 failed: a, b, c" in capsys.readouterr().err


@pytest.mark.parametrize(("visible", "listed", "gpus"), [
    ("0,3", "", 2), ("", "GPU 0: x", 0), ("-1", "", 0), (None, "GPU 0: x\nGPU 1: x", 2), (None, None, 0)])
def test_all_gpus_of_the_machine_are_used(monkeypatch, visible, listed, gpus):
    def run(words, **_):
        if listed is None:
            raise FileNotFoundError
        return subprocess.CompletedProcess(words, 0, stdout=listed)

    monkeypatch.setattr(zero_shot.subprocess, "run", run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert zero_shot.count_gpus() == gpus


def test_the_number_of_processes_does_not_ask_for_a_new_test(setting):
    _, arguments, calls, broken = setting
    broken.clear()
    assert zero_shot.main([*arguments, "--gpus", "2"]) == 0 and zero_shot.main([*arguments, "--gpus", "4"]) == 0
    assert calls == ["a", "b", "c"]


def test_a_change_of_any_file_of_a_config_asks_for_a_new_test(setting):
    folder, arguments, calls, broken = setting
    broken.clear()
    for name, content in {"a": {"base": "x.json"}, "b": {"run_cfg": {"default": "y.json"}}, "c": {"base": "absent.json"}}.items():
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content))
    (folder / "configs" / "x.json").write_text('{"model_cfg": {"default": "y.json"}}')
    for number, asked in enumerate((["a", "b", "c"], ["a", "b"])):
        (folder / "configs" / "y.json").write_text(json.dumps({"seed": number}))
        calls.clear()
        assert zero_shot.main(arguments) == zero_shot.main(arguments) == 0 and calls == asked


def test_what_is_wrong_on_the_command_line_is_named(setting, monkeypatch, capsys):
    _, arguments, calls, _ = setting
    for words, message in ((arguments[2:], "name the weights"), ([*arguments, "d"], "unknown benchmark 'd'; there are: a, b, c"),
                           (["--checkpoint", "absent.pt"], "absent.pt holds no weights")):
        with pytest.raises(SystemExit) as stopped:
            zero_shot.main(words)
        assert stopped.value.code == 2 and message in capsys.readouterr().err
    monkeypatch.delenv("GPUS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert zero_shot._options(arguments)[0].gpus == 3
    assert not calls and "retrieval-msrvtt" in zero_shot.choices() and len(zero_shot.choices()) == 27


def test_numbers_of_another_family_are_named():
    protocol = {"dataset": "msrvtt_ret", "groups": ["tva"], "model_type": "valor", "frames": 8, "slices": 2, "resolution": 224,
                "rerank_depth": 0}
    found = zero_shot.table({"retrieval-msrvtt": {"results": {"x": {"metrics": {"tva": {"itc": {"r1": 40.0}}}, "protocol": protocol}}}})
    assert "| retrieval-msrvtt tva | R@1 | 40.0 | 49.3 (VAST) | none |" in found


def test_questions_without_answers_have_a_row():
    protocol = {"dataset": "vqav2_qa", "groups": ["tv"], "not_computed": {"accuracy": "no answers in test.json"}}
    found = zero_shot.table({"VQA-vqav2": {"results": {"vqav2_qa.qa.json": {"metrics": {"tv": {}}, "protocol": protocol}}}})
    assert "| VQA-vqav2 tv | accuracy | not computed: no answers in test.json | – |" in found
