"""What a test has found so far, batch by batch, so that a run that is killed, or that fails at its last clip, can be continued.

``<results>/unfinished/<dataset>.<settings>/part_<rank>.jsonl`` holds a line per batch: the annotation rows of its clips, and what each
objective found of them (captions, answers, contrastive features); ``matched_<rank>.jsonl`` one per chunk of pairs that re-ranking has
scored. Another run with the same weights, clips and settings, on however many processes, takes them over and does the rest; when the
results of all datasets are written, the folder goes.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from omnivast.config.compare import keys_without_say
from omnivast.config.load import resolved
from omnivast.evaluation.captions import labelling
from omnivast.utils import distributed
from omnivast.utils.log import JsonlWriter, iterate_jsonl
from omnivast.utils.precision import DTYPES

if TYPE_CHECKING:
    from omnivast.config.schema import Config
    from omnivast.data.loader import EvalLoader

DECIDING_RUN = ("seed", "precision", "beam_size")

logger = logging.getLogger("omnivast")


class Journal:
    """The journal of one dataset; made and used on every process.

    found: by objective, this process's share of the results that earlier runs wrote, batch by batch. done: the annotation rows of all of
    them.
    """

    def __init__(self, results: Path, loader: EvalLoader, config: Config, provenance: Mapping[str, Any]) -> None:
        """Reads what earlier runs left. Weights without a known file cannot be recognised in a later run, so their tests keep no journal.
        """
        key = distributed.computed_once(lambda: _key(loader, config, provenance))
        self.folder = results / "unfinished" / f"{loader.name}.{key}" if key else None
        self.found: list[dict[str, Any]] = []
        done: set[int] = set()
        for number, line in enumerate(self._lines(done)):
            if number % distributed.world_size() == distributed.rank():
                self.found.append(_decoded(line))
        # Only when all have read does any write.
        self.done = set().union(*distributed.all_gather_objects(done))
        self._writer: JsonlWriter | None = None
        self._file = f"part_{distributed.rank():05d}.jsonl"
        self._synced = time.monotonic()
        if self.done:
            logger.info("%s: %d of %d clips were tested by an earlier run, and are taken from %s", loader.name, len(self.done),
                        loader.clips, self.folder)

    def add(self, rows: list[int], found: Mapping[str, Any]) -> None:
        """Write down the results of the clips in these rows. A full disk is reported; the test goes on."""
        self._write({"rows": rows, **_encoded(found)})

    def matched(self, rows: Sequence[int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By group (P,) int64 keys and (P,) float64 scores of the pairs noted by :meth:`add_matched` in earlier runs that tested just the
        clips of these annotation rows, which the keys number. Called on every process, the same on all, before any is added."""
        self._file, self._of = f"matched_{distributed.rank():05d}.jsonl", _digest(list(rows))
        return distributed.computed_once(self._matched)

    def _matched(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        by_group: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for path in sorted(self.folder.glob("matched_*.jsonl")) if self.folder else ():
            for line in iterate_jsonl(path):
                if line["of"] == self._of:
                    pair = np.frombuffer(base64.b64decode(line["keys"]), np.int64), np.frombuffer(base64.b64decode(line["scores"]))
                    by_group.setdefault(line["group"], []).append(pair)
        return {group: (np.concatenate([keys for keys, _ in pairs]), np.concatenate([scores for _, scores in pairs]))
                for group, pairs in by_group.items()}

    def add_matched(self, group: str, keys: np.ndarray, scores: np.ndarray) -> None:
        """Write down the scores of pairs, see :meth:`matched`."""
        as_text = {name: base64.b64encode(values.tobytes()).decode() for name, values in (("keys", keys), ("scores", scores))}
        self._write({"of": self._of, "group": group, **as_text})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.folder is None:
            return
        try:
            if self._writer is None:
                self._writer = JsonlWriter(self.folder / self._file)
            self._writer.append(dict(line))
            if time.monotonic() - self._synced > labelling.SYNC_SECONDS:
                self._writer.sync()
                self._synced = time.monotonic()
        except OSError as error:
            logger.warning("%s cannot be written (%s): the test goes on, but could not be continued if it broke off", self.folder,
                           error.strerror or error)
            self.folder = None

    def close(self) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
            self._writer = None

    def remove(self) -> None:
        """Remove the journal: the results of the whole test are written."""
        self.close()
        if self.folder is not None and distributed.is_main():
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):  # where another test is unfinished
                self.folder.parent.rmdir()

    def _lines(self, done: set[int]) -> Iterator[dict[str, Any]]:
        """Lines whose rows are not in ``done``, to which they are added."""
        for path in sorted(self.folder.glob("part_*.jsonl")) if self.folder else ():
            for line in iterate_jsonl(path):
                if done.isdisjoint(line["rows"]):
                    done.update(line["rows"])
                    yield line


def precision_of_unfinished(results: Path, loaders: Sequence[EvalLoader], config: Config, provenance: Mapping[str, Any]) -> str | None:
    """The precision of a test of the same weights, clips and settings that broke off; None where there is none."""
    for name in DTYPES:
        own = dataclasses.replace(config, run_cfg=dataclasses.replace(config.run_cfg, precision=cast(Any, name)))
        keys = ((loader.name, _key(loader, own, provenance)) for loader in loaders)
        if any(key and (results / "unfinished" / f"{dataset}.{key}").is_dir() for dataset, key in keys):
            return name
    return None


def _key(loader: EvalLoader, config: Config, provenance: Mapping[str, Any]) -> str | None:
    """A short hash of everything that decides the results of a clip, to which batch size and number of processes do not belong. None
    where the weights have no name."""
    weights = provenance.get("checkpoint_sha256")
    if weights is None:
        return None
    settings = resolved(config)
    deciding = {
        "weights": weights,
        "clips": loader.provenance["split_sha256"],
        "run_cfg": {key: value for key, value in settings["run_cfg"].items() if key in DECIDING_RUN},
        "model_cfg": {key: value for key, value in settings["model_cfg"].items() if key not in keys_without_say("model_cfg")},
        # The hash of the annotation file stands for its path.
        "data_cfg": {key: value for key, value in dataclasses.asdict(loader.config).items()
                     if key not in keys_without_say("data_cfg") | {"txt"}},
    }
    return _digest(deciding)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _encoded(value: Any) -> Any:
    """Ready for JSON: a float32 tensor becomes its bytes, in letters."""
    if isinstance(value, Tensor):
        return {"float32": base64.b64encode(value.contiguous().numpy().tobytes()).decode(), "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {key: _encoded(inner) for key, inner in value.items()}
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"float32", "shape"}:
        numbers = np.frombuffer(base64.b64decode(value["float32"]), np.float32).copy()
        return torch.from_numpy(numbers).view(value["shape"])
    if isinstance(value, dict):
        return {key: _decoded(inner) for key, inner in value.items()}
    return value
