"""The card of a corpus: one page, the same in Markdown, and a contact sheet of sampled clips (``card.html``, ``card.md``, ``card.jpg``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from omnivast.corpus.engine.results import Row
from omnivast.corpus.pack.rows import OMNI
from omnivast.corpus.pack.shards import kept
from omnivast.corpus.pack.statistics import KINDS, STAGE_WORDS
from omnivast.data.media.decode import read_clip
from omnivast.data.media.errors import MediaError
from omnivast.data.vision import frame_indices
from omnivast.evaluation.report.charts import bar_chart
from omnivast.evaluation.report.page import Card, Cell, Line, Picture, Report, jpeg_uri
from omnivast.utils.files import write_atomically

PAPER_WORDS = {"vision": 12.5, "audio": 7.2, "omni": 32.4}
"""Mean words of a caption in VAST-27M, by the VAST paper."""
HOW_WORDS = {"llm": "written by the language model", "sentence": "put together from the captions", "left out": "left out",
             "failed": "not done"}
SHOWN = 24
FRAMES, SIDE = 3, 160
COLUMNS, TILE = 6, (160, 90)
"""Of the contact sheet."""


def write_card(output: Path, summary: Mapping[str, Any], found: Mapping[str, Any], shown: int = SHOWN) -> Path:
    """``summary``: of the build, with ``packed``. ``found``: the statistics. The page's path."""
    report = Report("Corpus card", _subtitle(summary, found))
    _facts(report, summary, found)
    _captions(report, found)
    _making(report, found)
    _lost(report, summary, found)
    _training(report, summary["packed"])
    _wall(report, output, sampled(output, shown))
    return report.write(output / "card.html")


