"""Everything that benchmarks/gpu.py does, part by part, each in a process of its own that is ended when its time is over."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivast.utils.files import write_atomically

log = logging.getLogger("omnivast")
GRACE = 20.0
"""Seconds that a part has beyond its time to end by itself; a call that hangs in the driver never does."""
SPARE = 5.0
"""Less than so many seconds are too few to begin a part."""


@dataclass(frozen=True)
class Part:
    """A call of gpu.py. seconds: its time of 480, model and compiler included; what it does not use is there for those behind it."""

    name: str
    seconds: float
    size: str
    flags: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()
    """Flags at tiny sizes, in place of ``flags``."""


SMALL = ("--batches", "2", "--clips", "1", "--scored", "6", "--steps", "1")
PARTS = (
    Part("checks", 120, "released", ("--only", "checks"), ("--only", "checks", "--check", "one batch")),
    Part("vast", 240, "released", (), SMALL),
    Part("valor", 45, "valor", ("--only", "step", "--batches", "64", "128"), ("--only", "step", *SMALL)),
    Part("avllm", 60, "avllm", ("--batches", "4", "16", "--steps", "3"), SMALL),
    Part("gram", 40, "gram", ("--only", "step,score", "--batches", "64", "--scored", "1000"), ("--only", "score", *SMALL)),
)
"""Most valuable first."""
NAMES = [part.name for part in PARTS]
TOTAL = 480.0


def run_all(flags: argparse.Namespace, sizes: Mapping[str, str]) -> int:
    """Run the parts; 0 where every one came to its end without a failed row or check. ``sizes``: others in place of the parts'."""
    began, out = time.monotonic(), flags.out
    wanted = flags.parts.split(",") if flags.parts else NAMES
    whole: dict[str, Any] = {"parts": {}, "left_out": []}
    good = True
    for part in PARTS:
        left = flags.limit_s - (time.monotonic() - began)
        if part.name not in wanted:
            continue
        if left < SPARE:
            whole["left_out"].append(part.name)
            write_atomically(out, json.dumps(whole, indent=1) + "\n")
            continue
        own = out.with_name(f"{out.stem}.{part.name}.json")
        own.unlink(missing_ok=True)
        limit = min(left, part.seconds * flags.limit_s / TOTAL)
        command = [sys.executable, str(Path(__file__).with_name("gpu.py")), "--device", flags.device, "--precision", flags.precision,
                   "--size", sizes.get(part.size, part.size), *(part.tiny if sizes else part.flags), "--limit_s", f"{limit:.1f}",
                   "--out", str(own)]
        log.info("%s: %.0f s of %.0f", part.name, limit, left)
        ended = run(command, limit + GRACE)
        found = json.loads(own.read_text()) if own.is_file() else {"rows": [], "left_out": []}
        own.unlink(missing_ok=True)
        good &= ended == "done" and all("error" not in row and row.get("ok", True) for row in found["rows"])
        whole["parts"][part.name] = {**found, "ended": ended}
        whole["spent_s"] = round(time.monotonic() - began, 1)
        whole["summary"] = summary(whole["parts"])
        write_atomically(out, json.dumps(whole, indent=1) + "\n")
    log.info("%s", json.dumps(whole.get("summary", {}), indent=1))
    return 0 if good else 1


def run(command: list[str], limit: float) -> str:
    """How a program ended: "done", or in words; it and all that it started are ended after ``limit`` seconds."""
    process = subprocess.Popen(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env={**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})
    try:
        _, told = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, told = process.communicate()
        sys.stderr.write(told)
        return f"killed after {limit:.0f} s: {last_lines(told)}"
    sys.stderr.write(told)
    return "done" if process.returncode == 0 else f"status {process.returncode}: {last_lines(told)}"


def last_lines(text: str, count: int = 15) -> str:
    return "\n".join(text.splitlines()[-count:])


def summary(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures that the goals are about, as far as they are known."""
    told: dict[str, Any] = {}
    for name, part in parts.items():
        rows = part["rows"]
        checks = [row for row in rows if row["work"] == "check"]
        if checks:
            told["checks"] = {"passed": sum(row.get("ok", False) for row in checks), "of": len(checks),
                              "failed": [row["check"] for row in checks if not row.get("ok")]}
        steps = [row for row in rows if row["work"] == "step" and row.get("way") == "ours" and "mfu" in row]
        if steps:
            best = max(steps, key=lambda row: row["mfu"])
            told[f"{name} step"] = {key: best[key] for key in ("clips", "checkpointing", "compiled", "clips_per_s", "mfu", "peak_gb")}
        told |= {f"{name} gap_share": row["gap_share"] for row in rows if row["work"] == "profile" and "gap_share" in row}
        if ratios := [row["ratio"] for row in rows if row["work"] == "estimate" and "ratio" in row]:
            told[f"{name} estimate over measured peak"] = [min(ratios), max(ratios)]
        told |= {f"{name} {work}, times the plain way": ratio for work, ratio in part.get("ratio_to_plain", {}).items()}
    return told
