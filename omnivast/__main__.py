"""The command ``omnivast`` (also ``python -m omnivast``): one verb for each thing the project does.

A verb's module is imported when it is asked for, so that help and spelling mistakes are answered at once, and before anything is
installed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from omnivast import __version__
from omnivast.config.words import did_you_mean
from omnivast.utils.requirements import require_installed


@dataclass(frozen=True)
class Verb:
    """``main(arguments)`` of ``module`` does it and returns the exit status, or None for 0."""

    does: str
    module: str
    first: tuple[str, ...] = ()
    """Words that go before the user's."""
    main: str = "main"


GROUPS: dict[str, dict[str, Verb]] = {
    "Models": {
        "train": Verb("train a model from a JSON config, on one process or under torchrun", "omnivast.launch", main="run"),
        "test": Verb("test a checkpoint on a config's datasets", "omnivast.launch", ("--mode", "testing"), main="run"),
        "zero-shot": Verb("test one checkpoint on many benchmarks, each on its own", "omnivast.scripts.vast.zero_shot"),
        "label": Verb("caption your own videos, pictures and sounds with a trained model", "omnivast.label"),
        "config-reference": Verb("print every setting with its type, default and meaning", "omnivast.config.reference"),
    },
    "Your own clips": {
        "caption": Verb("caption videos, pictures and sounds", "omnivast.inference.cli", main="caption"),
        "answer": Verb("answer questions about a video, picture or sound", "omnivast.inference.cli", main="answer"),
        "chat": Verb("converse about a video, picture or sound, with a model that has a language model", "omnivast.inference.cli_chat",
                     main="chat"),
        "index": Verb("make a folder of videos searchable, or bring its index up to date", "omnivast.inference.cli", main="index"),
        "search": Verb("find moments by what is seen, heard and said in them", "omnivast.inference.cli", main="search"),
        "embed": Verb("vectors of clips, to use elsewhere", "omnivast.inference.cli", main="embed"),
        "serve": Verb("a page and HTTP routes that do all of these", "omnivast.inference.cli", main="serve"),
        "export": Verb("write a model for other programs: its text tower as ONNX, or a folder to share", "omnivast.inference.cli",
                       main="export"),
    },
    "Weights": {
        "weights": Verb("fetch the pretrained towers that a config starts from", "omnivast.scripts.tools.download_weights"),
        "convert": Verb("bring a checkpoint to OmniVAST's naming or to the release's", "omnivast.scripts.tools.convert_checkpoint"),
        "parity": Verb("check that a model computes what the public release computed", "omnivast.scripts.tools.parity.command"),
    },
    "Data": {
        "check": Verb("look over a config's datasets and open every clip before a run does", "omnivast.check"),
        "stats": Verb("count clips, captions, words and audio concepts of annotation files", "omnivast.scripts.tools.annotation_stats"),
        "pack": Verb("pack a corpus, or media and annotations, into tar shards", "omnivast.corpus.cli", main="pack"),
        "verify": Verb("read shards whole and compare them with what was packed", "omnivast.data.shards.pack", ("verify",)),
        "formats": Verb("list the media formats and annotation fields that are read", "omnivast.data.formats"),
        "omnistamps": Verb("make the clips of OmniStamps, a small benchmark", "omnivast.corpus.omnistamps.__main__"),
        "conversations": Verb("write conversations about the clips of OmniStamps", "omnivast.corpus.omnistamps.converse"),
    },
    "Corpora": {
        "split": Verb("find the shots of videos", "omnivast.corpus.cli", main="split"),
        "transcribe": Verb("find what is said in videos, and when", "omnivast.corpus.cli", main="transcribe"),
        "teachers": Verb("choose captioners by people's judgements of their captions", "omnivast.corpus.cli", main="teachers"),
        "fuse": Verb("join captions of picture and sound, and what is said, into one, by a language model", "omnivast.corpus.fusion.cli"),
        "build": Verb("make clips for training of a folder of long videos", "omnivast.corpus.cli", main="build_corpus"),
        "instruct": Verb("write conversations, descriptions and reasoning about captioned clips, by a language model",
                         "omnivast.corpus.instruct.cli"),
        "choose": Verb("choose the best of several captions of each clip", "omnivast.choose"),
    },
    "Results": {
        "score": Verb("score captions, answers or rankings made anywhere", "omnivast.evaluation.score.predictions"),
        "compare": Verb("test whether two results differ by more than chance", "omnivast.evaluation.compare"),
        "mine": Verb("find hard negatives for a training in the result of a retrieval test", "omnivast.evaluation.mine"),
        "report": Verb("make one HTML page from the output folders of runs", "omnivast.evaluation.report.run_report"),
    },
    "Experiments": {
        "quickstart": Verb("train, test and report a small model on OmniStamps in minutes", "omnivast.scripts.omnistamps.quickstart"),
        "compare-losses": Verb("contrastive losses side by side, on OmniStamps", "omnivast.scripts.omnistamps.compare_losses"),
        "avllm": Verb("train, test and report a language model that sees and hears, on OmniStamps", "omnivast.scripts.avllm.omnistamps"),
        "ablation": Verb("the paper's ablation of modality grouping, on OmniStamps", "omnivast.scripts.omnistamps.ablation"),
    },
    "Your shell": {
        "completion": Verb("print a script by which bash or zsh completes verbs and options", "omnivast.completion"),
    },
}
VERBS = {name: verb for group in GROUPS.values() for name, verb in group.items()}
OLDER = {"shards": Verb("pack or verify", "omnivast.data.shards.pack")}
"""Verbs by which the same was reached before; they work, and the help does not list them."""


def usage() -> str:
    """The verbs by group, a line each."""
    width = max(map(len, VERBS))
    lines = ["usage: omnivast VERB [arguments]        also: python -m omnivast VERB …, torchrun … -m omnivast VERB …"]
    for title, verbs in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {verb.does}" for name, verb in verbs.items())]
    return "\n".join([*lines, "", "omnivast VERB --help says more about one; omnivast --version says which OmniVAST this is."]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the verb says; the exit status, 2 where it is none."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"omnivast {__version__}\n")
        return 0
    verb = VERBS.get(words[0]) or OLDER.get(words[0])
    if verb is None:
        sys.stderr.write(f"omnivast: there is no verb '{words[0]}'.{did_you_mean(words[0], VERBS)} omnivast --help lists them.\n")
        return 2
    try:
        module = importlib.import_module(verb.module)
        return int(getattr(module, verb.main)([*verb.first, *words[1:]]) or 0)
    except ModuleNotFoundError:
        # Not before: the help of some verbs needs no package.
        require_installed()
        raise


if __name__ == "__main__":
    sys.exit(main())
