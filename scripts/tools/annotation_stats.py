"""What annotation files hold, side by side: clips, captions and their lengths, words, audio concepts, and what is missing or repeated.

    python -m omnivast stats train.json test.json
    python -m omnivast stats train.json --tokenizer pretrained_weights/bert/bert-base-uncased --json > train.stats.json

Files: a list of rows as for a training, {"annotations": [{"video_id", "caption"}, ...]} as COCO has it, or {id: captions or questions} as
VALOR's text mapper. Each kind of text of a file has a column. ACD is the audio concept density of VALOR's paper (section 3.4): how many
names of AudioSet's classes the texts mention, per 100 words.

Exit status: 0; 2 a file cannot be read; 130 stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omnivast.config.files import read_json
from omnivast.config.paths import as_path
from omnivast.config.schema import ModelConfig
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.spec import DataError, InputSpec
from omnivast.data.stats.concepts import SHIPPED, ConceptDetector, class_names, concepts_of
from omnivast.data.stats.measure import TOP, measure
from omnivast.data.stats.table import table
from omnivast.model.text.tokenizer import TokenizerError, load_tokenizer
from omnivast.utils.console import readers_may_leave
from omnivast.utils.log import setup_logging

logger = logging.getLogger("omnivast")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures of the files that a command line names; the exit status."""
    options = _options(arguments)
    setup_logging(None)
    spec = InputSpec.of(ModelConfig())
    if options.max_caption_len is not None:
        spec = replace(spec, max_caption_len=options.max_caption_len, max_omni_caption_len=options.max_caption_len)
    try:
        detector = ConceptDetector(concepts_of(class_names(options.ontology)))
        tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
        only = _ids(options.ids) if options.ids else None
        measured = [measure(file, detector, top=options.top, tokenizer=tokenizer, lengths=spec.lengths, only=only)
                    for file in options.files]
    except (DataError, TokenizerError) as error:
        sys.stderr.write(f"stats: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    for figures in measured:
        if fields := figures["unread_fields"]:
            logger.warning("%s: fields that are not read: %s", figures["file"],
                           ", ".join(f"{name} (in {rows:,})" for name, rows in fields.items()))
    with readers_may_leave():
        if options.json:
            sys.stdout.write(json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
        else:
            sys.stdout.write(table(measured, shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m omnivast stats", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=as_path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print a JSON list with the figures of each file, the lengths of all texts too")
    parser.add_argument("--top", type=_number, default=TOP, metavar="N",
                        help="list so many words, concepts and answers, the most frequent first (default: %(default)s)")
    parser.add_argument("--tokenizer", type=as_path, metavar="PATH",
                        help="count tokens too: a vocab.txt or tokenizer.json of BERT, or a folder with one")
    parser.add_argument("--max_caption_len", type=_number, metavar="N",
                        help="with --tokenizer: the most tokens of a caption or question (default: as the settings of a training)")
    parser.add_argument("--ontology", type=as_path, default=SHIPPED, metavar="FILE",
                        help="take the concepts from AudioSet's ontology.json or class_labels_indices.csv, or a JSON list of names")
    parser.add_argument("--ids", type=as_path, metavar="FILE",
                        help="look at the clips of this JSON list of ids alone, such as one split of VALOR's text mapper")
    options = parser.parse_args(arguments)
    if options.max_caption_len is not None and not options.tokenizer:
        parser.error("--max_caption_len counts tokens: name a --tokenizer")
    return options


def _ids(path: Path) -> frozenset[str]:
    """The ids in a JSON list. Raises AnnotationError."""
    ids = read_json(path, AnnotationError, what="file of ids", expected="a JSON list of ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(clip_id, (str, int)) for clip_id in ids):
        raise AnnotationError(f"{path}: expected a JSON list of ids")
    return frozenset(map(str, ids))


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