def sampled(output: Path, shown: int) -> list[Row]:
    """Clips at equal distances in the corpus, not picked."""
    total = sum(1 for _ in kept(output))
    wanted = {n * total // shown for n in range(shown)} if total > shown else set(range(total))
    return [row for number, (_, row) in enumerate(kept(output)) if number in wanted]


def _subtitle(summary: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    return " · ".join([f"{found['clips']:,} clips", _long(found["seconds"]["sum"]), f"{found['sources_with_clips']:,} sources",
                       f"recipe {summary['recipe']}"])


def _long(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def _facts(report: Report, summary: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    packed, made_by, seconds, spread = summary["packed"], summary["packed"]["made_by"], found["seconds"], found["clips_per_source"]
    report.section("What is in it")
    thresholds = ", ".join(_setting(name, value) for name, value in made_by["thresholds"].items())
    rows = [
        ("clips", f"{found['clips']:,}, {seconds['mean']:.1f} s on average ({seconds['least']:g} to {seconds['most']:g} s)"),
        ("sources", f"{found['sources_with_clips']:,} of {found['sources']:,} have clips, {spread['mean']:.1f} on average, "
                    f"{spread['least']:g} to {spread['most']:g}"),
        ("tracks", ", ".join(f"{_tracks(letters)}: {count:,}" for letters, count in found["modalities"].items())),
        ("files", f"{packed['shards']:,} tar shard{'s' if packed['shards'] > 1 else ''}, {packed['bytes'] / 2**20:,.1f} MiB, clips cut by "
                  f"{packed['cut']}"),
        ("shots by", " ".join(filter(None, (made_by["detector"], made_by["detector_version"] and f"({made_by['detector_version']})")))),
        ("recipe", f"{made_by['recipe']}: {thresholds}"),
    ]
    if made_by["join_distance"] is not None:
        rows.append(("joined at", f"{made_by['join_distance']:.3f}, for the recipe's join"))
    report.table(["", "corpus"], [[name, Cell(text, "left")] for name, text in rows])
    report.charts([bar_chart("Lengths of clips", found["seconds_histogram"], x_label="seconds"),
                   bar_chart("Clips of a source (sources)", found["clips_per_source_histogram"], x_label="clips")])


def _setting(name: str, value: Any) -> str:
    """``cut to most``, ``take 30``, ``at 0.1 and 0.9``."""
    words = "" if value is True else " and ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return f"{name.replace('_', ' ')} {words}".strip()


def _tracks(letters: str) -> str:
    return " + ".join({"v": "picture", "a": "sound", "s": "subtitle"}[letter] for letter in letters)


def _captions(report: Report, found: Mapping[str, Any]) -> None:
    texts = found["texts"]
    if not texts:
        return
    report.section("Captions and subtitles", "Words of a text, on average and at the median; beside them the means that the VAST paper "
                   "gives for VAST-27M. Unlike: percent of the texts of a kind that are different ones.")
    rows = [[kind, f"{own['clips']:,}", f"{own['texts']:,}", own["words"]["mean"], f"{own['words']['median']:g}", PAPER_WORDS.get(kind),
             100 * own["different"] / own["texts"]] for kind, own in texts.items()]
    report.table(["kind", "clips", "texts", "words", "median", "VAST-27M", "unlike"], rows)
    repeated = [[kind, f"{own['most_repeated']['times']:,}", Cell(own["most_repeated"]["text"], "left")] for kind, own in texts.items()
                if own["most_repeated"]["times"] > 1]
    if repeated:
        report.table(["kind", "times", "text"], repeated, caption="The text of each kind that is repeated most")
    report.charts([bar_chart(f"Words: {kind}", texts[kind]["words_histogram"], x_label="words") for kind in KINDS if kind in texts])


def _making(report: Report, found: Mapping[str, Any]) -> None:
    """Who captioned, and how captions were fused."""
    if found["teachers"]:
        report.section("Who captioned", "All captions that were made, those of clips that were lost later too.")
        rows = [[Cell(name, "left"), f"{own['captions']:,}", own["score"] and f"{own['score']['mean']:.3f}"]
                for name, own in found["teachers"].items()]
        report.table(["teacher", "captions", "mean score"], rows)
    fusion = found["fusion"]
    if fusion:
        total, tries = sum(fusion["how"].values()), fusion["tries"]
        report.section("How captions were fused", f"{tries['mean']:.1f} tries a clip on average, {tries['most']:g} at most.")
        report.table(["omni caption", "clips", "share"], [[HOW_WORDS.get(how, how), f"{count:,}", f"{100 * count / total:.1f} %"]
                                                         for how, count in sorted(fusion["how"].items(), key=lambda pair: -pair[1])])


def _lost(report: Report, summary: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    report.section("What was lost where", "In the order of the stages. Sources that could not be read, pieces and clips that a "
                   "recipe drops, and clips that a later stage left out.")
    if not found["lost"]:
        report.text("Nothing was.")
        return
    report.table(["stage", "lost", "why"], [[STAGE_WORDS.get(row["stage"], row["stage"]), f"{row['count']:,} {row['what']}"
                                            f"{'s' if row['count'] != 1 else ''}", Cell(row["reason"], "left")] for row in found["lost"]])


def _training(report: Report, packed: Mapping[str, Any]) -> None:
    if not packed["annotations"]:
        return
    report.section("To train on it", 'A dataset of a config: {"type": "srcindexed", "shards": ["CORPUS/shards"], "txt": …, "task": …}, '
                   "with CORPUS, the folder of this card, before the file.")
    rows = [[kind, *(Cell(text, "left") for text in (f"{own['clips']:,}", own["txt"], own["task"]))]
            for kind, own in packed["annotations"].items()]
    report.table(["captions", "clips", "txt", "task"], rows)


def _wall(report: Report, output: Path, rows: Sequence[Row]) -> None:
    report.section(f"{len(rows)} clips", "At equal distances in the corpus, not picked.")
    cards, tiles = [], list[Tensor | None]()
    for number, row in enumerate(rows, start=1):
        history = row["history"]
        frames, lines = list[Tensor](), []
        try:
            frames = _frames(output / "clips" / history["file"]["file"])
        except MediaError as error:
            lines.append(Line("media", f"not shown: {error.reason}"))
        tiles.append(frames[len(frames) // 2] if frames else None)
        lines += [Line("seen", row["vision_cap"][0])] if "vision_cap" in row else []
        lines += [Line("heard", row["audio_cap"][0])] if "audio_cap" in row else []
        lines += [Line("said", f"“{row['subtitle']}”")] if row["subtitle"] else []
        lines += [Line("omni", row[OMNI])] if OMNI in row else []
        aside = f"{history['source']}, {history['start']:.1f} to {history['end']:.1f} s"
        cards.append(Card(f"{number}.", aside, [Picture(jpeg_uri(frame, SIDE), f"frame of {row['clip_id']}") for frame in frames], lines))
    write_atomically(output / "card.jpg", _sheet(tiles))
    report.charts([], plain="![the clips below, in their order](card.jpg)")
    report.gallery(cards, wall=True)


def _frames(path: Path) -> list[Tensor]:
    """(3, H, W) uint8, at equal distances. Raises MediaError."""
    clip = read_clip(path, lambda count: frame_indices(count, FRAMES, training=False))
    return [] if clip.frames is None else list(clip.frames)


def _sheet(tiles: Sequence[Tensor | None]) -> Any:
    """Writes the contact sheet: a numbered frame of each clip, row by row."""
    width, height = TILE
    sheet = Image.new("RGB", (COLUMNS * width, max(1, -(-len(tiles) // COLUMNS)) * height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for number, tile in enumerate(tiles):
        x, y = number % COLUMNS * width, number // COLUMNS * height
        if tile is not None:
            image = Image.fromarray(tile.permute(1, 2, 0).contiguous().cpu().numpy())
            image.thumbnail((width - 4, height - 4))
            sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
        pen.rectangle((x + 3, y + 3, x + 20, y + 16), fill="white")
        pen.text((x + 6, y + 4), str(number + 1), fill="black", font=font)

    def write(file: BinaryIO) -> None:
        sheet.save(file, "JPEG", quality=85)

    return write
