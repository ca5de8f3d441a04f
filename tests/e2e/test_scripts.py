"""The scripts: the environment they make, the whole quickstart on a few clips, and the ablation's table."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from omnivast.config.load import load_config
from omnivast.config.schema import task_of
from omnivast.scripts.omnistamps import ablation
from omnivast.scripts.omnistamps import quickstart as quickstart_script
from omnivast.scripts.omnistamps.stages import Recipe, Stages
from omnivast.utils.files import sha256_file
from tests.e2e.program import ROOT, Running

SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), ROOT / "preinstall.sh", ROOT / ".ci" / "run"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert os.access(script, os.X_OK) or script.name.startswith("_")


@pytest.mark.parametrize("name", ["quickstart", "ablation_grouping", "test"])
def test_help(name):
    done = subprocess.run(["bash", ROOT / "scripts" / f"{name}.sh", "--help"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and f"scripts/{name}.sh" in done.stdout


# ------------------------------------------------------------------------------------------------------------- environment


@pytest.fixture
def repository(tmp_path):
    """The installing scripts with requirements that need no download but for one that cannot be had, and how to run bash there without an
    environment."""
    (tmp_path / "repo" / "scripts").mkdir(parents=True)
    for name in ("preinstall.sh", "scripts/_environment.sh"):
        shutil.copy(ROOT / name, tmp_path / "repo" / name)
    (tmp_path / "repo" / "requirements.txt").write_text("# nothing\n")
    (tmp_path / "repo" / "pyproject.toml").write_text(
        '[project.optional-dependencies]\none = ["pip"]\nlost = ["omnivast-lost>=1", "pip"]\ntwo = ["pip>=1"]\n'
        'all = ["omnivast[one,lost,two]"]\ndev = ["omnivast[one]", "pip>=2"]\n')
    (tmp_path / "bin").mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHON")}
    environment |= {"PATH": f"{tmp_path / 'bin'}:/usr/local/bin:/usr/bin:/bin", "PIP_NO_INDEX": "1"}

    def bash(command, **variables):
        return subprocess.run(["bash", "-c", command], cwd=tmp_path, env={**environment, **variables}, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)

    return tmp_path, bash


def base_python():
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def test_an_environment_is_made_once_and_installed_into_once(repository):
    folder, bash = repository
    command = "set -euo pipefail; source repo/scripts/_environment.sh; pwd; python -c 'import sys; print(sys.prefix)'; env"
    first = bash(command, PYTHON=base_python())
    assert first.returncode == 0, first.stdout
    assert "making .venv" in first.stdout and "installing requirements.txt" in first.stdout
    lines = first.stdout.splitlines()
    assert str(folder / "repo") in lines and str(folder / "repo" / ".venv") in lines
    assert {"TOKENIZERS_PARALLELISM=false", "MALLOC_TOP_PAD_=268435456"} <= set(lines)

    again = bash(command + "; bash preinstall.sh --dev", PYTHON=base_python(), MALLOC_TOP_PAD_="1")
    assert again.returncode == 0 and "making .venv" not in again.stdout and "requirements.txt: installed in" in again.stdout
    assert "installing requirements.txt and the extra dev" in again.stdout and "MALLOC_TOP_PAD_=1" in again.stdout

    command = "source repo/.venv/bin/activate; bash repo/preinstall.sh --all"
    every = bash(command)
    assert every.returncode == 0 and "requirements.txt: installed in" in every.stdout
    assert all(f"installing the extra {name}" in every.stdout for name in ("one (pip)", "lost (omnivast-lost>=1", "two (pip>=1)"))
    assert "No matching distribution found for omnivast-lost" in every.stdout and "pip could not install: lost (" in every.stdout
    tried = bash(command).stdout
    assert [f"extra {name}: installed in" in tried for name in ("one", "lost", "two")] == [True, False, True]

    (folder / "repo" / "requirements.txt").write_text("# changed\n")
    (folder / "repo" / "pyproject.toml").write_text('[project.optional-dependencies]\ntwo = ["pip>=1"]\nall = ["omnivast[two]"]\n')
    changed = bash(f"{command}; bash repo/preinstall.sh")
    assert changed.stdout.count("installing requirements.txt") == 1 and changed.stdout.count("requirements.txt: installed in") == 1
    assert "installing the extra two" in changed.stdout and "all extras are installed" in changed.stdout
    (folder / "repo" / "pyproject.toml").write_text("[project")
    broken = bash(command)
    assert broken.returncode == 1 and "the extras in pyproject.toml cannot be read" in broken.stdout


def test_what_is_missing_for_an_environment_is_said(repository):
    folder, bash = repository
    (folder / "bin" / "python").symlink_to(base_python())
    none = bash("bash repo/preinstall.sh")
    assert none.returncode == 1 and "no environment is active" in none.stdout and "python3 -m venv .venv" in none.stdout
    assert "unknown option --devel" in bash("bash repo/preinstall.sh --devel").stdout

    def fake(answer):
        (folder / "bin" / "python").unlink(missing_ok=True)
        (folder / "bin" / "python").write_text(f'#!/bin/bash\n{answer}\n')
        (folder / "bin" / "python").chmod(0o755)

    fake('[ "$1" = --version ] && echo Python 3.8.1 || exit 1')
    for old in (bash("bash repo/preinstall.sh"), bash("source repo/scripts/_environment.sh; echo went on", PYTHON="python")):
        assert old.returncode == 1 and "Python 3.8.1" in old.stdout and "3.10 or newer" in old.stdout and "went on" not in old.stdout
    fake('[[ "$2" == *venv* ]] && exit 1 || exit 0')
    without = bash("source repo/scripts/_environment.sh; echo went on", PYTHON="python")
    assert without.returncode == 1 and "apt install python3-venv" in without.stdout and "went on" not in without.stdout


# -------------------------------------------------------------------------------------------------------------- quickstart


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Runs ``bash scripts/quickstart.sh --size debug`` in a folder of its own; within the environment that runs the tests."""
    folder = tmp_path_factory.mktemp("quickstart")
    active = sys.prefix != sys.base_prefix or os.path.isdir(os.path.join(sys.prefix, "conda-meta"))
    command = ["bash", "scripts/quickstart.sh"] if active else [sys.executable, "-m", "omnivast", "quickstart"]
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def run(*flags):
        done = subprocess.run([*command, "--size", "debug", "--steps", "2", "--folder", folder / "out", "--data", folder / "clips", *flags],
                              cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout

    return folder / "out", run


def test_quickstart(quickstart):
    folder, run = quickstart
    status, text = run()
    assert status == 0, text
    numbers, titles = zip(*re.findall(r"^\[(\d+)/11\] (.*)$", text, re.MULTILINE))
    assert numbers == tuple(str(number) for number in range(1, 12))
    # Those in the middle run side by side, and begin as they come.
    assert titles[:3] == ("building the clips", "checking and decoding the clips", "pretraining") and titles[-1] == "writing the report"
    assert {"fine-tuning: retrieval", "fine-tuning: captions", "testing: questions"} <= set(titles)
    assert "left, loss" in text and "reusing" not in text.replace("reusing the finished set", "")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) >= {"retrieval", "caption", "qa", "seconds", "versions", "protocol"}
    groups = {"v", "a", "s", "va", "vs", "vas"}
    assert set(metrics["retrieval"]) == groups | {"chance", "ceiling"} and set(metrics["retrieval"]["ceiling"]) == groups
    for group in groups:
        assert {stage: set(own) for stage, own in metrics["retrieval"][group].items()} == dict.fromkeys(
        ("itc", "itm"), {"r1", "r5", "r10", "facts"})
        assert set(metrics["caption"][group]) == {"bleu4", "rougeL", "cider", "facts_named"}
    assert {"vision", "audio", "subtitle"} <= set(metrics["qa"])
    assert all(set(own) == {"accuracy", "majority"} for own in metrics["qa"].values())
    stages = {"build", "check", "pretrain", "report", "test_pretrain_ret", *(f"{kind}_{task}" for kind in ("finetune", "test")
                                                                    for task in ("ret", "cap", "qa"))}
    assert set(metrics["seconds"]) == stages and all(seconds > 0 for seconds in metrics["seconds"].values())
    assert metrics["seconds"] == json.loads((folder / "seconds.json").read_text())
    page = (folder / "report.html").read_text()
    assert page.count('<article class="card">') == 12 and "http://" not in page.replace("http://www.w3.org", "")


