"""Checks result files given on a command line, so that a wrong one is answered in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_result(content: Any) -> bool:
    """Whether ``content`` has the form of a result file, of testing or of ``evaluation.score``: a protocol, and predictions that name
    clips."""
    if not isinstance(content, Mapping) or not isinstance(content.get("protocol"), Mapping):
        return False
    groups, predictions = content["protocol"].get("groups") or [], content.get("predictions")
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups) or not isinstance(predictions, list):
        return False
    return all(isinstance(entry, Mapping) and "clip_id" in entry and isinstance(entry.get("answer", ""), str)
               and all(isinstance(entry.get(group, ""), (str, Mapping)) for group in groups) for entry in predictions)
