"""Instruction data for clips with captions, as many of each kind and each set of tracks as ordered.

Every reply of the language model is written down before anything else is done with it, so that what was asked is never asked again: the
same command goes on where it was stopped. What comes out depends on the replies alone, not on how many are asked for at a time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnivast.corpus.instruct.check import Fault, Pair, check_pairs, read_reply
from omnivast.corpus.instruct.templates import KINDS, TRACKS, Context, prompt, templates_hash
from omnivast.utils.files import write_atomically
from omnivast.utils.log import JsonlWriter, Progress, iterate_jsonl, progress
from omnivast.utils.random import stable_seed

Order = tuple[str, str]
"""A kind and its tracks."""
Ask = Callable[[str, int], str]
"""(prompt, seed) → the reply of a language model."""
TABLE_10: dict[Order, int] = {("conversation", "a"): 20, ("conversation", "v"): 60, ("conversation", "va"): 40,
                              ("description", "a"): 20, ("description", "v"): 50, ("description", "va"): 30,
                              ("reasoning", "a"): 5, ("reasoning", "v"): 20, ("reasoning", "va"): 15}
"""The paper's counts, in thousands (supplement, table 10)."""
PLACEHOLDERS = {"v": "<VIS>", "a": "<AUD>", "va": "<AUD_VIS>"}
FILES = {"description": "descriptions.json", "conversation": "instructions.json", "reasoning": "instructions.json"}
"""Kind → the file of its rows: descriptions are what the first stage of training reads, the others the second."""
TRIES = 3
ALARM = 50
"""So many clips one after the other of which no reply could be used end it."""

logger = logging.getLogger("omnivast")


class InstructError(ValueError):
    """Something that is asked for and cannot be, or a model whose replies are of no use; the message says which."""


