"""What a dataset must have for its task: asked by the checks of a config, and again where its media are opened."""

from __future__ import annotations

from collections.abc import Iterator

from omnivast.config.schema import DatasetConfig
from omnivast.config.tasks import Modality, Task


def lacks(dataset: DatasetConfig, task: Task, sounds_in_shards: bool | None) -> Iterator[str]:
    """What the dataset lacks for its task, or has that excludes it, a clause each.

    ``sounds_in_shards``: whether sound files are among the members of its shards; None: its media lie in folders.
    """
    for modality in task.modalities:
        group = next(group for group in task.all_groups if modality in group)
        why = f"group '{group}' of task '{task}' needs {modality.word}"
        if modality is Modality.VISION:
            yield from _vision(dataset, why, sounds_in_shards is not None)
        elif modality is Modality.AUDIO:
            yield from _audio(dataset, why, sounds_in_shards)
    if dataset.cache_dir and Modality.VISION in task.modalities:
        yield from _cache(dataset)


def _vision(dataset: DatasetConfig, why: str, in_shards: bool) -> Iterator[str]:
    if not dataset.vision and not in_shards:
        yield f"{why}, but 'vision', the folder of videos or images, is not set"
    if dataset.vision_sample_num is None:
        yield f"{why}, but 'vision_sample_num', the frames per clip, is not set"


def _audio(dataset: DatasetConfig, why: str, sounds_in_shards: bool | None) -> Iterator[str]:
    seen = bool(dataset.vision) or sounds_in_shards is not None
    own_track = seen and dataset.vision_format in ("video_rawvideo", "video")
    if not (dataset.audio or sounds_in_shards or own_track):
        reason = f"{dataset.vision_format} has no track" if seen else "no videos are named whose own track could serve"
        told = "its shards have no sound files" if sounds_in_shards is not None else "'audio', the folder of sound files, is not set"
        yield f"{why}, but {told}, and {reason}"
    if dataset.audio_sample_num is None:
        yield f"{why}, but 'audio_sample_num', the sound slices per clip, is not set"


def _cache(dataset: DatasetConfig) -> Iterator[str]:
    if dataset.vision_transforms != "none":
        yield (f"cache_dir keeps frames as first read, so vision_transforms '{dataset.vision_transforms}' would repeat one crop; use "
               "'none', or no cache_dir")
    if dataset.vision_format in ("video_frame", "video"):
        yield f"cache_dir is for videos and images; folders of frames (vision_format {dataset.vision_format}) are decoded already"
