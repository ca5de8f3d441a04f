"""The script that kills processes of ``omnivast build``: what is killed ends as the unbroken corpus, and a different one is seen."""

from __future__ import annotations

import shutil

import pytest

from benchmarks import kills_corpus
from tests.corpus.videos import BLUE, GREEN, RED, write


@pytest.mark.slow
def test_killed_it_goes_on_to_the_unbroken_corpus(tmp_path):
    for name in "abc":
        write(tmp_path / "videos" / f"{name}.mp4", [RED] * 30 + [GREEN] * 30 + [BLUE] * 30)
    given = [str(tmp_path / "videos"), "--recipe", "shots", "--cut", "encode"]
    process = kills_corpus.WARM.Process(target=kills_corpus.machine, args=("whole", [*given, "--output", str(tmp_path / "whole")]))
    process.start()
    process.join(kills_corpus.LIMIT)
    wanted = kills_corpus.content(tmp_path / "whole")
    assert process.exitcode == 0 and sum(name.startswith("clips/") for name in wanted) == 9
    found = kills_corpus.kill(given, tmp_path, tmp_path / "whole", kills=2, seconds=2.0)
    assert found["machines_killed"] + found["workers_killed"] >= 2 and found["finished"] >= 1 and found["different"] == 0
    other = shutil.copytree(tmp_path / "whole", tmp_path / "other")
    (other / "work" / "split" / "parts").mkdir(exist_ok=True)
    (other / "work" / "split" / "parts" / "left").write_text("of the dead")
    assert kills_corpus.content(other) == wanted
    (other / "clips.jsonl").write_bytes((other / "clips.jsonl").read_bytes()[:-2])
    assert kills_corpus.content(other) != wanted
