"""The command ``omnivast``: its verbs, its help, and what it says where there is none."""

import importlib
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import omnivast
from omnivast import __main__ as command

ROOT = Path(__file__).resolve().parents[2]
OLDER_MODULES = ("corpus.omnistamps", "data.check", "data.formats", "data.shards", "evaluation.compare", "evaluation.label",
                 "evaluation.report", "evaluation.score")
OLDER_SCRIPTS = {"check_parity": "parity", "convert_checkpoint": "convert", "download_weights": "weights"}


def python(*words, cwd=ROOT):
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("verb", [*command.VERBS, *command.OLDER])
def test_every_verb_has_its_help(verb, capsys):
    with pytest.raises(SystemExit) as end:
        command.main([verb, "--help"])
    name = {"train": "python run.py", "test": "python run.py", "shards": "python -m omnivast"}.get(verb, f"python -m omnivast {verb}")
    assert end.value.code == 0 and capsys.readouterr().out.startswith(f"usage: {name} ")


def test_the_help_lists_every_verb_on_a_line_of_its_own(capsys):
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert command.main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        listed = [line.split()[0] for line in lines if line.startswith("  ")]
        assert listed == list(command.VERBS) and max(map(len, lines)) <= 110
    assert command.main(["--version"]) == 0 and capsys.readouterr().out == f"omnivast {omnivast.__version__}\n"


def test_help_version_and_spelling_need_nothing_installed():
    """Nor do they wait for torch. ``-S``: as if no package were there."""
    for words, status in ((["--help"], 0), (["--version"], 0), (["trian"], 2)):
        done = python("-S", "-m", "omnivast", *words)
        assert done.returncode == status, done.stderr
    assert done.stderr == "omnivast: there is no verb 'trian'. Did you mean 'train'? omnivast --help lists them.\n"


def test_a_package_that_is_missing_is_named_in_one_line():
    done = python("-S", "-m", "omnivast", "train", "--config", "config/debug/tiny.json")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "not installed in" in done.stderr and "`bash preinstall.sh` in a checkout, or `pip install omnivast`" in done.stderr


def test_a_missing_module_of_ours_is_no_matter_of_installing(monkeypatch):
    monkeypatch.setitem(command.VERBS, "train", command.Verb("x", "omnivast.absent"))
    with pytest.raises(ModuleNotFoundError, match="omnivast.absent"):
        command.main(["train"])


def test_words_and_status_reach_the_module(monkeypatch):
    launch, seen = importlib.import_module("omnivast.launch"), []
    monkeypatch.setattr(launch, "run", seen.append)
    assert command.main(["test", "--config", "x.json"]) == 0 == command.main(["train", "--seed", "1"])
    assert seen == [["--mode", "testing", "--config", "x.json"], ["--seed", "1"]]
    pack = importlib.import_module("omnivast.data.shards.pack")
    monkeypatch.setattr(pack, "main", lambda words: seen.append(words) or 3)
    assert [command.main(words) for words in (["pack", "--txt"], ["verify", "b"], ["shards", "pack", "c"])] == [3, 3, 3]
    assert seen[2:] == [["pack", "--txt"], ["verify", "b"], ["pack", "c"]]


def test_older_spellings_of_modules_still_work():
    code = f"""
import runpy, sys
sys.argv = ["x", "--help"]
for name in {OLDER_MODULES!r}:
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as end:
        assert not end.code, name
"""
    done = python("-c", code)
    assert done.returncode == 0 and done.stdout.count("usage: python -m omnivast") == len(OLDER_MODULES), done.stderr


@pytest.mark.parametrize("script", OLDER_SCRIPTS)
def test_older_spellings_of_scripts_still_work(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out.startswith(f"usage: python -m omnivast {OLDER_SCRIPTS[script]} ")