@pytest.fixture
def again(quickstart, monkeypatch, capsys):
    """The same in this process, whose programs are forked where all is imported."""
    monkeypatch.chdir(ROOT)

    def forked(self, command):
        words = [str(word) for word in command[1:]]
        status, text = Running(words[2:], module=words[1]).finish()
        self._say(text)
        return status

    monkeypatch.setattr(Stages, "_call", forked)
    monkeypatch.setenv("OMNIVAST_SMALLER", "")  # which the script sets for its programs
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*flags):
        capsys.readouterr()
        folder = quickstart[0]
        words = ["--size", "debug", "--steps", "2", "--folder", folder, "--data", folder.parent / "clips", *flags]
        try:
            status = quickstart_script.main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    yield quickstart[0], run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_quickstart_reuses_resumes_and_repeats_what_it_must(again):
    folder, run = again
    if not (folder / "metrics.json").exists():
        pytest.skip("the quickstart did not run")
    records = json.loads((folder / "stages.json").read_text())
    weights = sha256_file(folder / "qa" / "ckpt" / "model_step_2.pt")
    # As if it had been killed after the last step of a fine-tuning, and a test's results been removed.
    records["finetune_qa"]["done"] = False
    (folder / "stages.json").write_text(json.dumps(records))
    shutil.rmtree(folder / "test_cap")
    status, text = run()
    assert status == 0, text
    assert "done before" in text
    for name in ("pretrain", "ret", "cap"):
        assert f"reusing {folder / name} (step 2)" in text
    assert f"resuming {folder / 'qa'} after step 2" in text and sha256_file(folder / "qa" / "ckpt" / "model_step_2.pt") == weights
    for name in ("ret", "qa", "pretrain_ret"):
        assert f"reusing {folder / f'test_{name}'}" in text
    assert f"reusing {folder / 'test_cap'}" not in text
    assert [text.count(f"$ python -m omnivast {verb} ") for verb in ("train", "test")] == [1, 1]
    after = json.loads((folder / "stages.json").read_text())
    assert after["pretrain"] == records["pretrain"] and after["finetune_qa"]["seconds"] > records["finetune_qa"]["seconds"]


