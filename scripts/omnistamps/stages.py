"""Stages of a script: each runs one program, is timed, is reused when it was done before, and goes on where it was interrupted.

A stage is done before when ``<folder>/stages.json`` says so with the same fingerprint: the resolved config and the hashes of what it
reads (clips, checkpoint). Code does not count; ``--fresh`` starts over.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from omnivast.config.compare import passive_keys
from omnivast.config.files import find_config
from omnivast.config.load import ConfigError, load_config, resolved
from omnivast.utils.files import sha256_file, write_atomically
from omnivast.utils.machine import cores

CLIPS = "datasets/omnistamps"
CONFIGS = {"quick": "config/omnistamps/quick", "full": "config/omnistamps/full", "debug": "config/omnistamps/quick"}
"""Folder of the configs for each size of OmniStamps; debug is the quick recipe on a few clips and steps."""
DEBUG_FLAGS = {"train": ("--train_batch_size", "8"), "val": ("--test_batch_size", "8")}
DEBUG_STEPS = 4
SAVE_EVERY = 100
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGUSR1)


def _has_gpu() -> bool:
    import torch  # here, because --help comes before anything is installed

    return torch.cuda.is_available()


class StageError(RuntimeError):
    """A stage failed or cannot start; the message says what to look at. ``status`` is the exit status to end with."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class MissingResult(RuntimeError):  # noqa: N818 (named for what the user meets)
    """A file that a stage should have written is absent or damaged; the message says which stage to run."""


def read_result(path: Path, remedy: str) -> Any:
    """The JSON that a stage wrote. Raises MissingResult, which ends with ``remedy``."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingResult(f"{path} is absent: {remedy}") from None
    except ValueError as error:
        raise MissingResult(f"{path} is not JSON ({error}): {remedy}") from None


def run_script(name: str, work: Callable[[], None]) -> int:
    """Do a script's work and say how long it took, or why it ended. Returns the exit status."""
    began = time.monotonic()
    try:
        work()
    except StageError as error:
        print(f"\n{name}: {error}", file=sys.stderr)
        return error.status
    print(f"this call took {(time.monotonic() - began) / 60:.1f} min")
    return 0


