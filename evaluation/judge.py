"""A judge: another program, or a language model behind an endpoint, that says whether a free answer is right. None by default: what a judge
finds depends on its version and its prompt, and is not comparable with exact match, nor with what another judge finds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from omnivast.utils import endpoint

logger = logging.getLogger("omnivast")
KEY_VARIABLE = "OMNIVAST_JUDGE_KEY"
"""The environment variable with the endpoint's key; without it none is sent."""
PROMPT = """You mark answers to questions about a video. You see the question, the correct answer and the answer given.
The answer given is right when it means the same as the correct one: other words, more detail and another form of a word do not matter, \
but what contradicts the correct answer, or leaves out what was asked for, is wrong.

Question: {question}
Correct answer: {answer}
Answer given: {prediction}

Reply with one line of JSON and nothing else, "score" being 0 (wrong) to 5 (as good as the correct answer):
{{"right": true or false, "score": 0 to 5}}"""
NOT_COMPARABLE = "marked by a judge: not comparable with exact match, nor with marks of another judge, prompt or version of the judge"
TRIES = 3


class JudgeError(RuntimeError):
    """A judge that does not answer; the message says which and how it failed. What it marked before is kept."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one answer."""

    right: bool | None
    """None: its reply could not be understood."""
    score: float | None
    reply: str
    model: str
    """Which model it says that it is."""


class Judge(Protocol):
    """Whatever replies to a prompt."""

    model: str
    """What it is called in results: the model, or the command."""
    prompt: str
    """With {question}, {answer} and {prediction}."""

    def reply(self, text: str) -> tuple[str, str]:
        """Its reply to a filled-in prompt, and the model that replied. Raises JudgeError."""
        ...

    def close(self) -> None:
        """End what was started for it."""
        ...


class Endpoint:
    """A model behind an endpoint like OpenAI's: ``url`` is what stands before ``/chat/completions``. The question, the answers and nothing
    else are sent there."""

    def __init__(self, url: str, model: str, prompt: str = PROMPT, seconds: float = 60.0) -> None:
        self.model, self.prompt = model, prompt
        self._endpoint = endpoint.Endpoint(url, model, key_variable=KEY_VARIABLE, seconds=seconds, tries=TRIES)

    def reply(self, text: str) -> tuple[str, str]:
        try:
            reply = self._endpoint.ask(text, temperature=0)
        except endpoint.EndpointError as error:
            raise JudgeError(f"the judge {self.model} at {self._endpoint.url} does not answer: {error.reason}") from None
        return reply.text, reply.model

    def close(self) -> None:
        pass


