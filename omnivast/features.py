"""Encodes, before a run, the clips whose features are not kept yet (run_cfg.features_dir)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from omnivast.config.schema import Config
from omnivast.config.tasks import Modality
from omnivast.data.batch import Sample, collate
from omnivast.data.dataset import IndexedDataset
from omnivast.data.features import FeatureStore
from omnivast.data.loader import BatchStream, Key, data_loader, workers
from omnivast.data.media.errors import MediaError
from omnivast.data.media.reader import ClipMedia
from omnivast.model.interface import Model
from omnivast.training.checkpoints.checkpoint import load_latest
from omnivast.utils import distributed
from omnivast.utils.log import Progress, progress

logger = logging.getLogger("omnivast")
CLIPS_AT_ONCE = 16


def keep_features(model: Model, sources: Sequence[IndexedDataset], store: FeatureStore, config: Config, resuming: bool) -> None:
    """Encode what is not kept of the clips of ``sources``, each process its share; on every process.

    ``resuming``: the towers' weights are those of the checkpoint that the run goes on from.
    """
    if resuming and (loaded := load_latest(Path(config.run_cfg.output_dir) / "ckpt")) is not None:
        model.load_state_dict(loaded.model)
    store.keys = model.tower_keys()
    rows = distributed.computed_once(lambda: lacking(sources, store))
    own = rows[distributed.rank() :: distributed.world_size()]
    if rows:
        logger.info("features of %d clip(s) are computed once and kept in %s", len(rows), store.folder)
    model.eval()
    bar: Progress[Any] = progress(len(own), "features", unit="clips")
    batches = [[(*own[place], own[place][1]) for place in range(start, min(start + CLIPS_AT_ONCE, len(own)))]
               for start in range(0, len(own), CLIPS_AT_ONCE)]
    processes = min(max((workers(source.config) for source in sources), default=0), len(batches))
    stream = BatchStream(data_loader(_Reader(sources), batches, processes, pin_memory=False))
    with bar, torch.no_grad():
        for read in stream:
            for number, row, media in read:  # type: ignore[attr-defined]
                _encode(model, sources[number], row, media, store)
                bar.update(1)
    distributed.barrier()


class _Reader(Dataset):
    """Runs in a worker: (dataset, row) → the media of the clip; nothing of one that cannot be read."""

    def __init__(self, sources: Sequence[IndexedDataset]) -> None:
        self._sources = list(sources)

    def __getitems__(self, keys: list[Key]) -> list[tuple[int, int, ClipMedia]]:
        found = []
        for number, row, _ in keys:
            try:
                found.append((number, row, self._sources[number].media(row, row)))
            except MediaError:
                continue  # whoever needs the clip says so
        return found


def _encode(model: Model, source: IndexedDataset, row: int, media: ClipMedia, store: FeatureStore) -> None:
    """Encode one clip. Its features do not depend on which others are encoded with it, so it is alone."""
    sample = Sample("", row, frames=media.frames, spectrogram=media.spectrogram)
    batch = collate([sample], corpus=source.name, tokenizer=_no_tokenizer(), lengths=source.lengths, task=source.task).to(model.device)
    for modality, read_as in source.reader_of(row).read_as(source.annotations[row].clip_id).items():
        if store.path(modality, read_as).exists():
            continue
        absent = modality is Modality.AUDIO and not media.has_sound
        found = {} if absent else model.tower_features(batch, modality)
        store.write(modality, read_as, {name: x[0] for name, x in found.items()})


def _no_tokenizer() -> Any:
    """Nothing is said of a clip that is encoded alone."""
    return None


def lacking(sources: Sequence[IndexedDataset], store: FeatureStore) -> list[tuple[int, int]]:
    """(dataset, row) of the clips of which a track's features are not kept, each clip once. Clips that cannot be found are left to who
    reads them."""
    seen: set[Path] = set()
    rows = []
    for number, source in enumerate(sources):
        for row in range(len(source)):
            paths: set[Path] = set()
            with suppress(MediaError):
                read_as = source.reader_of(row).read_as(source.annotations[row].clip_id)
                paths = {store.path(modality, own) for modality, own in read_as.items()} - seen
            seen |= paths
            if not all(path.exists() for path in paths):
                rows.append((number, row))
    return rows
