"""Tar shards beside folders: packing, and reading the same clips in the same random order, in turns.

    python benchmarks/shards.py --txt datasets/omnistamps/quick/ret_test.json --vision datasets/omnistamps/quick/clips --folder output/s

Prints clips a second and their ratio: the median over the rounds, with the files in the page cache (a cold disk favours shards: one file
is opened instead of many).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

from omnivast.config.schema import DatasetConfig  # noqa: E402
from omnivast.data.batch import Sample  # noqa: E402
from omnivast.data.dataset import IndexedDataset  # noqa: E402
from omnivast.data.shards.pack import Packing, pack  # noqa: E402
from omnivast.data.spec import InputSpec  # noqa: E402

SPEC = InputSpec(resolution=64, mel_bins=64, target_length=208, max_caption_len=40, max_omni_caption_len=70, max_subtitle_len=70,
                 max_answer_len=10)
TASKS = {"frames and sound": "ret%tva", "frames": "ret%tv", "sound": "ret%ta"}


def seconds(dataset: IndexedDataset, rows: list[int]) -> float:
    """Of reading the rows in this order."""
    began = time.perf_counter()
    for row in rows:
        assert isinstance(dataset.read(row, row), Sample)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--txt", required=True)
    parser.add_argument("--vision", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    items = json.loads(Path(arguments.txt).read_text())[: arguments.clips]
    txt = arguments.folder / "rows.json"
    txt.write_text(json.dumps(items))
    began = time.perf_counter()
    manifest = pack(Packing(str(txt), str(arguments.folder / "shards"), arguments.vision, shard_size=16 * 2**20))
    took, size = time.perf_counter() - began, sum(shard["bytes"] for shard in manifest["shards"])
    print(f"packed and read back: {len(items) / took:.0f} clips/s, {size / took / 2**20:.0f} MiB/s, {len(manifest['shards'])} shards")  # noqa: T201
    rows = random.Random(0).sample(range(len(items)), len(items))
    common: dict[str, Any] = {"name": "clips", "vision_sample_num": 4, "audio_sample_num": 1}
    for name, task in TASKS.items():
        folders = IndexedDataset(DatasetConfig(**common, task=task, txt=str(txt), vision=arguments.vision), SPEC, seed=0, training=True)
        shards = IndexedDataset(DatasetConfig(**common, task=task, type="srcindexed", shards=[str(arguments.folder / "shards")]), SPEC,
                                seed=0, training=True)
        seconds(folders, rows), seconds(shards, rows)
        pairs = [(seconds(folders, rows), seconds(shards, rows)) for _ in range(arguments.rounds)]
        one, other = (len(rows) / statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(first / second for first, second in pairs)
        print(f"{name}: folders {one:.0f} clips/s, shards {other:.0f} clips/s, ratio {ratio:.2f}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
