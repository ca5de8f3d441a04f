"""Who writes captions: a model behind an endpoint, whose replies are kept as they come, or one in this process."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from omnivast.corpus.engine.leases import this_host
from omnivast.corpus.engine.workers import StageError
from omnivast.corpus.fusion.prompt import Message
from omnivast.utils.endpoint import BadRequestError, Endpoint, EndpointError, Limits, Reply
from omnivast.utils.log import JsonlWriter, iterate_jsonl

TEMPERATURE = 0.7
"""Of all tries but the first, which is the likeliest reply."""
LONGEST = 160
"""Tokens of a reply."""
DRAWN = 4
"""Replies that a model in this process draws together, from the second try on."""


class Writer(Protocol):
    """Whatever replies to prompts."""

    name: str

    def write(self, prompts: Sequence[list[Message]], number: int) -> list[list[Reply]]:
        """Of each prompt one reply or more; ``number``: those it was given before. Raises StageError."""
        ...

    def forget(self, texts: set[str]) -> None:
        """These replies, if kept, are asked for again by the next run."""
        ...


class Local:
    """A model in this process. It is fast enough where its batches are full: so the clips of one call are written together."""

    def __init__(self, path: str, seed: int) -> None:
        from omnivast.corpus.fusion.local import LocalModel  # torch and transformers take seconds
        self._model, self._seed = LocalModel(path), seed
        self.name = self._model.name

    def write(self, prompts: Sequence[list[Message]], number: int) -> list[list[Reply]]:
        if number == 0:
            return self._model.write(prompts, 1, self._seed, temperature=0.0)
        return self._model.write(prompts, DRAWN, self._seed + number, temperature=TEMPERATURE)

    def forget(self, texts: set[str]) -> None:
        """Nothing is kept: the same is written again."""


class Remote:
    """A model behind an endpoint. Every reply is a line in ``folder`` as soon as it is there, so that it is paid for once."""

    def __init__(self, endpoint: Endpoint, folder: Path, seed: int, concurrency: int) -> None:
        self.name, self._endpoint, self._seed, self._concurrency = endpoint.model, endpoint, seed, concurrency
        self._lock = threading.Lock()
        self._known: dict[str, Reply] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for row in iterate_jsonl(path):
                if "forget" in row:
                    self._known = {key: reply for key, reply in self._known.items() if reply.text not in row["forget"]}
                else:
                    key = row.pop("key")
                    self._known[key] = Reply(**row)
        self._kept = JsonlWriter(folder / f"{this_host()}@{os.getpid()}.jsonl")

    def write(self, prompts: Sequence[list[Message]], number: int) -> list[list[Reply]]:
        try:
            return [[reply] for reply in self._endpoint.ask_all(prompts, lambda prompt: self._reply(prompt, number), self._concurrency)]
        except EndpointError as error:
            raise StageError(f"{error}. What was answered is kept; the same command goes on") from None

    def forget(self, texts: set[str]) -> None:
        self._append({"forget": sorted(texts)})

    def _reply(self, prompt: list[Message], number: int) -> Reply:
        seed = (self._seed + number) % 2**31
        options: dict[str, Any] = {"temperature": TEMPERATURE if number else 0.0, "seed": seed, "max_tokens": LONGEST}
        key = hashlib.sha256(json.dumps([self.name, prompt, options]).encode()).hexdigest()
        with self._lock:
            if key in self._known:
                return self._known[key]
        try:
            reply = self._endpoint.ask(prompt, **options)
        except BadRequestError:  # of this clip alone; where all are refused the alarm says so
            reply = Reply("", self.name, "refused", 0)
        self._append({"key": key, **vars(reply)})
        with self._lock:
            self._known[key] = reply
        return reply

    def _append(self, row: dict[str, Any]) -> None:
        with self._lock:
            self._kept.append(row)


def writer_of(settings: dict[str, Any]) -> Writer:
    """Of the settings of a stage. Raises StageError."""
    if settings["llm"]:
        return Local(settings["llm"], settings["seed"])
    return Remote(endpoint_of(settings), Path(settings["replies"]), settings["seed"], settings["concurrency"])


def endpoint_of(settings: dict[str, Any]) -> Endpoint:
    limits = Limits(settings["per_minute"], settings["requests"], settings["tokens"])
    return Endpoint(settings["endpoint"], settings["model"], key_variable=settings["key_variable"], seconds=settings["seconds"],
                    limits=limits)