def test_quickstart_says_why_it_stopped(again):
    folder, run = again
    (folder.parent / "foreign").mkdir()
    (folder.parent / "foreign" / "thesis.txt").write_text("precious")
    status, text = run("--fresh", "--folder", str(folder.parent / "foreign"))
    assert status == 1 and "holds files that this script did not write" in text
    assert (folder.parent / "foreign" / "thesis.txt").exists()
    status, text = run("--steps", "0")
    assert status == 2 and "--steps: invalid positive value: '0'" in text
    status, text = run("--data", str(folder.parent / "foreign"), "--folder", str(folder.parent / "other"))
    assert status == 2 and "holds files that this builder did not write" in text, text
    assert "stage build failed with exit status 2" in text and "Traceback" not in text


# ---------------------------------------------------------------------------------------------------------------- ablation


@pytest.mark.parametrize("size", ["quick", "full"])
def test_row_i_differs_from_row_j_in_the_groups_alone(tmp_path, size):
    config = Recipe(size).config("pretrain")
    one = load_config(["--config", str(ablation.without_grouping(config, tmp_path / "i.json"))])
    other = load_config(["--config", str(config)])
    pairs = list(zip(one.data_cfg.train, other.data_cfg.train, strict=True))
    assert all(own.task == "ret%tvas_cap%tvas" and own.txt == one.data_cfg.train[0].txt for own, _ in pairs)
    assert all((own.name, own.steps, own.batch_size) == (grouped.name, grouped.steps, grouped.batch_size) for own, grouped in pairs)
    assert {"vas", "va", "vs", "v", "a", "s"} == {group.key for corpus in other.data_cfg.train for group in task_of(corpus).all_groups}
    assert (one.run_cfg, one.model_cfg, one.data_cfg.val) == (other.run_cfg, other.model_cfg, other.data_cfg.val)


def test_the_ablation_sets_the_rows_side_by_side(tmp_path):
    for number, row in enumerate(ablation.ROWS):
        (tmp_path / f"pretrain_{row}" / "ckpt").mkdir(parents=True)
        (tmp_path / f"pretrain_{row}" / "ckpt" / "latest.json").write_text('{"step": 600}')
        for test in ablation.TESTS:
            own = {"cider": 90.0 + number} if test.endswith("cap") else {"itc": {"r1": 10.0 + number}, "itm": {"r1": 20.0 - number}}
            path = tmp_path / f"{test}_{row}" / "results" / "omnistamps.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"metrics": dict.fromkeys(ablation.GROUPS, own), "protocol": {"clips": 12}}))
    table = ablation.read_table(tmp_path)
    assert table["rows"]["j"]["finetuned_ret"]["tva"]["itm"]["r1"] == 19.0 and table["protocol"]["zero_shot_cap_i"] == {"clips": 12}
    text = ablation.as_markdown(table)
    assert "Pretraining: 600 steps each." in text
    assert "| (i) vas alone | 10.0 | 10.0 | 10.0 | 10.0 | 10.0 | 10.0 | 10.0 |" in text
    assert text.count("| (j) − (i) | +1.0 |") == 3 and text.count("| (j) − (i) | -1.0 |") == 2
