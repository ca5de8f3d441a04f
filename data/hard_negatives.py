"""Which clips a clip's texts are mistaken for: the file that ``hard_negatives`` of a dataset names, as rows of its annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from omnivast.config.files import read_json
from omnivast.config.schema import DatasetConfig
from omnivast.config.words import did_you_mean
from omnivast.data.spec import DataError


def read_hard_negatives(config: DatasetConfig, clips: Iterable[str]) -> Mapping[int, list[int]] | None:
    """Row → rows of its hard negatives, of a dataset whose clips have these ids; None where it names no file. Raises DataError for a file
    that is not of these clips."""
    if config.hard_negatives is None:
        return None
    path = Path(config.hard_negatives)
    if config.batch_size % 2:
        raise DataError(f"dataset '{config.name}': with hard_negatives every second clip of a batch is one of the clip's before it, so "
                        f"batch_size must be even; got {config.batch_size}")
    content = read_json(path, DataError, what="file of hard negatives", wanted_by=f" (hard_negatives of dataset '{config.name}')")
    if not isinstance(content, dict) or not all(isinstance(ids, list) for ids in content.values()):
        raise DataError(f"{path}: expected a JSON object with clip ids and a list of clip ids for each, as omnivast mine writes")
    clip_ids = list(clips)
    row_of = {clip_id: row for row, clip_id in enumerate(clip_ids)}
    for clip_id in (name for own, others in content.items() for name in (own, *others)):
        if clip_id not in row_of:
            raise DataError(f"{path}: '{clip_id}' is no clip of {config.txt} (dataset '{config.name}')."
                            f"{did_you_mean(str(clip_id), clip_ids)} Was it mined in another split?")
    return {row_of[own]: [row_of[other] for other in others if other != own] for own, others in content.items()}