class Command:
    """A program that reads one JSON object a line, ``{"prompt": …}``, and writes one line for each: what a model replied."""

    def __init__(self, command: str, model: str | None = None, prompt: str = PROMPT, seconds: float = 60.0) -> None:
        self.command, self.model, self.prompt, self.seconds = shlex.split(command), model or command, prompt, seconds
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def reply(self, text: str) -> tuple[str, str]:
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"prompt": text}, ensure_ascii=False) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=self.seconds)
        except (queue.Empty, OSError) as error:
            self.close()
            why = f"no reply within {self.seconds:g} s" if isinstance(error, queue.Empty) else str(error)
            raise JudgeError(f"the judge '{shlex.join(self.command)}' does not answer: {why}") from None
        if not line:
            self.close()
            raise JudgeError(f"the judge '{shlex.join(self.command)}' does not answer: it ended with status {process.returncode}")
        return line.rstrip("\n"), self.model

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            try:
                self._process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
                                                 start_new_session=True)
            except OSError as error:
                raise JudgeError(f"the judge '{shlex.join(self.command)}' cannot be started: {error}") from None
            threading.Thread(target=_read_lines, args=(self._process.stdout, self._lines), daemon=True).start()
        return self._process

    def close(self) -> None:
        """End the program and all that it started."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            logger.debug("the judge had ended by itself")
        self._process.wait()
        self._process = None


def _read_lines(file: IO[str] | None, lines: queue.Queue[str]) -> None:
    for line in file or ():
        lines.put(line)
    lines.put("")


def judge_of(judge: str | None, model: str | None, prompt: str | None = None, seconds: float = 60.0) -> Judge | None:
    """The judge of the settings ``run_cfg.judge…``; None where none is asked for. Raises ValueError for a prompt that lacks a part."""
    if not judge:
        return None
    text = PROMPT if prompt is None else Path(prompt).read_text(encoding="utf-8")
    lacking = [part for part in ("{question}", "{answer}", "{prediction}") if part not in text]
    if lacking:
        raise ValueError(f"run_cfg.judge_prompt '{prompt}' lacks {' and '.join(lacking)}")
    if judge.startswith(("http://", "https://")):
        if not model:
            raise ValueError("run_cfg.judge is an endpoint, but run_cfg.judge_model, the model asked for there, is not set")
        return Endpoint(judge, model, text, seconds)
    return Command(judge, model, text, seconds)


def judged(judge: Judge, entries: Sequence[Mapping[str, Any]], key: str, path: Path) -> list[Verdict]:
    """Verdicts on the predictions ``entry[key]`` of answers to ``entry["question"]``, in order.

    Each is a line of ``path`` as soon as it is there; those of the same judge, prompt and texts are not asked for again, so that a test
    that was interrupted goes on. Raises JudgeError.
    """
    known = _known(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    verdicts = []
    try:
        with open(path, "a", encoding="utf-8") as file:
            if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
                file.write("\n")  # behind a line that was cut short
            for entry in entries:
                text = _filled(judge.prompt, entry["question"], entry["answer"], entry[key])
                mark = _sha256(f"{judge.model}\0{text}")
                if mark not in known:
                    reply, model = judge.reply(text)
                    known[mark] = understood(reply, model)
                    file.write(json.dumps({"key": mark, **asdict(known[mark])}, ensure_ascii=False) + "\n")
                    file.flush()
                verdicts.append(known[mark])
    finally:
        judge.close()
    return verdicts


def _filled(prompt: str, question: str, answer: str, prediction: str) -> str:
    """The prompt with its three parts, and {{ and }} in it as single ones; braces in the parts are left alone."""
    parts = {"question": question, "answer": answer, "prediction": prediction}
    return re.sub(r"\{\{|\}\}|\{(question|answer|prediction)\}", lambda found: parts.get(found.group(1), found.group()[0]), prompt)


def _known(path: Path) -> dict[str, Verdict]:
    """The verdicts of an earlier test; a last line that was cut short by a kill is left out."""
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        mark = content.pop("key")
        known[mark] = Verdict(**content)
    return known


def understood(reply: str, model: str) -> Verdict:
    """The verdict in a reply: the first object of JSON in it, or yes or no at its beginning."""
    for found in re.finditer(r"\{[^{}]*\}", reply):
        try:
            content = json.loads(found.group().replace("'", '"').replace("True", "true").replace("False", "false"))
        except ValueError:
            continue
        right, score = content.get("right", content.get("pred")), content.get("score")
        right = {"yes": True, "no": False, "true": True, "false": False}.get(str(right).lower())
        number = float(score) if isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 5 else None
        return Verdict(right, number, reply, model)
    word = re.match(r"\s*(yes|no)\b", reply.lower())
    return Verdict(None if word is None else word.group(1) == "yes", None, reply, model)


def summary(judge: Judge, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What stands in a result: percent right, mean score, how many replies were not understood (they count as wrong), who judged by what
    prompt, and that it is not comparable. Raises ValueError without any."""
    if not verdicts:
        raise ValueError("no answer to judge")
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    return {"accuracy": 100.0 * sum(verdict.right is True for verdict in verdicts) / len(verdicts),
            "score": sum(scores) / len(scores) if scores else None,
            "not_understood": sum(verdict.right is None for verdict in verdicts), "answers": len(verdicts),
            "model": judge.model, "models_that_replied": sorted({verdict.model for verdict in verdicts}),
            "prompt_sha256": _sha256(judge.prompt), "note": NOT_COMPARABLE}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
