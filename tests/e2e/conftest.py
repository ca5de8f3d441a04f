"""Sixty OmniStamps clips, run.py, and one tiny training that several tests look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omnivast.corpus.omnistamps import picks
from omnivast.corpus.omnistamps.build import build
from tests.e2e.house import House
from tests.e2e.program import ROOT, Clips, Outcome, call

RunProgram = Callable[[list[str]], Outcome]


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Clips:
    """40 training, 8 validation and 12 test clips."""
    folder = tmp_path_factory.mktemp("omnistamps") / "sixty"
    before = picks.SIZES["debug"]
    picks.SIZES["debug"] = dataclasses.replace(before, clips={"train": 40, "val": 8, "test": 12})
    try:
        return Clips(build("debug", folder, workers=1))
    finally:
        picks.SIZES["debug"] = before


@pytest.fixture(scope="session")
def trained(clips, tmp_path_factory) -> Path:
    """The output folder of ``python run.py --config config/debug/tiny.json``."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert call(clips.train(folder)) == 0
    return folder


@pytest.fixture
def weights(trained) -> Path:
    return trained / "ckpt" / "model_step_10.pt"


@pytest.fixture
def run_program(caplog, capsys, monkeypatch) -> RunProgram:
    """run.py in this process: its exit status and what it told."""
    monkeypatch.chdir(ROOT)

    def run(arguments: list[str]) -> Outcome:
        caplog.clear()
        capsys.readouterr()
        status = call(arguments)
        captured = capsys.readouterr()
        return Outcome(status, caplog.text + captured.out + captured.err)

    return run


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Iterator[House]:
    """A folder in which recipes are trained small, as the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("house")
        patch.chdir(folder)
        patch.setenv("OMNIVAST_TRACEBACK", "1")
        yield House(folder)