def scaled(total: int, shares: Mapping[Order, int] = TABLE_10) -> dict[Order, int]:
    """So many in all, in the proportions of ``shares``; what rounding leaves goes to the largest remainders."""
    whole = sum(shares.values())
    counts = {order: total * share // whole for order, share in shares.items()}
    by_remainder = sorted(shares, key=lambda order: -(total * shares[order] % whole))
    for order in by_remainder[: total - sum(counts.values())]:
        counts[order] += 1
    return counts


@dataclass
class Made:
    """The rows of one order, and what was lost."""

    ordered: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """Reason → replies that were not used."""
    given_up: int = 0
    """Clips of which no try could be used."""


class Replies:
    """All replies so far, in a file that grows by a line each."""

    def __init__(self, path: Path, ask: Ask, model: str) -> None:
        """``model``: what says that two replies to the same prompt are of one kind: the model and how it draws."""
        self._ask, self._model = ask, model
        self._known = {line["key"]: line["reply"] for line in iterate_jsonl(path)} if path.exists() else {}
        self._writer, self._lock = JsonlWriter(path), threading.Lock()

    def __call__(self, text: str, seed: int) -> str:
        """The reply to a prompt, asked for only where it is not known."""
        key = hashlib.sha256(f"{self._model}\0{seed}\0{text}".encode()).hexdigest()[:24]
        if key not in self._known:
            reply = self._ask(text, seed)
            with self._lock:
                self._known[key] = reply
                self._writer.append({"key": key, "reply": reply})
        return self._known[key]

    def close(self) -> None:
        self._writer.close()


@dataclass(frozen=True)
class Tried:
    """What came of one clip."""

    pairs: list[Pair]
    """Empty where no try could be used."""
    faults: list[str]

    @property
    def asked(self) -> int:
        return len(self.faults) + bool(self.pairs)


def tried(kind: str, tracks: str, context: Context, ask: Ask, seed: int, tries: int) -> Tried:
    """Ask until a reply can be used."""
    captions = [text for own in context.captions(tracks).values() for text in own]
    faults: list[str] = []
    for number in range(tries):
        try:
            pairs = read_reply(ask(prompt(kind, tracks, context), stable_seed(seed, kind, tracks, context.clip, number) % 2**31), kind)
            check_pairs(pairs, kind, captions)
        except Fault as fault:
            faults.append(str(fault))
            continue
        return Tried(pairs, faults)
    return Tried([], faults)


def make(kind: str, tracks: str, count: int, contexts: Sequence[Context], ask: Ask, *, seed: int, tries: int, concurrency: int,
         bar: Progress[Any]) -> Made:
    """``count`` rows of a kind and its tracks, of different clips, drawn by the seed; fewer where the clips do not suffice. Raises
    InstructError when replies are of no use."""
    made = Made(count)
    fitting = [context for context in contexts if context.has(tracks)]
    fitting.sort(key=lambda context: stable_seed(seed, "clips", kind, tracks, context.clip))
    in_vain = 0
    with ThreadPoolExecutor(concurrency) as pool:
        while len(made.rows) < count and fitting:
            # No more than are still lacking: replies that nobody needs are not asked for.
            wave, fitting = fitting[: count - len(made.rows)], fitting[count - len(made.rows) :]
            for context, found in zip(wave, pool.map(lambda one: tried(kind, tracks, one, ask, seed, tries), wave)):
                made.asked += found.asked
                made.faults.update(found.faults)
                if found.pairs:
                    made.rows.append(row_of(kind, tracks, context, found.pairs))
                    bar.update(1)
                in_vain = 0 if found.pairs else in_vain + 1
                made.given_up += not found.pairs
                if in_vain == ALARM:
                    raise InstructError(f"no reply about {ALARM} clips one after the other could be used ({kind}, {tracks}); the last: "
                                        f"{found.faults[-1]}")
    return made


def row_of(kind: str, tracks: str, context: Context, pairs: Sequence[Pair]) -> dict[str, Any]:
    """A row in LLaVA's form, which ``data/conversation.py`` reads: the placeholder of its tracks stands before the first question."""
    turns = []
    for place, pair in enumerate(pairs):
        asked = pair.question if place else f"{PLACEHOLDERS[tracks]}\n{pair.question}"
        turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": pair.answer}]
    return {"id": f"{context.clip}/{kind}/{tracks}", "video": context.clip, "modality": tracks, "type": kind, "conversations": turns}


def write(contexts: Sequence[Context], counts: Mapping[Order, int], ask: Ask, model: str, output: Path, *, seed: int = 0,
          tries: int = TRIES, concurrency: int = 8, drawn: str = "") -> dict[str, Any]:
    """Write ``descriptions.json``, ``instructions.json`` and ``summary.json``, whose content is returned. Raises InstructError, and what
    ``ask`` raises; replies so far are kept in ``replies.jsonl``, and the next call goes on with them, unless another ``model`` is asked or
    it draws its replies otherwise (``drawn``)."""
    for (kind, tracks), count in counts.items():
        if kind not in KINDS or tracks not in TRACKS:
            raise InstructError(f"unknown order {kind}.{tracks}; expected one of {', '.join(KINDS)} with one of {', '.join(TRACKS)}")
        if count and not any(context.has(tracks) for context in contexts):
            raise InstructError(f"{count} of {kind}.{tracks} are ordered, but no clip has captions of all of '{tracks}'")
    replies = Replies(output / "replies.jsonl", ask, f"{model} {drawn}")
    bar: Progress[Any] = progress(sum(counts.values()), "instructions", unit="rows")
    try:
        with bar:
            made = {order: make(*order, count, contexts, replies, seed=seed, tries=tries, concurrency=concurrency, bar=bar)
                    for order, count in counts.items() if count}
    finally:
        replies.close()
    by_file: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES.values()}
    for (kind, _), own in made.items():
        by_file[FILES[kind]] += own.rows
    for name, rows in by_file.items():
        # Kinds and tracks mixed, the same for the same seed.
        rows.sort(key=lambda row: stable_seed(seed, "order", row["id"]))
        write_atomically(output / name, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    summary = {"model": model, "templates": templates_hash(), "seed": seed, "clips": len(contexts), **_told(made)}
    write_atomically(output / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def _told(made: Mapping[Order, Made]) -> dict[str, Any]:
    orders = {".".join(order): {"ordered": own.ordered, "made": len(own.rows), "asked": own.asked, "given up": own.given_up,
                                "faults": dict(own.faults.most_common())} for order, own in made.items()}
    faults: Counter[str] = sum((own.faults for own in made.values()), Counter())
    asked = sum(own.asked for own in made.values())
    return {"ordered": sum(own.ordered for own in made.values()), "made": sum(len(own.rows) for own in made.values()), "asked": asked,
            "replies used, %": round(100 * (asked - sum(faults.values())) / asked, 2) if asked else None,
            "faults": dict(faults.most_common()), "orders": orders}


def contexts_of(rows: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> list[Context]:
    """The clips of annotation rows with their vision and audio captions. Raises InstructError for what is no such row."""
    found: dict[str, Context] = {}
    for number, row in enumerate(rows):
        clip = next((row[key] for key in ("clip_id", "video_id", "video", "id") if isinstance(row, Mapping) and key in row), None)
        if not isinstance(clip, str | int) or isinstance(clip, bool):
            raise InstructError(f"row {number} has no id; expected clip_id or video_id, and vision_cap or audio_cap, a text or a list")
        captions = {}
        for key in ("vision_cap", "audio_cap"):
            value = row.get(key) or []
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise InstructError(f"row {number} (id '{clip}'): '{key}' must be a string or a list of strings")
            captions[key] = tuple(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))
        if str(clip) in found:
            raise InstructError(f"row {number}: duplicate id '{clip}'; give a clip one row, with lists of captions")
        found[str(clip)] = Context(str(clip), captions["vision_cap"], captions["audio_cap"])
    return list(found.values())
