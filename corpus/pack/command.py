"""The verb ``pack``: of a corpus that ``omnivast build`` made, or of any media folders and an annotation file."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnivast.config.paths import as_path
from omnivast.corpus.cut import WAYS
from omnivast.corpus.pack.card import SHOWN
from omnivast.corpus.pack.stage import pack
from omnivast.corpus.plan import BuildError
from omnivast.data.shards import pack as folders
from omnivast.utils.machine import cores

log = logging.getLogger("omnivast")


def parser() -> argparse.ArgumentParser:
    """Of ``pack CORPUS``."""
    made = argparse.ArgumentParser(prog="python -m omnivast pack", description="Pack a corpus that `omnivast build` made: tar shards with "
                                   "the clips, their texts and their history, annotation files, an index (pyarrow), statistics and a "
                                   "card. The same command goes on where it was stopped. Without a corpus: media folders and an "
                                   "annotation file, as below.")
    made.add_argument("corpus", metavar="CORPUS", type=as_path, help="the folder that build wrote, with its clips chosen")
    made.add_argument("--cut", choices=WAYS[1:], default="encode", help="how clips become files (default: encode, to the frame)")
    made.add_argument("--shard-size", type=folders.as_bytes, default=folders.as_bytes("1G"), metavar="BYTES",
                      help="after which a shard is closed: 500M, 1G (default)")
    made.add_argument("--shown", type=int, default=SHOWN, metavar="N", help=f"clips on the card (default: {SHOWN})")
    made.add_argument("--workers", type=int, metavar="N", help="processes on this machine (default: one per core)")
    return made


def pack_corpus(options: argparse.Namespace) -> int:
    """Raises BuildError, DataError, StageError, OSError."""
    if options.shown < 0 or options.workers is not None and options.workers < 1:
        raise BuildError("--workers: expected 1 or more; --shown: 0 or more")
    summary = pack(options.corpus, cutting=options.cut, workers=options.workers or cores(), shard_size=options.shard_size,
                   shown=options.shown)
    say(summary["packed"], options.corpus)
    return 0


def pack_folders(arguments: Sequence[str]) -> int:
    """Of media folders; its help comes behind that of a corpus. The exit status."""
    if {"-h", "--help"} & {*arguments}:
        parser().print_help()
    return folders.main(["pack", *arguments])


def say(packed: dict[str, Any], output: Path) -> None:
    """What was packed, and where to look."""
    log.info("%d clips in %d shards: %s, with card.html beside", packed["clips"], packed["shards"], output / "shards")
    for stage, count in packed["lost"].items():
        log.info("  lost at the stage %s: %d", stage, count)
