"""The wheel: what is in it, that it leaves other people's packages alone, and that it trains and tests far from any checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("config", "corpus", "data", "evaluation", "inference", "model", "training", "utils")
FOREIGN = ("config", "data", "model", "utils")
pytestmark = pytest.mark.e2e


def run(*words, **options):
    done = subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the files that belong to a checkout, so that nothing is left in this one, or taken from an earlier build."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in (*ROOMS, "omnivast", "scripts", "datasets/omnistamps/images", "datasets/omnistamps/sounds"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for pattern in ("*.md", "*.py", "*.toml", "*.txt", "LICENSE", "datasets/omnistamps/*.*", "datasets/omnistamps/COPYING"):
        for file in ROOT.glob(pattern):
            shutil.copy(file, folder / "source" / file.relative_to(ROOT))
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel):
    """Where the wheel is installed, and an environment in which it is found; the packages it needs are those of the tests."""
    site = wheel.parent / "site"
    run("-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", site, wheel)
    return site, {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def test_it_holds_one_package_with_all_its_files_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    version = wheel.name.split("-")[1]
    assert {name.split("/")[0] for name in names} == {"omnivast", f"omnivast-{version}.dist-info"}
    kinds = (".py", ".json", ".css", ".html", ".js", ".safetensors", ".txt")
    ours = [path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in kinds]
    ours += [path.relative_to(ROOT) for path in ROOT.glob("scripts/*/**/*.py")]
    stamps = json.loads((ROOT / "datasets/omnistamps/stamps.json").read_text())
    files = {stamp[kind] for stamp in stamps for kind in ("image", "sound") if stamp.get(kind)} | {"stamps.json", "COPYING", "README.md"}
    wanted = {*(f"omnivast/{path.as_posix()}" for path in ours), *(f"omnivast/{path.name}" for path in ROOT.glob("omnivast/*.py")),
              *(f"omnivast/corpus/omnistamps/stamps/{file}" for file in files)}
    assert {name for name in names if name.startswith("omnivast/")} == wanted


def test_a_project_keeps_packages_of_the_same_names(installed, tmp_path):
    _, environment = installed
    for name in FOREIGN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"THEIRS = '{name}'\n")
    code = f"""
import importlib, pathlib, sys
import omnivast.launch, omnivast.__main__
for name in {FOREIGN!r}:
    own, theirs = importlib.import_module(f"omnivast.{{name}}"), importlib.import_module(name)
    assert theirs.THEIRS == name and own is not theirs and pathlib.Path(theirs.__file__).parents[1] == pathlib.Path.cwd()
    assert pathlib.Path(own.__file__).is_relative_to(sys.argv[1])
"""
    run("-c", code, installed[0], cwd=tmp_path, env=environment)


def test_it_makes_clips_trains_and_tests_outside_the_checkout(installed, tmp_path):
    site, environment = installed
    assert run("-c", "import omnivast; print(omnivast.__file__)", cwd=tmp_path, env=environment).startswith(str(site))
    same = ("--config", "debug/tiny.json", "--precision", "float32", "--n_workers", "0", "--num_threads", "1")
    program = site / "bin" / "omnivast"
    run(program, "omnistamps", "--size", "debug", cwd=tmp_path, env=environment)
    run(program, "train", *same, "--data_cfg.val", "[]", "--save_best", "false", "--output_dir", "run", cwd=tmp_path, env=environment)
    weights = tmp_path / "run" / "ckpt" / "model_step_10.pt"
    run("-m", "omnivast", "test", *same, "--checkpoint", weights, "--output_dir", "test", cwd=tmp_path, env=environment)
    found = {path.name: json.loads(path.read_text()) for path in (tmp_path / "test" / "results").glob("*.json")}
    assert len(found) == 3 and all(result["metrics"] for result in found.values())
    protocol = found["omnistamps_ret.ret.json"]["protocol"]
    assert protocol["code_commit"] is None and protocol["checkpoint"] == str(weights)
    assert f"omnivast-{protocol['versions']['omnivast']}.dist-info" in {path.name for path in site.iterdir()}
