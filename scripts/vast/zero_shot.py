"""One checkpoint on many benchmarks, without training on them: each in a process of its own, so that a broken folder costs that one only.

    python -m omnivast zero-shot --pretrain_dir output/vast/pretrain_vast [--benchmarks retrieval-msrvtt VQA-msvd …] [flags of run.py]

All GPUs of the machine test each benchmark together (--gpus N or GPUS=N: so many of them; 0: the CPU). What is done is not done again:
run it again after an interruption, or after mending what failed. Exit status: 0 all done; 1 some failed, which the table names; 2 a wrong
command line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnivast.config.fields import ConfigError
from omnivast.config.files import SHIPPED, files_of, read_json
from omnivast.config.paths import as_path, looked_up
from omnivast.evaluation import published as benchmarks
from omnivast.utils.files import write_atomically

CONFIGS = SHIPPED / "vast" / "finetune_cfg"


def choices(configs: Path = CONFIGS) -> list[str]:
    """The benchmarks: the names of the fine-tuning configs, whose tests these are; self-critical training changes no test, and a stage of
    training has none."""
    return sorted(path.stem for path in configs.glob("*.json") if not path.stem.endswith("_scst") and _tests(path))


def _tests(config: Path) -> bool:
    """False for a config that lists no dataset to test on. One that cannot be read counts: its test says what is wrong with it."""
    try:
        return bool(read_json(config, ConfigError)["data_cfg"]["val"] != [])
    except (ConfigError, KeyError, TypeError):
        return True


def count_gpus() -> int:
    """GPUs that a test would see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return 0 if visible.strip() in ("", "-1") else len(visible.split(","))
    try:
        found = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return sum(line.startswith("GPU") for line in found.splitlines())


def command(config: Path, output: Path, options: argparse.Namespace, flags: Sequence[str]) -> list[str]:
    """The command line for one benchmark."""
    program = [sys.executable] if options.gpus <= 1 else ["torchrun", "--standalone", "--nproc_per_node", str(options.gpus)]
    words = [*program, "-m", "omnivast.launch", "--config", str(config), "--mode", "testing", "--output_dir", str(output)]
    if options.gpus == 0:
        words += ["--device", "cpu"]
    for name in ("pretrain_dir", "checkpoint"):
        if getattr(options, name):
            words += [f"--{name}", str(getattr(options, name))]
    return [*words, *flags]


