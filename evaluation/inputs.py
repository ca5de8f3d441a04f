"""JSON files given on a command line: read and looked over, so that a wrong one is told in a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_json(path: Path, fault: type[Exception]) -> Any:
    """The content of a JSON file. Raises ``fault`` where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise fault(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise fault(f"{path} is not JSON: {error}") from None


def is_result(content: Any) -> bool:
    """Whether it has the form of a result file, of testing or of ``evaluation.score``: a protocol, and predictions that name clips."""
    if not isinstance(content, Mapping) or not isinstance(content.get("protocol"), Mapping):
        return False
    predictions = content.get("predictions")
    return isinstance(predictions, list) and all(isinstance(entry, Mapping) and "clip_id" in entry for entry in predictions)
