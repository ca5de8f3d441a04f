"""METEOR and SPICE through pycocoevalcap, which runs Java programs. They run in a separate process with a time limit, and a failure never
ends the test: what cannot be computed is named with its reason, and the other metrics do not depend on it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import omnivast
from omnivast.config.extras import not_installed

METRICS = ("meteor", "spice")
SECONDS = 900
"""Default time limit of each metric."""
SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_WORKER = "from omnivast.evaluation.captions.java import work; work()"


@dataclass
class JavaScores:
    """Per system (list of captions): METEOR's counts (N, 23), and SPICE (N,) from 0 to 1; absent where not computed."""

    meteor: list[list[list[float]]] | None = None
    spice: list[list[float]] | None = None
    not_computed: dict[str, str] = field(default_factory=dict)
    """Metric → why."""


def java_scores(systems: Sequence[Sequence[str]], references: Sequence[Sequence[str]], seconds: float = SECONDS) -> JavaScores:
    """METEOR and SPICE of several systems' N tokenised captions against the same N lists of tokenised references.

    Args:
        seconds: time limit of each metric, for all systems together; 0: computes neither.
    """
    result = JavaScores()
    for metric in METRICS:
        why = "not asked for (its time limit is 0 seconds)" if seconds <= 0 else missing(metric)
        if not why:
            try:
                setattr(result, metric, _run(metric, systems, references, seconds))
            except (RuntimeError, OSError) as error:
                why = str(error)
        if why:
            result.not_computed[metric] = why
    return result


def missing(metric: str) -> str:
    """What the metric lacks on this machine, with what to do about it; "" when nothing."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        return not_installed("pycocoevalcap")
    if shutil.which("java") is None:
        return "there is no 'java' on the PATH (Java 8 or newer; 17 is tested)"
    if metric == "spice":
        folder = Path(next(iter(package.submodule_search_locations))) / "spice"
        absent = [name for name in SPICE_MODELS if not (folder / "lib" / name).is_file()]
        if absent:
            return f"SPICE's models are not installed: {', '.join(absent)} (cd {folder} && python get_stanford_models.py)"
    return ""


def _run(metric: str, systems: Sequence[Sequence[str]], references: Sequence[Sequence[str]], seconds: float) -> Any:
    """The worker's answer. Raises RuntimeError when it fails or takes longer."""
    with tempfile.TemporaryDirectory(prefix="omnivast_java_") as folder:
        task, answer = Path(folder) / "task.json", Path(folder) / "answer.json"
        task.write_text(json.dumps({"metric": metric, "systems": list(map(list, systems)), "references": list(map(list, references))}))
        command = [sys.executable, "-c", _WORKER, str(task), str(answer)]
        root = Path(omnivast.__file__).resolve().parent.parent
        with open(Path(folder) / "log", "w+b") as log:
            process = subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"{metric} took longer than its time limit of {seconds:g} seconds") from None
            finally:
                with contextlib.suppress(ProcessLookupError):  # Java, too, which would outlive its parent.
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if status == 0 and answer.is_file():
                return json.loads(answer.read_text())
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise RuntimeError(f"{metric} failed with status {status}: {lines[-1][:300]}")


def work() -> None:
    """The worker process: read the task named by the first argument, write the answer to the second."""
    task = json.loads(Path(sys.argv[1]).read_text())
    compute = {"meteor": _meteor, "spice": _spice}[task["metric"]]
    Path(sys.argv[2]).write_text(json.dumps(compute(task["systems"], task["references"])))


def _meteor(systems: list[list[str]], references: list[list[str]]) -> list[list[list[float]]]:
    from pycocoevalcap.meteor.meteor import Meteor

    # "|||" separates fields in what Java reads, and pycocoevalcap takes it out of captions only.
    clean = [[reference.replace("|||", "") for reference in texts] for texts in references]
    aligner = Meteor()
    return [[[float(n) for n in aligner._stat(caption, texts).split()] for caption, texts in zip(captions, clean)] for captions in systems]


def _spice(systems: list[list[str]], references: list[list[str]]) -> list[list[float]]:
    from pycocoevalcap.spice.spice import Spice

    # One start of Java for all systems; it parses equal references once.
    keys = [[f"{system:04d}_{clip:09d}" for clip in range(len(references))] for system in range(len(systems))]
    candidates = {key: [caption] for of_system, captions in zip(keys, systems) for key, caption in zip(of_system, captions)}
    known = {key: texts for of_system in keys for key, texts in zip(of_system, references)}
    _, scores = Spice().compute_score(known, candidates)
    by_key = dict(zip(sorted(known), (score["All"]["f"] for score in scores)))
    return [[by_key[key] for key in of_system] for of_system in keys]
