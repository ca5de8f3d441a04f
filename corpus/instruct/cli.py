"""The verb ``instruct``: instruction data for a language model that sees and hears, from the captions of clips.

    python -m omnivast instruct CORPUS --endpoint http://localhost:8000/v1 --model NAME --total 2600 --output FOLDER
    python -m omnivast instruct captions.json … --count conversation.va=100 --count reasoning.v=50

CORPUS is a folder of ``omnivast build`` whose clips were captioned; captions.json an annotation file with ``vision_cap`` and
``audio_cap``. Writes ``descriptions.json`` and ``instructions.json`` in LLaVA's form, and ``summary.json``. The same command again goes on
where it was stopped, and asks for nothing twice.
"""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Sequence
from typing import Any

from omnivast.config.files import read_json
from omnivast.config.paths import as_path
from omnivast.corpus.caption_rows import caption_rows
from omnivast.corpus.instruct.check import SCHEMA, Fault
from omnivast.corpus.instruct.templates import KINDS, TRACKS
from omnivast.corpus.instruct.write import TABLE_10, TRIES, InstructError, Order, contexts_of, scaled, write
from omnivast.corpus.plan import BuildError
from omnivast.utils.endpoint import KEY_VARIABLE, BadRequestError, Endpoint, EndpointError, Limits
from omnivast.utils.log import setup_logging

LONGEST = 800
"""Tokens of a reply."""
log = logging.getLogger("omnivast")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m omnivast instruct", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("source", type=as_path, metavar="CAPTIONS", help="a corpus, or an annotation file")
    result.add_argument("--output", type=as_path, required=True, metavar="FOLDER")
    result.add_argument("--endpoint", required=True, metavar="URL", help="like OpenAI's (vLLM, llama.cpp's server): what stands before "
                        "/chat/completions. The captions are sent there")
    result.add_argument("--model", required=True, metavar="NAME", help="the model asked for there")
    result.add_argument("--total", type=int, metavar="N", help="rows in all, in the proportions of the Audio-Visual LLM's table 10, which "
                        f"has {sum(TABLE_10.values())} thousand (default: that many)")
    result.add_argument("--count", type=_count, action="append", default=[], metavar="KIND.TRACKS=N", help=f"instead: rows of a kind "
                        f"({', '.join(KINDS)}) about tracks ({', '.join(TRACKS)}); several times")
    result.add_argument("--captions", dest="stage", type=as_path, metavar="FOLDER", help="of a corpus: the results of captioning below "
                        "work/, if there are several")
    result.add_argument("--tries", type=int, default=TRIES, metavar="N", help=f"replies asked for about a clip, at most (default {TRIES})")
    result.add_argument("--temperature", type=float, default=0.7, metavar="T", help="of the draws (default 0.7)")
    result.add_argument("--schema", action="store_true", help="ask the endpoint to hold its replies to the JSON schema")
    result.add_argument("--concurrency", type=int, default=16, metavar="N", help="requests at once (default 16)")
    result.add_argument("--per-minute", type=float, metavar="N", help="requests a minute (default: as many as it answers)")
    result.add_argument("--requests", type=int, metavar="N", help="stop after so many requests")
    result.add_argument("--tokens", type=int, metavar="N", help="stop after so many tokens of prompts and replies")
    result.add_argument("--seconds", type=float, default=120.0, metavar="N", help="that a reply may take (default 120)")
    result.add_argument("--key-variable", default=KEY_VARIABLE, metavar="NAME", help="environment variable with the endpoint's key "
                        f"(default {KEY_VARIABLE})")
    result.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    return result


def _count(text: str) -> tuple[Order, int]:
    name, _, number = text.partition("=")
    kind, _, tracks = name.partition(".")
    if kind not in KINDS or tracks not in TRACKS or not number.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}': expected KIND.TRACKS=N, such as conversation.va=100; kinds are {', '.join(KINDS)}, "
                                         f"tracks {', '.join(TRACKS)}")
    return (kind, tracks), int(number)


def instruct(options: argparse.Namespace) -> dict[str, Any]:
    """What ``summary.json`` says. Raises InstructError, BuildError, EndpointError."""
    for name in ("tries", "concurrency", "total"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise InstructError(f"--{name} is at least 1; got {value}")
    if options.total and options.count:
        raise InstructError("--total and --count: give one of them")
    if options.source.is_dir():
        rows = caption_rows(options.source, options.stage)
    else:
        rows = read_json(options.source, InstructError, what="file of captions", expected="a JSON list of objects")
        if not isinstance(rows, list):
            raise InstructError(f"{options.source}: expected a JSON list of objects")
    counts = dict(options.count) or scaled(options.total or 1000 * sum(TABLE_10.values()))
    endpoint = Endpoint(options.endpoint, options.model, key_variable=options.key_variable, seconds=options.seconds,
                        limits=Limits(options.per_minute, options.requests, options.tokens))
    how: dict[str, Any] = {"temperature": options.temperature, "max_tokens": LONGEST}
    if options.schema:
        how["response_format"] = {"type": "json_schema", "json_schema": {"name": "turns", "schema": SCHEMA}}

    def ask(prompt: str, seed: int) -> str:
        try:
            return endpoint.ask(prompt, seed=seed, **how).text
        except BadRequestError:  # of this clip alone; where all are refused the alarm says so
            raise Fault("refused by the endpoint") from None

    return write(contexts_of(rows), counts, ask, options.model, options.output, seed=options.seed, tries=options.tries,
                 concurrency=options.concurrency, drawn=str(how))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 done but for rows for which the clips did not suffice, 2 bad input or no answer."""
    options = parser().parse_args(arguments)
    setup_logging(None)
    try:
        summary = instruct(options)
    except (InstructError, BuildError, EndpointError, OSError) as error:
        kept = ". What was answered is kept; the same command goes on" if isinstance(error, EndpointError) else ""
        log.error("instruct: %s%s", error, kept)
        return 2
    except KeyboardInterrupt:
        log.error("stopped; the same command goes on")
        return 128 + signal.SIGINT
    log.info("%d of %d rows in %s; %s %% of %d replies were used", summary["made"], summary["ordered"], options.output,
             summary["replies used, %"], summary["asked"])
    for reason, count in summary["faults"].items():
        log.info("  not used: %s: %d", reason, count)
    return 0 if summary["made"] == summary["ordered"] else 1
