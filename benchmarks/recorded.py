"""The debug clips of OmniStamps as tensors, and a loader of them: for machines without PyAV, on which no clip can be decoded.

    python benchmarks/recorded.py        # decodes them anew (needs PyAV)

``media/omnistamps_debug.safetensors`` holds what the reader makes of the training clips of config/debug/tiny.json, for one frame in the
middle of each half and one slice of sound: "frames" (clips, 2, 3, 32, 32) uint8, "mel" (clips, 1, 208, 64) float16. Texts stand in
datasets/omnistamps/debug.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from omnivast.config.load import load_config  # noqa: E402
from omnivast.config.schema import Config  # noqa: E402
from omnivast.config.tasks import CaptionKind, Modality, Task  # noqa: E402
from omnivast.data.batch import Batch, Sample, collate  # noqa: E402
from omnivast.data.parcel import Parcel  # noqa: E402
from omnivast.data.spec import InputSpec, Tokenizer  # noqa: E402

CLIPS = ROOT / "benchmarks" / "media" / "omnistamps_debug.safetensors"
CONFIG = ROOT / "config" / "debug" / "tiny.json"


def debug_config(folder: Path, **run: Any) -> Config:
    """The debug config with ``folder`` as its output folder and other flags of run_cfg."""
    flags = {"output_dir": str(folder), "tokenizer": str(ROOT / "datasets/omnistamps/debug/vocab.txt"), **run}
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in flags.items()}
    return load_config(["--config", str(CONFIG), *(word for key, value in words.items() for word in (f"--{key}", value))])


def samples(texts: str) -> list[Sample]:
    """The clips with the captions ("pretrain") or the first question ("qa") of each."""
    media = load_file(CLIPS)
    rows = json.loads((ROOT / f"datasets/omnistamps/debug/{texts}_train.json").read_text())
    by_clip: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_clip.setdefault(row.get("clip_id", row.get("video_id")), row)
    found = []
    for number, (clip, row) in enumerate(by_clip.items()):
        sample = Sample(clip, number, media["frames"][number], media["mel"][number].float(), row["subtitle"],
                        present=dict.fromkeys(Modality, True), frame_count=2, slice_count=1)
        if texts == "qa":
            sample.questions, sample.answers = [row["question"]], [row["answer"]]
        else:
            sample.captions = {CaptionKind.VISION: row["vision_cap"][:1], CaptionKind.AUDIO: row["audio_cap"][:1],
                               CaptionKind.OMNI: [row["vast_cap"]]}
        found.append(sample)
    return found


@dataclass
class Corpus:
    """What the training loop asks of a corpus."""

    name: str
    rows: int
    steps: int
    task: Task
    batch_size: int
    identity: dict[str, Any] = field(default_factory=dict)


class RecordedLoader:
    """The batches of the debug config's two corpora in turn, as ``data.loader.TrainLoader`` would give them."""

    accumulation = 1

    def __init__(self, config: Config, tokenizer: Tokenizer, audio_frontend: str, steps: int, *, workers: int = 0,
                 pin_memory: bool = False) -> None:
        spec = InputSpec.of(config.model_cfg, audio_frontend)
        parts = [(dataset.name, Task.parse(dataset.task), samples("qa" if "qa" in dataset.name else "pretrain"), dataset.batch_size)
                 for dataset in config.data_cfg.train]
        self.total_steps = steps
        self.corpora = [Corpus(name, len(own), len(range(number, steps, len(parts))), task, size,
                               {"format": 1, "txt": name, "rows": len(own), "sha256": name, "block": len(own), "marks": ""})
                        for number, (name, task, own, size) in enumerate(parts)]
        self._dataset = _Collated(parts, tokenizer, spec)
        self._workers, self._pin_memory = workers, pin_memory

    def task(self, corpus: str) -> Task:
        return next(known.task for known in self.corpora if known.name == corpus)

    def follow(self, plan: Sequence[Sequence[int]]) -> None:
        """The steps of each corpus stay as they are."""

    def steps_by_corpora(self, start: int) -> dict[str, int]:
        names = [self.corpora[step % len(self.corpora)].name for step in range(start, self.total_steps)]
        return {name: names.count(name) for name in names}

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """One batch for each step from ``start_step`` on; workers are made and their batches travel as those of a training."""
        loader: DataLoader[Batch] = DataLoader(
            self._dataset, batch_sampler=[[step] for step in range(start_step, self.total_steps)], num_workers=self._workers,
            collate_fn=cast(Any, Parcel if self._workers else _as_is), pin_memory=self._pin_memory,
            prefetch_factor=2 if self._workers else None,
            multiprocessing_context=("forkserver" if torch.cuda.is_available() else "fork") if self._workers else None,
            generator=torch.Generator())
        for item in loader:
            yield item.open() if isinstance(item, Parcel) else item


class _Collated(Dataset):
    """Batch number ``step`` of the training."""

    def __init__(self, parts: Sequence[tuple[str, Task, list[Sample], int]], tokenizer: Tokenizer, spec: InputSpec) -> None:
        self.parts, self.tokenizer, self.spec = list(parts), tokenizer, spec

    def __getitems__(self, steps: list[int]) -> Batch:
        name, task, own, size = self.parts[steps[0] % len(self.parts)]
        rows = np.random.default_rng(steps[0]).permutation(len(own))[:size]
        return collate([own[row] for row in rows], corpus=name, tokenizer=self.tokenizer,
                       lengths=self.spec.lengths(several_kinds="qa" not in name), task=task, training=True)


def _as_is(batch: Batch) -> Batch:
    return batch


def decoded() -> dict[str, torch.Tensor]:
    """The clips as the reader gives them, in the order of the annotations."""
    from omnivast.data.dataset import IndexedDataset

    config = debug_config(ROOT / "output" / "recorded")
    own = IndexedDataset(config.data_cfg.train[0], InputSpec.of(config.model_cfg), seed=0, training=False)
    found: list[Any] = [own.media(row, row) for row in range(len(own))]
    return {"frames": torch.stack([clip.frames for clip in found]), "mel": torch.stack([clip.spectrogram for clip in found]).half()}


if __name__ == "__main__":
    CLIPS.parent.mkdir(exist_ok=True)
    save_file(decoded(), CLIPS)
