"""The verb ``fuse``, and its options, which ``build`` has too. Exit status: 0 done, 2 bad input or a model that cannot go on."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from omnivast.config.paths import as_path
from omnivast.corpus.ending import ended
from omnivast.corpus.fusion.fuse import SENTENCE, settings_of
from omnivast.corpus.fusion.prompt import STYLES
from omnivast.corpus.fusion.stage import check_writer, fuse_file
from omnivast.corpus.plan import BuildError
from omnivast.utils.endpoint import KEY_VARIABLE

log = logging.getLogger("omnivast")


def main(arguments: Sequence[str] | None = None) -> int:
    """``omnivast fuse FILE.json --output OUT.json --endpoint URL --model NAME``"""
    parser = argparse.ArgumentParser(prog="python -m omnivast fuse", description="Join the vision captions, audio captions and subtitle of "
                                     "each row of an annotation file into one caption (vast_cap), by a language model whose every reply is "
                                     "checked against them. The same command goes on where it was stopped.")
    parser.add_argument("file", type=as_path, metavar="FILE", help="JSON: a list of rows with an id, vision_cap, audio_cap, subtitle")
    parser.add_argument("--output", type=as_path, required=True, metavar="OUT", help="the same rows with vast_cap; its history beside it")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn: captions, words")
    add_options(parser)
    return ended(parser, _fuse, arguments)


def add_options(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Who writes, and how. ``prefix``: before each name, for a verb that has other options of that name."""
    def add(name: str, **more: Any) -> None:
        parser.add_argument(f"--{prefix}{name}", dest=f"fuse_{name.replace('-', '_')}", **more)

    add("llm", type=as_path, metavar="PATH", help="the language model: a folder of transformers or a .gguf file, run in this process")
    add("endpoint", metavar="URL", help="or an endpoint like OpenAI's (vLLM, llama.cpp's server): what stands before /chat/completions")
    add("model", metavar="NAME", help="the model asked for there")
    add("style", choices=STYLES, help="of the prompt: long has the instruction in full, short has examples, for models below a billion "
        "parameters (default: short with --llm, long with --endpoint)")
    add("tries", type=int, default=9, metavar="N", help="replies to a clip, at most (default: 9)")
    add("fallback", choices=(SENTENCE, "leave"), default=SENTENCE, help="where none could be taken: the captions side by side (default), "
        "or leave the clip out")
    add("names", type=as_path, metavar="FILE", help="given names that become \"person\", one a line (default: a list that comes with it)")
    add("unsafe", type=as_path, metavar="FILE", help="words of texts to leave out, one a line, * for any ending (default: a short list)")
    add("concurrency", type=int, default=16, metavar="N", help="requests at once (default: 16)")
    add("per-minute", type=float, metavar="N", help="requests a minute, of each machine (default: as many as it answers)")
    add("requests", type=int, metavar="N", help="stop after so many requests")
    add("tokens", type=int, metavar="N", help="stop after so many tokens of prompts and replies")
    add("seconds", type=float, default=120.0, metavar="N", help="that a reply may take (default: 120)")
    add("key-variable", default=KEY_VARIABLE, metavar="NAME", help="environment variable with the endpoint's key (default: "
        f"{KEY_VARIABLE})")


def settings_from(options: argparse.Namespace) -> dict[str, Any] | None:
    """The settings; None where neither a model nor an endpoint is named. Raises BuildError."""
    given = {name.removeprefix("fuse_"): value for name, value in vars(options).items() if name.startswith("fuse_")}
    if not given["llm"] and not given["endpoint"]:
        return None
    if given["llm"] and given["endpoint"]:
        raise BuildError("a language model in this process and an endpoint are named: give one of them")
    if given["endpoint"] and not given["model"]:
        raise BuildError(f"the endpoint {given['endpoint']} is named without a model: give --model NAME")
    numbers = ("tries", "concurrency", "requests", "tokens", "per_minute", "seconds")
    wrong = [name for name in numbers if given[name] is not None and given[name] <= 0]
    if wrong:
        raise BuildError(f"--{wrong[0].replace('_', '-')}: expected more than 0")
    given["llm"] = given["llm"] and str(given["llm"])
    return settings_of(**given, seed=options.seed)


def _fuse(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    if settings is None:
        raise BuildError("who writes? Give --llm PATH, or --endpoint URL and --model NAME")
    check_writer(settings)
    tell(fuse_file(options.file, options.output, settings))
    log.info("%s", options.output)
    return 0


def tell(summary: dict[str, Any]) -> None:
    log.info("%d clips: %d written by %s, %d by rule, %d left out, in %d replies", summary["clips"], summary["llm"], summary["model"],
             summary["sentence"], summary["left_out"], summary["tries"])
    for reason, count in summary["left_out_by_reason"].items():
        log.info("  left out: %s: %d", reason, count)
