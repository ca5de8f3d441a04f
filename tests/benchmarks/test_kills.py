"""The script that kills processes of ``omnivast index``: three kills end with the unbroken index, and a different one is seen."""

import shutil
import sqlite3
from contextlib import closing

import pytest

from benchmarks import kills
from omnivast.inference.index.api import Index
from tests.inference.conftest import media, model, run  # noqa: F401


@pytest.fixture
def whole(model, media, tmp_path):  # noqa: F811
    index = Index(media, model, folder=tmp_path / "whole", window=2.0, stride=1.0)
    index.store.close()
    return index.folder


def test_killed_it_goes_on_to_the_unbroken_index(run, media, whole, tmp_path):  # noqa: F811
    given = [str(media), "--model", str(run), "--window", "2", "--stride", "1"]
    found = kills.kill(given, tmp_path / "broken", whole, kills=3, seconds=1.0)
    assert found["kills"] == 3
    assert found["finished"] >= 1
    assert found["different"] == 0


@pytest.mark.parametrize("what", ["a vector", "a moment"])
def test_another_content_is_seen(whole, tmp_path, what):
    other = shutil.copytree(whole, tmp_path / "other")
    assert kills.content(other) == kills.content(whole)
    if what == "a vector":
        path = next((other / "vectors").iterdir())
        path.write_bytes(b"\1" + path.read_bytes()[1:])
    else:
        with closing(sqlite3.connect(other / "clips.sqlite")) as clips, clips:
            clips.execute("DELETE FROM moments WHERE row = 3")
    assert kills.content(other) != kills.content(whole)
