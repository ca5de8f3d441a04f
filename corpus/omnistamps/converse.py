"""Write conversations about the clips of an OmniStamps set, and clips with the sound of another: what an Audio-Visual LLM is trained and
tested with, see ``conversations.py``.

    python -m omnivast conversations --data datasets/omnistamps/quick --output output/avllm/conversations
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnivast.config.paths import as_path


class ConversationError(ValueError):
    """A folder that holds no OmniStamps set; the message names the file."""


def write(data: Path, output: Path, seed: int = 0, each: int = 2) -> dict[str, int]:
    """All files of conversations about the set in ``data``; the number of rows of each. Raises ConversationError.

    ``each``: conversations about each training clip.
    """
    # Imported here: help comes before anything is installed.
    from omnivast.corpus.omnistamps.build import SOURCE
    from omnivast.corpus.omnistamps.conversations import Writer, blind
    from omnivast.corpus.omnistamps.facts import SPLITS, read_stamps
    from omnivast.corpus.omnistamps.swap import swap
    from omnivast.utils.files import write_atomically

    subtitles = {row["video_id"]: row["subtitle"] for split in SPLITS for row in _read(data / f"ret_{split}.json")}
    phrases = {stamp.noun: stamp.phrase for stamp in read_stamps(SOURCE).values()}
    writer = Writer(_read(data / "clips.json"), subtitles, phrases, seed)
    swapped = writer.swapped()
    files = {"scenes_train": writer.scenes(), "captions_train": writer.captions(), "chat_train": writer.training(each),
             "chat_val": writer.tests("val"), "chat_test": writer.tests("test"), "swap_test": writer.swap_rows(swapped)}
    files |= {f"blind_{split}": blind(files[f"chat_{split}"]) for split in ("train", "test")}
    swap([(name, seen["clip_id"], heard["clip_id"]) for name, seen, heard in swapped], data / "clips", output / "swapped")
    for name, rows in files.items():
        write_atomically(output / f"{name}.json", json.dumps(rows, indent=0) + "\n")
    return {name: len(rows) for name, rows in files.items()}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConversationError(f"{path}: {error.strerror}; expected a set made by `python -m omnivast omnistamps`") from None
    except ValueError as error:
        raise ConversationError(f"{path}: not JSON ({error})") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; the exit status, 2 after an error that the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m omnivast conversations", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=as_path, default=Path("datasets/omnistamps/quick"), help="an OmniStamps set (default %(default)s)")
    parser.add_argument("--output", type=as_path, default=Path("output/avllm/conversations"), help="folder to write (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides every choice (default 0)")
    parser.add_argument("--each", type=int, default=2, help="conversations about each training clip (default %(default)s)")
    options = parser.parse_args(arguments)
    from omnivast.utils.log import setup_logging

    setup_logging(None)
    log = logging.getLogger("omnivast")
    try:
        counts = write(options.data, options.output, options.seed, options.each)
    except ConversationError as error:
        log.error("%s", error)
        return 2
    log.info("%s: %s", options.output, ", ".join(f"{name}.json {count}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
