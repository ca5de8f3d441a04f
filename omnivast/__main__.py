"""The command ``omnivast`` (also ``python -m omnivast``): one verb for each thing the project does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

VERBS = {
    "train": ("omnivast.launch", "train a model from a JSON config, or test one with --mode testing"),
    "check": ("omnivast.data.check.datasets", "look over a config's datasets before a run"),
    "shards": ("omnivast.data.shards.pack", "pack media and annotations into tar shards, and verify them"),
    "config-reference": ("omnivast.config.reference", "print every setting with its type, default and meaning (docs/config.md)"),
    "formats": ("omnivast.data.formats", "list the media formats and annotation shapes that are read"),
    "label": ("omnivast.evaluation.label", "caption your own clips with a trained model"),
    "score": ("omnivast.evaluation.score.predictions", "score predictions made anywhere"),
    "compare": ("omnivast.evaluation.compare", "test whether two results differ"),
    "report": ("omnivast.evaluation.report.run_report", "one HTML page from the output folders of runs"),
    "omnistamps": ("omnivast.corpus.omnistamps.__main__", "make the OmniStamps clips"),
}
"""Verb → (module with a ``main`` or ``run`` that takes the arguments, what it does)."""


def usage() -> str:
    width = max(map(len, VERBS))
    return "usage: omnivast VERB [ARGUMENTS]\n\n" + "\n".join(f"  {verb:<{width}}  {does}" for verb, (_, does) in VERBS.items())


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        sys.stderr.write(f"omnivast: no verb '{verb}'\n{usage()}\n")
        return 2
    module = importlib.import_module(VERBS[verb][0])
    if verb == "train":
        module.run(rest)
        return 0
    return int(module.main(rest) or 0)


if __name__ == "__main__":
    sys.exit(main())
