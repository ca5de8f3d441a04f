"""Questions that several people answered, as in VQAv2: their answers from the annotation file, and files for the VQA server."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnivast.data.annotations import json_stream
from omnivast.evaluation import published as benchmarks
from omnivast.evaluation.metrics.vqa import submission
from omnivast.utils.files import write_atomically

logger = logging.getLogger("omnivast")


def answers_of_people(path: str | Path) -> dict[int, list[str]]:
    """Annotation row → the answers to its question, of the rows with one question (a string) and several answers (a list)."""
    if not Path(path).is_file():
        return {}
    by_row = {}
    with open(path, "rb") as file:
        for number, row in enumerate(json_stream.entries(file)):
            answers = row.get("answer") if isinstance(row, dict) else None
            if isinstance(answers, list) and len(answers) > 1 and isinstance(row.get("question"), str):
                # The same few words are answered a million times.
                by_row[number] = [sys.intern(str(answer)) for answer in answers]
    return by_row


def write_submissions(folder: Path, name: str, groups: Sequence[str], predictions: Sequence[Mapping[str, Any]]) -> None:
    """Write ``<folder>/<name>.<group>.json`` for the VQA server, if every question has an id and the dataset is VQAv2, or several people
    answered its questions, or its questions have no answers here."""
    if not predictions or "question" not in predictions[0]:
        return
    vqa = benchmarks.benchmark_of(name) == "vqav2" or all("answers" in entry for entry in predictions)
    if not vqa and "answer" in predictions[0]:
        return
    for group in groups:
        try:
            rows = submission(predictions, group)
        except ValueError as error:
            logger.warning("%s: no file for the VQA server: %s", name, error)
            return
        write_atomically(folder / f"{name}.{group}.json", json.dumps(rows, ensure_ascii=False) + "\n")
        logger.info("wrote %s for the VQA server", folder / f"{name}.{group}.json")
