"""The captions of a corpus, in the form of an annotation file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omnivast.corpus.engine.results import read_rows
from omnivast.corpus.plan import BuildError

KEYS = {"vision": "vision_cap", "audio": "audio_cap"}
"""Kind of a caption → the field of an annotation file; others are omni captions."""


def caption_rows(corpus: Path, folder: Path | None = None) -> list[dict[str, Any]]:
    """A row for every clip of ``corpus`` that was captioned: its id in annotations, its subtitle, and its captions by kind.

    ``folder``: the results of the stage ``captions``, where the corpus has several. Raises BuildError.
    """
    if not (corpus / "clips.jsonl").is_file():
        raise BuildError(f"{corpus}: holds no clips.jsonl; expected an annotation file, or the folder of omnivast build")
    folders = [folder] if folder else sorted(path for path in (corpus / "work").glob("captions_*") if path.is_dir())
    if len(folders) != 1:
        raise BuildError(f"{corpus}: its clips were captioned {len(folders)} times; " + (
            "name the folder to take with --captions" if folders else "caption them first"))
    found = {row["id"]: row for path in sorted(folders[0].glob("*.jsonl")) for row in read_rows(path)}
    rows = []
    for clip in read_rows(corpus / "clips.jsonl"):
        row: dict[str, Any] = {"clip_id": clip["reference"], "subtitle": clip["subtitle"]}
        for caption in found.get(clip["id"], {}).get("captions", ()):
            row.setdefault(KEYS.get(caption["kind"], "desc"), []).append(caption["text"])
        if len(row) > 2:
            rows.append(row)
    if not rows:
        raise BuildError(f"{folders[0]}: holds no caption of a clip of {corpus}")
    return rows
