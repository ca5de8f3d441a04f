"""Best, median and worst cases of a result as cards: frames, sound, subtitle, references, and what the model found or said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from omnivast.data.audio import SAMPLE_RATE
from omnivast.data.media.decode import MediaError, MediaFolder, read_clip, read_frame_folder, read_image, read_sound
from omnivast.evaluation.metrics.accuracy import exact_matches
from omnivast.evaluation.report.page import Card, Line, Picture, jpeg_uri, sound_of
from omnivast.evaluation.report.run_files import Result, Run, found_from, goodness, mapping, rank_of

SHOWN_FRAMES = 4
CASES = 3


def cases_of(result: Result, run: Run, rows: Mapping[str, Mapping[str, Any]], cases: int) -> list[Card]:
    """Best, median and worst cases, of different clips, as cards; where nothing can be scored, the first cases."""
    entries = result.entries
    good = goodness(result) if result.answered else [0.0] * len(entries)
    order = [place for _, place in sorted(zip(good, range(len(entries))), key=lambda pair: (-pair[0], pair[1]))]
    middle = max(0, (len(order) - cases) // 2)
    sections = [("Best", order), ("Median", order[middle:]), ("Worst", order[::-1])] if result.answered else [("Case", order)]
    datasets = mapping(run.config.get("data_cfg")).get("val", ())
    settings: dict[str, Any] = dict(next((own for own in datasets if own.get("name") == result.name), {}))
    settings |= {key: str(found_from(result.path, settings[key])) for key in ("vision", "audio") if settings.get(key)}
    cards: list[Card] = []
    used: set[str] = set()
    for title, picked in sections:
        number = 0
        for place in picked:
            entry = entries[place]
            if number < cases and entry["clip_id"] not in used:
                used.add(entry["clip_id"])
                number += 1
                cards.append(_case(f"{title} {number}", result, entry, settings, rows.get(entry["clip_id"], {})))
    return cards


def _case(title: str, result: Result, entry: Mapping[str, Any], settings: Mapping[str, Any], row: Mapping[str, Any]) -> Card:
    clip_id, group = entry["clip_id"], result.group
    frames: list[Picture] = []
    waveform, lines, blocks = None, [], []
    try:
        frames = [Picture(uri, f"frame of {clip_id}") for uri in _frames(settings, clip_id)]
        waveform = _waveform(settings, clip_id)
    except MediaError as error:
        lines.append(Line("media", f"not shown: {error}"))
    if row.get("subtitle"):
        lines.append(Line("subtitle", str(row["subtitle"])))
    if result.objective == "ret":
        rank = rank_of(entry, group)
        lines += [Line("text", entry["text"]), Line("rank", f"{rank:,}", rank == 1)]
        found = enumerate(entry[group]["top"], start=1)
        blocks = [("Found first", [_thumbnail(settings, other, place, other == clip_id) for place, other in found])]
    elif result.objective == "cap":
        lines += [Line("model", entry[group] or "(nothing)"), *(Line("reference", text) for text in entry["references"][:3])]
    elif not result.answered:
        lines += [Line("question", entry["question"]), Line("model", entry[group] or "(nothing)")]
    else:
        right = exact_matches([entry[group]], [entry["answer"]])[0]
        answers = Counter(entry.get("answers") or [entry["answer"]]).most_common()
        lines += [Line("question", entry["question"]), Line("model", entry[group] or "(nothing)", bool(right)),
                  Line("answer", ", ".join(f"{answer} ×{count}" if len(answers) > 1 else answer for answer, count in answers))]
    return Card(title, clip_id, frames, lines, blocks, sound=sound_of(waveform, SAMPLE_RATE))


def _thumbnail(settings: Mapping[str, Any], clip_id: str, place: int, right: bool) -> Picture:
    """One frame of a clip that was found, or its name alone."""
    try:
        uri = next(iter(_frames(settings, clip_id, 1, 96)), "")
    except MediaError:
        uri = ""
    return Picture(uri, clip_id, f"{place}.", right)


def _frames(settings: Mapping[str, Any], clip_id: str, number: int = SHOWN_FRAMES, side: int = 160) -> list[str]:
    """Frames at equal distances as embedded pictures; none for datasets without pictures."""
    folder, kind = settings.get("vision"), settings.get("vision_format")
    if not folder:
        return []

    def spread(total: int) -> list[int]:
        return [(2 * n + 1) * total // (2 * number) for n in range(number)]

    path = MediaFolder(folder, directories=kind == "video_frame").find(clip_id)
    if kind == "image_rawimage":
        return [jpeg_uri(read_image(path), 2 * side)]
    clip = read_frame_folder(path, spread) if kind == "video_frame" else read_clip(path, spread)
    return [] if clip.frames is None else [jpeg_uri(frame, side) for frame in clip.frames]


def _waveform(settings: Mapping[str, Any], clip_id: str) -> Tensor | None:
    """The clip's sound from its own file or its video's track."""
    folder = settings.get("audio") or (settings.get("vision") if settings.get("vision_format") == "video_rawvideo" else None)
    return read_sound(MediaFolder(folder).find(clip_id)) if folder else None
