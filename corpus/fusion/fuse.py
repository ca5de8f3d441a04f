"""The captions and the subtitle of clips → one caption each: write, check against the sources, try again."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from omnivast.corpus.engine.results import Row
from omnivast.corpus.fusion.alarm import Alarm, FusionAlarmError
from omnivast.corpus.fusion.check import problems
from omnivast.corpus.fusion.prompt import prompt_hash, prompt_of
from omnivast.corpus.fusion.safety import NAMES, UNSAFE, without_names, words_of
from omnivast.corpus.fusion.sentence import sentence
from omnivast.corpus.fusion.sources import Facts, facts_of
from omnivast.corpus.fusion.vocabulary import HEARD, SEEN
from omnivast.corpus.fusion.writers import Writer, writer_of
from omnivast.utils.random import stable_seed

DRAWN = 3
"""Captions of a kind that are used."""
DRAWS = 3
"""Draws after which captions of which no two agree are given up."""
REASONS = 12
"""That a row keeps, of the replies that were not taken."""
CHECK = 1
"""Raise it when the same replies would be judged otherwise."""
DECISIVE = ("model", "prompt", "tries", "fallback", "seed", "check", "words")
"""Settings that decide what comes out."""
LLM, SENTENCE, OUT = "llm", "sentence", "left out"


class Fusing:
    """One clip on its way to a caption."""

    def __init__(self, item: Row, settings: dict[str, Any]) -> None:
        """``item``: ``id``, ``vision_cap`` and ``audio_cap`` (lists) or ``captions`` (as the captions' stage gives them), ``subtitle``."""
        self.item, self.settings = item, settings
        self.inputs: dict[str, Any] = {}
        self.facts = Facts()
        self.omni: str | None = None
        self.how = ""
        """Empty while it is open."""
        self.tries = 0
        self.reasons: list[str] = []
        for number in range(DRAWS):
            self.inputs = self._drawn(number)
            self.facts = facts_of(self.inputs["vision"], self.inputs["audio"], self.inputs["subtitle"])
            disagreeing = [name for name, kind in self.facts.kinds.items() if kind.disagreement]
            if not disagreeing:
                break
        unsafe = next((word for text in self._texts() if (word := self._unsafe(text))), None)
        if unsafe:
            self._leave_out("unsafe: a source")
        elif not {SEEN, HEARD} & set(self.facts.kinds):
            self._leave_out("no caption")
        elif disagreeing:
            self._leave_out(*(f"{name} captions disagree" for name in disagreeing))

    def take(self, text: str, whole: bool) -> None:
        """Look at a reply; it is taken when nothing is wrong with it. ``whole``: it was not cut off."""
        if self.how:
            return
        self.tries += 1
        text = re.sub(r"[ \t]+", " ", text).strip().strip('"“”').strip()
        wrong = problems(text, self.facts) + ["cut off"] * (not whole) + ["unsafe: a reply"] * bool(self._unsafe(text))
        if not wrong:
            self.omni, self.how = text, LLM
        else:
            self.reasons += [reason for reason in wrong if reason not in self.reasons][: REASONS - len(self.reasons)]

    def give_up(self) -> None:
        """The model wrote nothing that could be taken: a sentence, or none."""
        self.omni = sentence(self.facts) if self.settings["fallback"] == SENTENCE else None
        if self.omni:
            self.how = SENTENCE
        else:
            self._leave_out("nothing that was written could be taken")

    def row(self, model: str) -> Row:
        return {"id": self.item["id"], "omni": self.omni, "how": self.how, "tries": self.tries, "inputs": self.inputs, "model": model,
                "prompt": self.settings["prompt"], "reasons": self.reasons}

    def _leave_out(self, *reasons: str) -> None:
        self.how = OUT
        self.reasons += reasons

    def _drawn(self, number: int) -> dict[str, Any]:
        rng = random.Random(stable_seed(self.settings["seed"], "fuse", self.item["id"], number))
        drawn: dict[str, Any] = {}
        for kind in ("vision", "audio"):
            texts = captions_of(self.item, kind)
            drawn[kind] = [self._plain(text) for text in rng.sample(texts, min(DRAWN, len(texts)))]
        return {**drawn, "subtitle": self._plain(self.item.get("subtitle") or "")}

    def _plain(self, text: str) -> str:
        return without_names(" ".join(text.split()), _path(self.settings["names"]))

    def _texts(self) -> list[str]:
        return [*self.inputs["vision"], *self.inputs["audio"], self.inputs["subtitle"]]

    def _unsafe(self, text: str) -> str | None:
        return words_of(_path(self.settings["unsafe"]), UNSAFE).found(text)


def captions_of(item: Row, kind: str) -> list[str]:
    """The captions of a kind ("vision", "audio") of a row."""
    if "captions" in item:
        return [caption["text"] for caption in item["captions"] if caption["kind"] == kind and caption["text"].strip()]
    texts = item.get(f"{kind}_cap") or []
    return [text for text in ([texts] if isinstance(texts, str) else texts) if text.strip()]


def fuse(items: list[Row], settings: dict[str, Any], writer: Writer, alarm: Alarm) -> list[Row]:
    """Rows with ``id``, ``omni`` (None where it is left out), ``how``, ``tries``, ``inputs``, ``model``, ``prompt``, ``reasons``. All that
    are open are given to the writer together. Raises StageError."""
    clips = [Fusing(item, settings) for item in items]
    given = 0
    while given < settings["tries"] and (still := [clip for clip in clips if not clip.how]):
        replies = writer.write([prompt_of(clip.facts, settings["style"], given) for clip in still], given)
        try:
            for clip, own in zip(still, replies):
                for reply in own:
                    alarm.note(reply.text)
                    clip.take(reply.text, reply.finish != "length")
        except FusionAlarmError as error:
            writer.forget(error.texts)
            raise
        given += len(replies[0])
    for clip in clips:
        if not clip.how:
            clip.give_up()
    return [clip.row(writer.name) for clip in clips]


def fuse_items(items: list[Row], settings: dict[str, Any]) -> list[Row]:
    """The same, as the function of a stage: each process has one writer."""
    return fuse(items, settings, *_of_this_process(tuple(sorted(settings.items()))))


@lru_cache(maxsize=1)
def _of_this_process(settings: tuple[tuple[str, Any], ...]) -> tuple[Writer, Alarm]:
    return writer_of(dict(settings)), Alarm()


def summary_of(rows: Iterable[Row]) -> dict[str, Any]:
    """What ``summary.json`` says of fused clips."""
    rows = list(rows)
    how = Counter(row.get("how", "failed") for row in rows)
    left_out = Counter(reason for row in rows if row.get("how") == OUT for reason in row["reasons"][-1:])
    refused = [row["reasons"][: -1 if row["how"] == OUT else None] for row in rows if row.get("tries")]
    rejected = Counter(kind for reasons in refused for kind in {reason.split(":")[0] for reason in reasons})
    words = [len(row["omni"].split()) for row in rows if row.get("omni")]
    return {"clips": len(rows), LLM: how[LLM], SENTENCE: how[SENTENCE], "left_out": how[OUT], "failed": how["failed"],
            "left_out_by_reason": dict(sorted(left_out.items())), "clips_with_a_rejected_reply_by_reason": dict(sorted(rejected.items())),
            "tries": sum(row.get("tries", 0) for row in rows), "mean_words": round(sum(words) / len(words), 1) if words else None}


def settings_of(*, llm: str | None = None, endpoint: str | None = None, model: str | None = None, style: str | None = None, tries: int = 9,
                fallback: str = SENTENCE, seed: int = 0, names: Path | None = None, unsafe: Path | None = None, concurrency: int = 16,
                per_minute: float | None = None, requests: int | None = None, tokens: int | None = None, seconds: float = 120.0,
                key_variable: str = "OMNIVAST_ENDPOINT_KEY") -> dict[str, Any]:
    """The settings of the stage. ``style``: None takes "short" for a model in this process and "long" for one behind an endpoint."""
    style = style or ("short" if llm else "long")
    lists = {"names": names and str(names), "unsafe": unsafe and str(unsafe)}
    words = "\n".join(words_of(names, NAMES).lines + words_of(unsafe, UNSAFE).lines)
    return {"llm": llm, "endpoint": endpoint, "model": model or Path(llm or "").name, "style": style, "prompt": prompt_hash(style),
            "tries": tries, "fallback": fallback, "seed": seed, **lists, "check": CHECK,
            "words": hashlib.sha256(words.encode()).hexdigest()[:12], "concurrency": concurrency, "per_minute": per_minute,
            "requests": requests, "tokens": tokens, "seconds": seconds, "key_variable": key_variable, "replies": ""}


def _path(name: str | None) -> Path | None:
    return Path(name) if name else None