class Recipe:
    """The configs of one size of OmniStamps, as command lines of ``omnivast train`` and ``omnivast test``."""

    def __init__(self, size: str, data: Path | None = None, steps: int | None = None) -> None:
        """``data``: folder of the clips, if not the size's own; ``steps``: of every training, if not its config's."""
        self.size = size
        self.steps = DEBUG_STEPS if size == "debug" and steps is None else steps
        self.data = data or Path(CLIPS, size)

    def config(self, name: str) -> Path:
        """The config file ``name`` (``pretrain``, ``finetune_ret``, …) of this size: OmniVAST's own, if the working directory has none."""
        return find_config(f"{CONFIGS[self.size]}/{name}.json")

    def training(self, config: Path, *extra: str) -> list[str]:
        """Arguments that train as ``config`` says, on this recipe's clips, without evaluation."""
        return [*self._arguments(config, ("train",)), "--data_cfg.val", "[]", *extra]

    def testing(self, config: Path, *extra: str) -> list[str]:
        """Arguments that test as ``config`` says, on this recipe's clips."""
        return [*self._arguments(config, ("train", "val")), *extra]

    def build(self, fresh: bool) -> list[str]:
        """The command that builds the clips."""
        command = [sys.executable, "-m", "omnivast", "omnistamps", "--size", self.size, "--output", str(self.data)]
        return [*command, "--fresh"] if fresh else command

    def check(self, config: Path, *extra: str) -> list[str]:
        """The command that opens every clip of ``config`` with all cores, which also fills its decode cache."""
        return [sys.executable, "-m", "omnivast", "check", *self._arguments(config, ("train", "val")), *extra]

    def threads(self, lanes: int) -> tuple[str, ...]:
        """Flags that share the cores out among as many lanes; see ``Stages.side_by_side``."""
        # At the debug size every program has one thread already.
        shared_out = self.size != "debug" and not _has_gpu()
        return ("--num_threads", str(max(1, cores() // lanes))) if shared_out else ()

    def _arguments(self, config: Path, lists: Sequence[str]) -> list[str]:
        flags = ["--config", str(config), *self._paths(config, lists)]
        if self.size == "debug":
            # Two threads gain nothing on so little work, and wait for each other on a busy machine.
            flags += ["--num_threads", "1", *(word for which in lists for word in DEBUG_FLAGS[which])]
        if self.steps is not None:
            flags += ["--num_train_steps", str(self.steps)]
        return flags

    def _paths(self, config: Path, lists: Sequence[str]) -> list[str]:
        """Flags that replace the config's own folder of clips by this recipe's."""
        own = f"{CLIPS}/{Path(CONFIGS[self.size]).name}/"
        if Path(own) == self.data:
            return []
        flags = ["--model_cfg.tokenizer", str(self.data / "vocab.txt")]
        data = json.loads(config.read_text(encoding="utf-8"))["data_cfg"]
        for which in lists:
            for index, dataset in enumerate(data[which]):
                for key, value in dataset.items():
                    if isinstance(value, str) and value.startswith(own):
                        flags += [f"--data_cfg.{which}.{index}.{key}", str(self.data / value.removeprefix(own))]
        return flags


class Stages:
    """The stages of one script, in order, and the file that remembers them. Relative paths are taken from the working directory."""

    def __init__(self, folder: Path, total: int, *, fresh: bool = False) -> None:
        """``total``: number of stages, for the headlines. ``fresh`` removes what an earlier call left in ``folder``."""
        self.folder, self.total, self.number = folder, total, 0
        self.file = folder / "stages.json"
        self._open(fresh)
        self.records: dict[str, dict[str, Any]] = json.loads(self.file.read_text())
        self.children: set[subprocess.Popen[str]] = set()
        self.stopped_by = 0
        self.lock = threading.Lock()
        self.lane = threading.local()
        # Ctrl-C reaches the programs that run as well, which save and end; this one then says how to continue.
        signal.signal(signal.SIGINT, self._interrupted)
        signal.signal(signal.SIGTERM, self._interrupted)

    def _open(self, fresh: bool) -> None:
        ours = self.file.is_file()
        if self.folder.exists() and not self.folder.is_dir():
            raise StageError(f"{self.folder} is a file; choose another --folder")
        if self.folder.is_dir() and any(self.folder.iterdir()) and not ours:
            raise StageError(f"{self.folder} holds files that this script did not write; choose another --folder, or remove it yourself")
        if fresh and ours:
            print(f"starting over: removing {self.folder}")
            shutil.rmtree(self.folder)
            ours = False
        if not ours:
            try:
                write_atomically(self.file, "{}\n")
            except OSError as error:
                raise StageError(f"{self.folder} cannot be written: {error.strerror or error}") from error

    def build(self, title: str, recipe: Recipe, fresh: bool = False) -> str:
        """Build the clips of ``recipe``, which reuses what is there, and return the hash of the set."""
        self._headline(title)
        before = self.records.get("build", {})
        seconds = self._run("build", recipe.build(fresh), None)
        built = sha256_file(recipe.data / "build.json")
        if before.get("fingerprint") == built and not fresh:
            seconds = before["seconds"]
        self._remember("build", fingerprint=built, done=True, seconds=seconds)
        return built

    def train(self, name: str, title: str, output: Path, arguments: Sequence[str], inputs: Mapping[str, str]) -> Path:
        """Train with ``arguments`` into ``output``; returns the newest weights. ``inputs``: hashes of what it reads."""
        self._headline(title)
        arguments = [*arguments, "--output_dir", str(output)]
        fingerprint = self._fingerprint(arguments, inputs)
        record = self.records.get(name, {})
        same = record.get("fingerprint") == fingerprint
        weights = _weights(output)
        if same and record.get("done") and weights:
            self._say(f"reusing {output} (step {_step(weights)})")
            return weights
        resuming = same and weights is not None
        if weights and same:
            self._say(f"resuming {output} after step {_step(weights)}")
        elif output.exists():
            self._say(f"starting {output} over: " + ("it has no checkpoint yet" if same else "its settings or inputs have changed"))
            shutil.rmtree(output)
        before = record.get("seconds", 0.0) if resuming else 0.0
        self._remember(name, fingerprint=fingerprint, done=False, seconds=before)
        flags = ["--save_every", str(SAVE_EVERY), *(["--resume", "true"] if resuming else [])]
        self._run(name, [sys.executable, "-m", "omnivast", "train", *arguments, *flags], output, before)
        weights = _weights(output)
        if weights is None:
            raise StageError(f"{output} has no checkpoint although its training ended well; look at {output / 'log' / 'log.txt'}")
        return weights

    def test(self, name: str, title: str, output: Path, arguments: Sequence[str], weights: Path, inputs: Mapping[str, str]) -> None:
        """Test ``weights`` with ``arguments``; results go to ``output``."""
        self._headline(title)
        arguments = [*arguments, "--checkpoint", str(weights), "--output_dir", str(output)]
        fingerprint = self._fingerprint(["--mode", "testing", *arguments], {**inputs, "weights": sha256_file(weights)})
        record = self.records.get(name, {})
        if record.get("fingerprint") == fingerprint and record.get("done") and any((output / "results").glob("*.json")):
            self._say(f"reusing {output}")
            return
        if output.exists():
            shutil.rmtree(output)
        self._remember(name, fingerprint=fingerprint, done=False, seconds=0.0)
        self._run(name, [sys.executable, "-m", "omnivast", "test", *arguments], output)

    def command(self, name: str, title: str, command: Sequence[str], inputs: Mapping[str, str] | None = None) -> None:
        """Run a short command: once for the same ``inputs`` (hashes of what it reads), or anew each time where none are named."""
        self._headline(title)
        fingerprint = _hash([list(command), dict(inputs)]) if inputs is not None else ""
        record = self.records.get(name, {})
        if inputs is not None and record.get("fingerprint") == fingerprint and record.get("done"):
            self._say("done before")
            return
        self._remember(name, fingerprint=fingerprint, done=False, seconds=0.0)
        self._run(name, command, None)

    def side_by_side(self, lanes: Mapping[str, Callable[[], None]]) -> None:
        """Run the stages of each lane in order, the lanes at the same time; every line of output names its lane. A lane that fails
        leaves the others to their end; its StageError is raised then.

        A small model does not keep several cores busy, so several trainings at the same time end sooner than one after the other.
        On a GPU they would share its memory: there the lanes come one after the other.
        """
        if _has_gpu():
            for stages in lanes.values():
                stages()
            return
        failures: list[StageError] = []

        def follow(name: str, stages: Callable[[], None]) -> None:
            self.lane.name = name
            try:
                stages()
            except StageError as error:
                failures.append(error)

        threads = [threading.Thread(target=follow, args=lane) for lane in lanes.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def seconds(self) -> dict[str, float]:
        """What each stage took, by name; interruptions not counted."""
        return {name: round(record["seconds"], 2) for name, record in self.records.items()}

    def _headline(self, title: str) -> None:
        with self.lock:
            self.number += 1
            print(f"\n[{self.number}/{self.total}] {title}", flush=True)

    def _say(self, line: str) -> None:
        lane = getattr(self.lane, "name", None)
        with self.lock:  # print() writes the end of a line by itself
            print(line if lane is None else f"{lane}: {line}", flush=True)

    def _fingerprint(self, arguments: Sequence[str], inputs: Mapping[str, str]) -> str:
        try:
            settings = resolved(load_config(arguments))
        except ConfigError as error:
            raise StageError(str(error), 2) from error
        # What a run is called and where it stands says nothing about its outcome.
        for key in passive_keys("run_cfg"):
            settings["run_cfg"].pop(key)
        for dataset in (*settings["data_cfg"]["train"], *settings["data_cfg"]["val"]):
            for key in passive_keys("data_cfg"):
                dataset.pop(key)
        return _hash([settings, dict(inputs)])

    def _remember(self, name: str, **record: Any) -> None:
        with self.lock:
            self.records[name] = record
            write_atomically(self.file, json.dumps(self.records, indent=1) + "\n")
            write_atomically(self.folder / "seconds.json", json.dumps(self.seconds(), indent=1) + "\n")

    def _run(self, name: str, command: Sequence[str], output: Path | None, before: float = 0.0) -> float:
        """Run to the end and return the seconds, with those ``before`` an interruption. Raises StageError."""
        words = ["python", *command[1:]]
        self._say(f"$ {shlex.join(words)}")
        began = time.monotonic()
        status = self._call(command)
        seconds = before + time.monotonic() - began
        if name in self.records:
            self._remember(name, **{**self.records[name], "done": status == 0, "seconds": seconds})
        if status:
            self._fail(name, status if status > 0 else 128 - status, output)
        return seconds

    def _call(self, command: Sequence[str]) -> int:
        """The exit status of a program. In a lane its output comes line by line, since bars of several would overwrite each other."""
        if self.stopped_by:
            return 128 + self.stopped_by
        piped = hasattr(self.lane, "name")
        child = subprocess.Popen(list(command), text=True, stdout=subprocess.PIPE if piped else None,
                                 stderr=subprocess.STDOUT if piped else None)
        self.children.add(child)
        for line in child.stdout or ():
            self._say(line.rstrip("\n"))
        status = child.wait()
        self.children.remove(child)
        return status

    def _fail(self, name: str, status: int, output: Path | None) -> NoReturn:
        if status in STOPPED:
            raise StageError(f"stopped in stage {name}; run the same command again to continue from there", status)
        log = f" and {output / 'log' / 'log.txt'}" if output is not None and (output / "log" / "log.txt").exists() else ""
        raise StageError(f"stage {name} failed with exit status {status}; look at the messages above{log}. "
                         "Once mended, the same command goes on from there", status)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = number
        if not self.children:
            sys.exit(128 + number)
        if number != signal.SIGINT:
            for child in list(self.children):
                child.send_signal(number)


def positive(text: str) -> int:
    """A number for a command line. Raises ValueError for anything but 1 and more."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _weights(output: Path) -> Path | None:
    """The newest weights that a training committed, or None."""
    try:
        newest = json.loads((output / "ckpt" / "latest.json").read_text())["step"]
    except (OSError, ValueError, KeyError):
        return None
    path = output / "ckpt" / f"model_step_{newest}.pt"
    return path if path.is_file() else None


def _step(weights: Path) -> int:
    return int(weights.stem.rsplit("_", 1)[1])
