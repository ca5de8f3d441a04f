"""JSON files given on a command line: read and looked over, so that a wrong one is told in a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnivast.config.files import read_text, why_not_json
from omnivast.config.paths import looked_up


def read_json(path: Path, fault: type[Exception]) -> Any:
    """The content of a JSON file. Raises ``fault`` where there is none."""
    try:
        return json.loads(read_text(path))
    except OSError as error:
        raise fault(f"{path} cannot be read: {why_not_json(error)}{looked_up(path)}") from None
    except (ValueError, RecursionError) as error:
        raise fault(f"{path} is not JSON: {why_not_json(error)}") from None


def is_result(content: Any) -> bool:
    """Whether it has the form of a result file, of testing or of ``evaluation.score``: a protocol, and predictions that name clips."""
    if not isinstance(content, Mapping) or not isinstance(content.get("protocol"), Mapping):
        return False
    groups, predictions = content["protocol"].get("groups") or [], content.get("predictions")
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups) or not isinstance(predictions, list):
        return False
    return all(isinstance(entry, Mapping) and "clip_id" in entry and isinstance(entry.get("answer", ""), str)
               and all(isinstance(entry.get(group, ""), (str, Mapping)) for group in groups) for entry in predictions)
