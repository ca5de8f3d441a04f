"""The verb ``chat``: a conversation about a clip, in a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from omnivast.config.paths import as_path
from omnivast.inference.terminal import (
    add_common,
    as_plain,
    in_words,
    load_model,
    parser_of,
    print_json,
    print_missing,
    run_verb,
    say,
    tell,
)

PROMPT = "> "


def chat(arguments: Sequence[str] | None = None) -> int:
    """``omnivast chat clip.mp4 --model RUN``"""
    parser = parser_of("chat", "Converse about a video, picture or sound with a model that has a language model (model_type avllm). "
                               "Without questions they are asked for, line by line; an empty line ends it.")
    parser.add_argument("clip", type=as_path, help="the file")
    parser.add_argument("question", nargs="*", help="questions, each in quotes, asked one after the other; the model knows those before")
    add_common(parser)
    parser.add_argument("--beams", type=int, help="width of the beam search; 1: greedy (default: as the model is tested)")
    parser.add_argument("--tokens", type=int, help="of an answer at most (default: as the model is tested)")
    parser.add_argument("--system", help="what the language model is told beforehand")

    def run(options: argparse.Namespace) -> int:
        if options.json and not options.question:
            raise ValueError("--json answers the questions that are given: omnivast chat clip.mp4 \"what is heard?\" --json")
        for name in ("beams", "tokens"):
            if (value := getattr(options, name)) is not None and value < 1:
                raise ValueError(f"--{name} is at least 1; got {value}")
        opened = load_model(options).chat(options.clip, group=options.group, beams=options.beams, tokens=options.tokens,
                                          system=options.system)
        if options.json:
            print_json({"results": [as_plain(opened.ask(question)) for question in options.question]})
            return 0
        print_missing([opened])
        for question in options.question or _typed():
            if sys.stdin.isatty() and not options.question:
                _reply(opened, question)
            else:
                tell(f"{question}\n  {in_words(opened.ask(question).text)}")
        return 0

    return run_verb(parser, run, arguments)


def _reply(opened: Any, question: str) -> None:
    """An answer to what a person typed; what cannot be answered does not end the conversation."""
    try:
        tell(in_words(opened.ask(question).text))
    except ValueError as error:
        say(f"omnivast: {error}")


def _typed() -> Iterator[str]:
    """Lines of standard input until an empty one, or its end."""
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    while True:
        try:
            line = input(PROMPT).strip()
        except EOFError:
            tell("")
            return
        if not line:
            return
        yield line
