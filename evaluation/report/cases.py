"""Cases of a result as cards: frames, sound, subtitle, references, and what the model found or said."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnivast.data.audio import SAMPLE_RATE
from omnivast.data.media.decode import read_clip, read_frame_folder, read_sound
from omnivast.data.media.errors import MediaError
from omnivast.data.media.folders import MediaFolder, vision_folder
from omnivast.data.media.images import read_image
from omnivast.data.vision import frame_indices
from omnivast.evaluation.metrics.accuracy import exact_matches
from omnivast.evaluation.report.page import Card, Line, Picture, Sound, jpeg_uri, sound_of
from omnivast.evaluation.report.run_files import Result, Run, found_from, goodness, mapping, rank_of

SHOWN_FRAMES, THUMBNAIL = 4, 96
"""Frames of a case, and the side of a retrieved clip's picture."""
CASES = 3


@dataclass(frozen=True)
class ClipFiles:
    """Where the clips of a dataset are seen and heard: the folders of its config, None for one that there is not."""

    vision: str | None
    vision_format: str | None = "video_rawvideo"
    audio: str | None = None
    """None: the sound tracks of the videos are heard."""

    def frames(self, clip_id: str, number: int = SHOWN_FRAMES, side: int = 160) -> list[Picture]:
        """The frames that an evaluation with ``number`` frames per clip takes; none for datasets without pictures. Raises MediaError."""
        if not self.vision:
            return []

        def choose(count: int) -> list[int]:
            return frame_indices(count, number, training=False)

        path = vision_folder(self.vision, self.vision_format).find(clip_id)
        if self.vision_format == "image_rawimage":
            return [Picture(jpeg_uri(read_image(path), 2 * side), f"frame of {clip_id}")]
        clip = read_frame_folder(path, choose) if os.path.isdir(path) else read_clip(path, choose)
        return [] if clip.frames is None else [Picture(jpeg_uri(frame, side), f"frame of {clip_id}") for frame in clip.frames]

    def sound(self, clip_id: str) -> Sound | None:
        """The clip's sound from its own file or its video's track. Raises MediaError."""
        folder = self.audio or (self.vision if self.vision_format in ("video_rawvideo", "video") else None)
        return sound_of(read_sound(MediaFolder(folder).find(clip_id)), SAMPLE_RATE) if folder else None

    def retrieved(self, clip_ids: Sequence[str], true: str, words: Mapping[str, str] | None = None) -> list[Picture]:
        """One frame of each retrieved clip, best first; where it cannot be read, its caption (its id) alone."""
        return [Picture(self._thumbnail(clip_id), (words or {}).get(clip_id, clip_id), f"{rank}.", clip_id == true)
                for rank, clip_id in enumerate(clip_ids, start=1)]

    def _thumbnail(self, clip_id: str) -> str:
        try:
            return next((picture.uri for picture in self.frames(clip_id, 1, THUMBNAIL)), "")
        except MediaError:
            return ""


def cases_of(result: Result, run: Run, rows: Mapping[str, Mapping[str, Any]], cases: int) -> list[Card]:
    """Best, median and worst cases, of different clips, as cards; where nothing can be scored, the first cases."""
    entries = result.entries
    good = goodness(result) if result.answered else [0.0] * len(entries)
    order = sorted(range(len(entries)), key=lambda index: -good[index])  # stable: equally good ones stay in their order
    middle = max(0, (len(order) - cases) // 2)
    sections = [("Best", order), ("Median", order[middle:]), ("Worst", order[::-1])] if result.answered else [("Case", order)]
    datasets = mapping(run.config.get("data_cfg")).get("val", ())
    settings = mapping(next((dataset for dataset in datasets if dataset.get("name") == result.name), None))
    folders = {key: str(found_from(result.path, settings[key])) if settings.get(key) else None for key in ("vision", "audio")}
    files = ClipFiles(folders["vision"], settings.get("vision_format"), folders["audio"])
    cards: list[Card] = []
    used: set[str] = set()
    for title, picked in sections:
        number = 0
        for index in picked:
            entry = entries[index]
            if number < cases and entry["clip_id"] not in used:
                used.add(entry["clip_id"])
                number += 1
                cards.append(_case(f"{title} {number}", result, entry, files, rows.get(entry["clip_id"], {})))
    return cards


def _case(title: str, result: Result, entry: Mapping[str, Any], files: ClipFiles, row: Mapping[str, Any]) -> Card:
    clip_id, group = entry["clip_id"], result.group
    frames: list[Picture] = []
    sound, lines, blocks = None, [], []
    try:
        frames = files.frames(clip_id)
        sound = files.sound(clip_id)
    except MediaError as error:
        lines.append(Line("media", f"not shown: {error}"))
    if row.get("subtitle"):
        lines.append(Line("subtitle", str(row["subtitle"])))
    if result.objective == "ret":
        rank = rank_of(entry, group)
        lines += [Line("text", entry["text"]), Line("rank", f"{rank:,}", rank == 1)]
        blocks = [("Found first", files.retrieved(entry[group]["top"], clip_id))]
    elif result.objective == "cap":
        lines += [Line("model", entry[group] or "(nothing)"), *(Line("reference", text) for text in entry["references"][:3])]
    elif not result.answered:
        lines += [Line("question", entry["question"]), Line("model", entry[group] or "(nothing)")]
    else:
        right = exact_matches([entry[group]], [entry["answer"]])[0]
        answers = Counter(entry.get("answers") or [entry["answer"]]).most_common()
        lines += [Line("question", entry["question"]), Line("model", entry[group] or "(nothing)", bool(right)),
                  Line("answer", ", ".join(f"{answer} ×{count}" if len(answers) > 1 else answer for answer, count in answers))]
    return Card(title, clip_id, frames, lines, blocks, sound=sound)
