"""Shards of the shared corpus, and how tests read them."""

import os
import tarfile
from io import BytesIO
from pathlib import Path

from omnivast.data.batch import Sample
from omnivast.data.dataset import IndexedDataset
from omnivast.data.loader import TrainLoader
from omnivast.data.shards.pack import Packing


def write_tar(path, members) -> str:
    """A tar file of (name, content) or ready TarInfos."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, BytesIO(member[1]))
    return str(path)


def sharded(corpus, folder, **changes):
    """The dataset of ``corpus.config`` in the shards of a folder."""
    return corpus.config(**{"type": "srcindexed", "shards": [str(folder)], "vision": None, "audio": None, "txt": "", **changes})


def packing(corpus, output, **changes) -> Packing:
    settings = {"txt": str(corpus.root / "train.json"), "vision": str(corpus.root / "videos"), "shard_size": 20_000}
    return Packing(**{**settings, "output": str(output), **changes})


def three_clips(corpus) -> int:
    """A size that the third clip passes, also where one of the three is the silent one."""
    loud, silent = (os.path.getsize(corpus.root / "videos" / f"clip{i}.mp4") for i in (0, 3))
    return 2 * (loud + 2048) + silent // 2


def loader(corpus, packed, spec, tokenizer, workers=0, **options):
    config = sharded(corpus, packed, name="c", n_workers=workers, batch_size=6, epoch=6, task="ret%tv",
                     **{key: options.pop(key) for key in ("shuffle_shards",) if key in options})
    return TrainLoader([config], spec, tokenizer, seed=7, **options)


def read_all(config, spec):
    """(ids that were read, id → reason of those that were not)."""
    dataset = IndexedDataset(config, spec, seed=3, training=True)
    results = [dataset.read(row, row) for row in range(len(dataset))]
    return [r.clip_id for r in results if isinstance(r, Sample)], dict(r for r in results if not isinstance(r, Sample))
