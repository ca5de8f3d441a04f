"""The tests of a model on 1, 2 and 3 processes, whose shares and last batches are uneven, end in the same files to the last digit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnivast.config.schema import Config, DataConfig, DatasetConfig, RunConfig
from omnivast.config.tasks import CaptionKind, Task
from omnivast.data.batch import Batch, Sample, collate
from omnivast.data.spec import TextLengths
from omnivast.evaluation.retrieval import search
from omnivast.evaluation.retrieval.search import Search
from omnivast.evaluation.run import evaluate
from omnivast.model.interface import Rows
from omnivast.utils import distributed
from omnivast.utils.random import generator
from tests.model.tiny import CAPTIONS, CONFIG, tokenizer, vast
from tests.processes import together

TASK = "ret%tvas%tva%tvs%tv%ta%ts_cap%tvas%ta_qa%tvas%tv"
CLIPS = {"eleven": 11, "two": 2}
"""Of two clips, one of three processes has none."""
BATCH = {1: 4, 2: 4, 3: 3}
"""Clips of a batch, by the number of processes: 4 + 4 + 3, (4 + 1), (4 + 2), then (3), (3 + 1), (3 + 1)."""
TWINS = {8: 3}
"""Clip 8 is clip 3 again, media and texts."""
WORDS = [word for text in CAPTIONS for word in text.split()]


class Loader:
    """Clips of noise with one to three captions and questions, of which several clips have the same."""

    def __init__(self, clips: int, task: str = TASK) -> None:
        self.clips, self.name, self.task = clips, "noise", Task.parse(task)
        self.config = DatasetConfig(name="noise", task=task, txt="noise.json", vision_sample_num=2, audio_sample_num=1)
        self.clip_ids = [f"clip{row}" for row in range(clips)]
        self.references = {clip: _sample(row).captions[CaptionKind.OMNI] for row, clip in enumerate(self.clip_ids)}
        self.provenance: dict[str, Any] = {"split_file": "noise.json", "split_sha256": "00", "clips": clips, "texts": clips,
                                           "unreadable": []}

    def read(self, done: Collection[int] = ()) -> Iterator[Batch]:
        rank, world = distributed.rank(), distributed.world_size()
        assert not done
        return self.batches(range(rank * self.clips // world, (rank + 1) * self.clips // world))

    def batches(self, rows: Sequence[int]) -> Iterator[Batch]:
        size = BATCH[distributed.world_size()]
        lengths = TextLengths(dict.fromkeys(CaptionKind, CONFIG.max_caption_len), CONFIG.max_caption_len, CONFIG.max_answer_len,
                              CONFIG.max_subtitle_len)
        for start in range(0, len(rows), size):
            yield collate([_sample(row) for row in rows[start:start + size]], corpus=self.name, tokenizer=tokenizer(), lengths=lengths,
                          task=self.task)


def _sample(row: int) -> Sample:
    noise = generator("clip", TWINS.get(row, row))

    def text(most: int) -> str:
        length = int(torch.randint(1, most, (), generator=noise))
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=noise))

    frames = torch.randint(0, 256, (2, 3, 16, 16), generator=noise, dtype=torch.uint8)
    sound = torch.randn(1, CONFIG.audio_target_length, CONFIG.audio_melbins, generator=noise)
    captions = [text(10) for _ in range(row % 3)] + [CAPTIONS[row % 3]]
    questions = [text(6) + " ?" for _ in range(1 + row % 2)]
    return Sample(f"clip{row}", row, frames, sound, text(8), {CaptionKind.OMNI: captions}, questions, [text(3) for _ in questions])


def evaluated(rank: int, folder: Path) -> dict[str, dict[str, float]]:
    """Flat metrics, equal on all processes."""
    model = vast().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # untrained, it finds all clips so alike that some scores differ by rounding alone
                parameter.mul_(4)
    config = RunConfig(itm_rerank_num=5, ret_bidirection_evaluation=True, dual_softmax_evaluation=True)
    on_disk = dataclasses.replace(config, ret_features_dir=str(folder / "features"))
    runs = {**{name: (Loader(clips), config) for name, clips in CLIPS.items()}, "on disk": (Loader(CLIPS["eleven"], "ret%tvas"), on_disk)}
    return {name: evaluate(model, [loader], Config(own, CONFIG, DataConfig()), folder=folder / name, provenance={})
            for name, (loader, own) in runs.items()}


def files(folder: Path) -> dict[str, Any]:
    """Metrics, intervals and predictions of every result file."""
    found = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {name: {key: value for key, value in content.items() if key != "protocol"} for name, content in found.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, tuple[Path, list[dict[str, dict[str, float]]]]]:
    found = {}
    for processes in BATCH:
        folder = tmp_path_factory.mktemp(f"processes{processes}")
        found[processes] = (folder, together(evaluated, processes, folder))
    return found


@pytest.mark.parametrize("name", [*CLIPS, "on disk"])
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_find_what_one_finds(runs, processes, name):
    (folder, [metrics]), (other, many) = runs[1], runs[processes]
    one, files_of_many = files(folder / name), files(other / name)
    assert set(one) == {f"noise.{objective}.json" for objective in (("ret", "cap", "qa") if name in CLIPS else ("ret",))}
    assert [found[name] for found in many] == [metrics[name]] * processes
    for file, content in one.items():
        assert files_of_many[file] == content, file


def test_the_comparison_covers_what_it_should(runs):
    metrics = runs[1][1][0]["eleven"]
    for part in ("ret.tvas.itm.r1", "ret.ts.itc_v2t.mean_rank", "ret.tva.itm_v2t.r5", "ret.tv.dual_softmax.r1", "cap.ta.cider",
                 "qa.tv.accuracy"):
        assert f"noise.{part}" in metrics
    ranks = {value for name, value in metrics.items() if name.endswith("mean_rank")}
    assert len(ranks) > 6


def product(queries: Rows, candidates: Rows) -> torch.Tensor:
    return queries["vector"] @ candidates["vector"].T


def searched(rank: int) -> tuple[int, Search]:
    """How many scores a process computes, and what it finds."""
    noise = torch.Generator().manual_seed(0)
    queries, candidates = ({"vector": torch.randn(rows, 8, generator=noise)} for rows in (130, 40))
    counts, score_rows = [], search.score_rows

    def counted(*arguments: Any) -> Iterator[Any]:
        for rows, scores in score_rows(*arguments):
            counts.append(scores.numel())
            yield rows, scores

    search.score_rows = counted
    found = search.search(queries, candidates, product, np.arange(130) % 40, np.arange(40), 5, dual_softmax=True)
    return sum(counts), found


def test_each_process_does_its_share_of_the_search():
    [(work, alone)] = together(searched, 1)
    assert work == 2 * 130 * 40
    shares, found = zip(*together(searched, 3))
    assert sum(shares) == work and max(shares) < 0.4 * work
    for own in found:
        for name in ("ranks", "top", "dual_ranks"):
            assert getattr(own, name).tolist() == getattr(alone, name).tolist()