def fingerprint(words: Sequence[str], config: Path, weights: Sequence[Path]) -> str:
    """Changes with the command line, the files of the config and the weights' size and time."""
    try:
        files = files_of(config)
    except ConfigError:  # the test will say what is wrong with it
        files = [config]
    digest = hashlib.sha256(json.dumps([*words]).encode() + b"".join(file.read_bytes() for file in files))
    for path in weights:
        state = path.stat()
        digest.update(f"{path} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()


def weights_of(options: argparse.Namespace) -> list[Path]:
    """The files that the tests would read."""
    if options.checkpoint:
        return [options.checkpoint]
    return sorted((options.pretrain_dir / "ckpt").glob("model_step_*.pt"))


def test(name: str, options: argparse.Namespace, flags: Sequence[str]) -> dict[str, Any]:
    """Test on one benchmark, or take what an earlier call found.

    Returns ``{"fingerprint", "seconds", "results" (file name → metrics and protocol)}``, with ``error`` in place of the last two when
    it failed.
    """
    config, folder = options.configs / f"{name}.json", options.output / name
    words = command(config, folder, options, flags)
    # The program counts by its first name, run.py, by which results of before are known.
    own, done = fingerprint(["run.py", *words[words.index("--config") :]], config, weights_of(options)), folder / "done.json"
    before = _done_before(done)
    if before.get("fingerprint") == own:
        print(f"{name}: done before", flush=True)
        return before
    done.unlink(missing_ok=True)
    for old in (folder / "results").glob("*.json"):
        old.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{name}: testing, log in {folder / 'output.txt'}", flush=True)
    start = time.monotonic()
    try:
        with open(folder / "output.txt", "wb") as log:
            status = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    except OSError as error:
        return {"fingerprint": own, "error": f"{words[0]} could not be started: {error.strerror}"}
    if status in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    paths = sorted((folder / "results").glob("*.json"))
    if status or not paths:
        return {"fingerprint": own, "error": f"exit status {status}: {_last_line(folder / 'output.txt')}"}
    try:
        results = {path.name: _numbers(path) for path in paths}
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        return {"fingerprint": own, "error": f"its results cannot be read: {type(error).__name__}: {error}"}
    record = {"fingerprint": own, "seconds": round(time.monotonic() - start, 1), "results": results}
    write_atomically(done, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def _done_before(path: Path) -> dict[str, Any]:
    """The record of an earlier call; empty where there is none that can be read."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def _numbers(path: Path) -> dict[str, Any]:
    """Metrics and protocol of a result file that the table can show. Raises ValueError, KeyError and their like otherwise."""
    content = json.loads(path.read_text(encoding="utf-8"))
    benchmarks.headline(content["metrics"], content["protocol"])
    return {"metrics": content["metrics"], "protocol": content["protocol"]}


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["no output"])[-1]


def table(records: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per result and metric, the published zero-shot number where there is one, and what failed."""
    lines = ["| benchmark | metric | here | published zero-shot | protocol differences |", "|---|---|---|---|---|"]
    for name, record in records.items():
        if "error" in record:
            lines.append(f"| {name} | failed: {record['error'].replace('|', '/')} | – | – | – |")
        for content in record.get("results", {}).values():
            protocol = content["protocol"]
            group, own = benchmarks.headline(content["metrics"], protocol)
            row = benchmarks.reference(protocol, zero_shot=True)
            theirs = row.results if row else {}
            whose = f" ({row.model.name})" if row and row.model.model_type != protocol.get("model_type", benchmarks.UNPUBLISHED) else ""
            differences = "; ".join(benchmarks.protocol_differences(protocol)) or ("none" if benchmarks.reference(protocol) else "–")
            for key, why in protocol.get("not_computed", {}).items() if not own else ():
                lines.append(f"| {name} {group} | {benchmarks.HEADLINES[key]} | not computed: {why} | – | {differences} |")
            for key, value in own.items():
                other = f"{theirs[key]:.1f}{whose}" if key in theirs else "–"
                lines.append(f"| {name} {group} | {benchmarks.HEADLINES[key]} | {value:.1f} | {other} | {differences} |")
    return "\n".join(lines) + "\n"


def _options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m omnivast zero-shot", description="Tests one checkpoint on many benchmarks without "
                                     "training on them. All other flags go to run.py. `bash scripts/vast/zero_shot.sh` in a checkout "
                                     "does the same, and installs what it needs first; scripts/valor/zero_shot.sh, "
                                     "scripts/gram/zero_shot.sh and scripts/avllm/zero_shot.sh test on the benchmarks of their families' "
                                     "recipes.", allow_abbrev=False)
    parser.add_argument("--pretrain_dir", type=as_path, help="folder of the run whose newest weights are tested")
    parser.add_argument("--checkpoint", type=as_path, help="weights to test in place of those")
    parser.add_argument("--benchmarks", nargs="+", metavar="NAME", help=f"default: all there are, of VAST {', '.join(choices())}")
    parser.add_argument("--configs", type=as_path, default=CONFIGS, help="folder of the configs, NAME.json each; default: those of VAST")
    parser.add_argument("--output", type=as_path, help="default: zero_shot in the run's folder")
    parser.add_argument("--gpus", type=int, default=os.environ.get("GPUS"), metavar="N",
                        help="processes, one per GPU; default: all GPUs of this machine; 0: one process on the CPU")
    options, flags = parser.parse_known_args(arguments)
    options.gpus = count_gpus() if options.gpus is None else options.gpus
    if not (options.pretrain_dir or options.checkpoint):
        parser.error("name the weights: --pretrain_dir FOLDER or --checkpoint FILE")
    given = options.checkpoint or options.pretrain_dir
    if not weights_of(options) or not all(path.is_file() for path in weights_of(options)):
        parser.error(f"{given} holds no weights (ckpt/model_step_N.pt){looked_up(given)}")
    for key in ("pretrain_dir", "checkpoint", "configs", "output"):
        if getattr(options, key):
            setattr(options, key, getattr(options, key).resolve())
    options.output = options.output or (options.pretrain_dir or options.checkpoint.parent) / "zero_shot"
    options.benchmarks = options.benchmarks or choices(options.configs)
    for name in options.benchmarks:
        if not (options.configs / f"{name}.json").is_file():
            there = ", ".join(sorted(path.stem for path in options.configs.glob("*.json")))
            parser.error(f"unknown benchmark '{name}'; there are: {there}")
    return options, flags


def main(arguments: Sequence[str]) -> int:
    """Test on every benchmark, then write zero_shot.json and zero_shot.md into the output folder and print the table."""
    options, flags = _options(arguments)
    records: dict[str, dict[str, Any]] = {}
    try:
        for name in options.benchmarks:
            records[name] = test(name, options, flags)
            if "error" in records[name]:
                print(f"{name}: FAILED, {records[name]['error']}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    finally:
        write_atomically(options.output / "zero_shot.json", json.dumps(records, indent=1, ensure_ascii=False) + "\n")
        write_atomically(options.output / "zero_shot.md", table(records))
    failed = [name for name, record in records.items() if "error" in record]
    print(f"\n{table(records)}\n{options.output / 'zero_shot.json'}")
    if failed:
        print(f"{len(failed)} of {len(records)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
