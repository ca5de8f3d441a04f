"""Loaders: corpora → Batches, read ahead by worker processes."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, parent_process, resource_tracker
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from omnivast.config.schema import DatasetConfig
from omnivast.config.tasks import CaptionKind, Objective, Task
from omnivast.data.annotations.load import load_references
from omnivast.data.batch import Batch, Sample, collate, written_as_read
from omnivast.data.dataset import LOOKED_FOR, IndexedDataset
from omnivast.data.hard_negatives import read_hard_negatives
from omnivast.data.joined import JoinedDataset, corpora_of
from omnivast.data.limits import LoaderError, check_start, died, no_more_files, out_of_files, workers_explained
from omnivast.data.media.errors import MediaError
from omnivast.data.media.parts import is_empty
from omnivast.data.mixture import Corpus, Mix, Mixture, Plan, planned_steps, scale_steps
from omnivast.data.order import Order, phases_of_all
from omnivast.data.parcel import Parcel
from omnivast.data.spec import ChatTokenizer, DataError, InputSpec, Tokenizer, UnreadableError
from omnivast.utils.machine import cores

PREFETCH_PER_WORKER = 2
OPENED = 8
"""How many clips of an evaluation set are read before a run starts. For the others it is only checked that their files exist."""
GLANCE_SECONDS = 120.0
"""Seconds after which the check before a run ends, for sets of millions of clips and slow disks."""
MOST_WORKERS = 16
"""Most workers of one process where their number is chosen automatically: more rarely feed a GPU better, and each takes memory."""

logger = logging.getLogger("omnivast")
Key = tuple[int, int, int]
"""(corpus, position, row)."""


class TrainLoader:
    """The batches of a training run over one or several corpora, for one process."""

    def __init__(
        self,
        datasets: Sequence[DatasetConfig],
        spec: InputSpec,
        tokenizer: Tokenizer,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        num_train_steps: int | None = None,
        mix: Mix = "random",
        order: Order = "mixed",
        pin_memory: bool = False,
    ) -> None:
        """Reads and checks all annotations. Raises DataError, AnnotationError."""
        if not datasets:
            raise DataError("data_cfg.train is empty: training needs at least one dataset")
        _check_names(datasets)
        for config in datasets:
            if config.batch_size % world_size:
                share = config.batch_size // world_size
                fitting = f"{share * world_size} or {(share + 1) * world_size}" if share else str(world_size)
                raise DataError(
                    f"dataset '{config.name}': batch_size {config.batch_size} is of all processes together, and {world_size} processes "
                    f"cannot share it evenly; take {fitting}, or another multiple of {world_size}"
                )
        self.parts = parts = [IndexedDataset(config, spec, seed=seed, training=True) for config in datasets]
        """Its datasets."""
        self._sources = corpora_of(parts)
        if spec.conversations:
            _check_conversations(parts, cast("ChatTokenizer", tokenizer))
        steps = [planned_steps(source.config, len(source), accumulation) for source in self._sources]
        if not sum(steps):
            raise DataError("no training step: 'epoch' or 'steps' of every training dataset is 0")
        steps = scale_steps(steps, num_train_steps)
        self.corpora = [
            Corpus(source.name, len(source), count, source.task, source.config.batch_size, source.config, source.shard_numbers(),
                   source.identity(), read_hard_negatives(source.config, (row.clip_id for row in source.annotations)),
                   phases)
            for source, count, phases in zip(self._sources, steps, phases_of_all(self._sources, order))
        ]
        if rank == 0:
            _warn_of_repetition(self.corpora)
        self._mixture = Mixture(self.corpora, seed=seed, accumulation=accumulation, mix=mix)
        self._seed, self._mix, self.total_steps = seed, mix, self._mixture.total_steps
        self.accumulation, self.rank, self.world_size = accumulation, rank, world_size
        self._fetcher = _Fetcher(self._sources, tokenizer)
        self._workers = max(workers(config) for config in datasets)
        self._pin_memory = pin_memory

    def follow(self, plan: Plan) -> None:
        """Take the steps of each corpus from the ``plan`` of the run that is continued (``Mixture``) instead of from the config."""
        for corpus, steps in zip(self.corpora, plan[-1]):
            corpus.steps = steps
        self._mixture = Mixture(self.corpora, seed=self._seed, accumulation=self.accumulation, mix=self._mix, plan=plan)
        self.total_steps = self._mixture.total_steps

    def task(self, corpus: str) -> Task:
        """The task of a corpus by its name."""
        return next(known.task for known in self.corpora if known.name == corpus)

    def steps_by_corpora(self, start: int) -> dict[str, int]:
        """Corpus → how many of the steps from ``start`` on read it. A step that reads several counts under their names, joined by a
        plus."""
        return self._mixture.steps_by_corpora(start)

    def references(self) -> dict[tuple[str, CaptionKind], dict[str, list[str]]]:
        """Clip id → all its captions, by corpus and by the caption kinds that captioning is trained on."""
        references: dict[tuple[str, CaptionKind], dict[str, list[str]]] = {}
        for source in self._sources:
            for kind in {group.caption_kind for group in source.task.groups(Objective.CAPTION)}:
                captions = references.setdefault((source.name, kind), {})
                for row in source.annotations:
                    captions.setdefault(row.clip_id, []).extend(row.captions.get(kind) or row.captions[CaptionKind.OMNI])
        return references

    def __iter__(self) -> BatchStream:
        return self.batches(0)

    def batches(self, start_step: int = 0) -> BatchStream:
        """``accumulation`` batches per optimiser step, from ``start_step`` (counted from 0) to the end. Nothing of the steps
        before is read."""
        if not 0 <= start_step <= self.total_steps:
            raise DataError(f"cannot start at step {start_step} of a training of {self.total_steps} steps")
        return BatchStream(data_loader(self._fetcher, _StepSampler(self, start_step), self._workers, self._pin_memory))

    def keys(self, step: int, micro: int) -> list[Key]:
        """What this process reads for a micro-batch: its contiguous share of the global batch."""
        corpus, rows = self._mixture.batch(step, micro)
        share = len(rows) // self.world_size
        return [(corpus, position, row) for position, row in rows[self.rank * share : (self.rank + 1) * share]]


class EvalLoader:
    """The clips of one evaluation dataset, each exactly once over all processes; this process's share is contiguous."""

    def __init__(
        self,
        dataset: DatasetConfig,
        spec: InputSpec,
        tokenizer: Tokenizer,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        skip_unreadable: bool = False,
    ) -> None:
        """Reads and checks annotations and references. Raises DataError, AnnotationError."""
        self._source = self.part = IndexedDataset(dataset, spec, seed=seed, training=False)
        annotations = self._source.annotations
        self.name, self.task, self.config, self.clips = dataset.name, self._source.task, dataset, len(self._source)
        self.clip_ids = annotations.ids()
        self.references = self._references()
        only_questions = set(self.task.objectives) == {Objective.QA}
        self.provenance: dict[str, Any] = {
            "split_file": str(annotations.path),
            "split_sha256": annotations.sha256,
            "clips": self.clips,
            "texts": annotations.question_count if only_questions else annotations.caption_count,
            "unreadable": [],
        }
        self._rank, self._world = rank, world_size
        self._batch_size = max(1, dataset.batch_size // world_size)
        self._fetcher = _Fetcher([self._source], tokenizer)
        self._pin_memory, self._skip_unreadable = pin_memory, skip_unreadable

    def __iter__(self) -> Iterator[Batch]:
        return self.read()

    def read(self, done: Collection[int] = ()) -> Iterator[Batch]:
        """This process's share of the clips in annotation order, without those in the rows ``done``.

        Unreadable clips are left out and listed in ``provenance["unreadable"]`` as [clip id, reason]. At the end UnreadableError lists
        all of this process's unreadable clips, unless the loader was told to skip them.
        """
        unreadable: list[tuple[str, str]] = []
        rows = [row for row in range(self.clips) if row not in done] if done else range(self.clips)
        for batch in self.batches(rows[self._rank * len(rows) // self._world : (self._rank + 1) * len(rows) // self._world]):
            unreadable += batch.unreadable
            if len(batch):
                yield batch
        self.provenance["unreadable"] = [list(entry) for entry in unreadable]
        if unreadable and not self._skip_unreadable:
            raise UnreadableError.of(
                self.name, unreadable, "repair them, or leave them out with skip_unreadable (the result says how many)"
            )

    def glance(self) -> list[tuple[str, str]]:
        """(clip id, reason) of the clips that a quick look finds unreadable: it checks that every file exists and is not empty, and
        reads ``OPENED`` clips, evenly spread."""
        source, faults, start = self._source, [], time.monotonic()
        number = min(self.clips, OPENED)
        opened = {n * self.clips // number for n in range(number)}
        for row, clip_id in enumerate(self.clip_ids):
            try:
                if row in opened or any(map(is_empty, source.reader_of(row).find(clip_id))):
                    source.media(row, row)
            except MediaError as error:
                faults.append((clip_id, str(error)))
            if time.monotonic() - start > GLANCE_SECONDS:
                logger.info("dataset '%s': looked for the first %d of %d clips; the others are found missing when they are read", self.name,
                            row + 1, self.clips)
                break
        return faults

    def batches(self, rows: Sequence[int]) -> BatchStream:
        """The clips of these annotation rows, in this order. Unreadable ones are left out and named in their batch's ``unreadable``."""
        size = self._batch_size
        batches = [[(0, row, row) for row in rows[start : start + size]] for start in range(0, len(rows), size)]
        return BatchStream(data_loader(self._fetcher, batches, min(workers(self.config), len(batches)), self._pin_memory))

    def _references(self) -> dict[str, list[str]]:
        """Clip id → reference captions, from ``annfile`` or from the annotations. Raises DataError when ``annfile`` lacks a clip."""
        if self.config.annfile is None:
            rows = ((row.clip_id, row.captions) for row in self._source.annotations)
            return {clip_id: captions.get(CaptionKind.OMNI) or next(iter(captions.values())) for clip_id, captions in rows if captions}
        known = load_references(self.config.annfile)
        missing = [clip_id for clip_id in self.clip_ids if clip_id not in known]
        if missing:
            raise DataError(
                f"{self.config.annfile}: no reference caption for {len(missing)} of the {self.clips} clips of {self.config.txt}, for "
                f"example '{missing[0]}'"
            )
        return {clip_id: known[clip_id] for clip_id in self.clip_ids}


class BatchStream(Iterator[Batch]):
    """An iterator over batches that measures how long its caller waits for them."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self._iterator: Iterator[Batch] | None = None
        self.wait_seconds = 0.0
        """Seconds spent in ``next`` since the start or since the caller set it to 0."""

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            with workers_explained():
                if self._iterator is None:
                    self._iterator = self._started()
                item = next(self._iterator)
                item = item.open() if isinstance(item, Parcel) else item
        except (OSError, EOFError) as error:
            if out_of_files():
                raise no_more_files() from error
            if isinstance(error, (ConnectionError, EOFError)):
                raise died(error) from error  # while it handed over a batch
            raise
        finally:
            self.wait_seconds += time.perf_counter() - start
        if isinstance(item, Exception):
            raise item
        return item

    def _started(self) -> Iterator[Batch]:
        if not self._loader.num_workers:
            return iter(self._loader)
        with check_start(self._loader.num_workers, self._loader.multiprocessing_context), _group_signals_blocked():
            return iter(self._loader)

    def close(self) -> None:
        """Stop the workers; also happens when the stream is dropped."""
        self._iterator = None


class _Fetcher(Dataset):
    """Runs in a worker: turns the keys of one batch into the Batch, or into the error that is to end the run, whole and without torch's
    frame."""

    def __init__(self, sources: Sequence[IndexedDataset | JoinedDataset], tokenizer: Tokenizer) -> None:
        self._sources, self._tokenizer = list(sources), tokenizer

    def __getitems__(self, keys: list[Key]) -> Batch | UnreadableError | DataError | LoaderError:
        try:
            batch = self._batch(keys)
        except (UnreadableError, DataError) as error:
            return no_more_files() if out_of_files() else error
        return no_more_files() if batch.unreadable and out_of_files() else batch

    def _batch(self, keys: list[Key]) -> Batch:
        began = time.perf_counter()
        source = self._sources[keys[0][0]]
        unreadable: list[tuple[str, str]] = []
        samples = []
        for _, position, row in keys:
            result = source.sample(position, row) if source.training else source.read(position, row)
            if isinstance(result, Sample):
                samples.append(result)
            else:
                unreadable.append(result)
        batch = collate(samples, corpus=source.name, tokenizer=self._tokenizer, lengths=source.lengths, task=source.task,
                        training=source.training)
        batch.unreadable += unreadable
        batch.read_seconds = time.perf_counter() - began
        return batch


class _StepSampler:
    """The keys of every micro-batch from a step on."""

    def __init__(self, loader: TrainLoader, start_step: int) -> None:
        self._loader, self._start = loader, start_step

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self._start, self._loader.total_steps):
            for micro in range(self._loader.accumulation):
                yield self._loader.keys(step, micro)


def _check_conversations(sources: Sequence[IndexedDataset], tokenizer: ChatTokenizer) -> None:
    """Raise DataError for a conversation that cannot be learnt, such as one that is too long. Of large corpora ``LOOKED_FOR`` rows are
    looked at, evenly spread: the others are checked as they are read."""
    for source in sources:
        number = min(len(source), LOOKED_FOR)
        for place in range(number):
            sample = source.said(place * len(source) // number)
            where = f"{source.annotations.path}: row {sample.index} (id '{sample.clip_id}')"
            for conversation in sample.conversations:
                written_as_read(tokenizer, sample, conversation, source.config.vision_sample_num or 0, source.config.audio_sample_num or 0,
                                where)


def _warn_of_repetition(corpora: Sequence[Corpus]) -> None:
    """Warn if a corpus has fewer clips than a batch, which then holds some of them twice."""
    for corpus in corpora:
        if corpus.batch_size > corpus.rows:
            cost = ": the contrastive loss then calls a clip's own text wrong" if corpus.task.groups(Objective.RETRIEVAL) else ""
            logger.warning("dataset '%s': batch_size %d is more than its %d clips, so every batch holds some of them more than once%s; "
                           "lower batch_size to %d or less", corpus.name, corpus.batch_size, corpus.rows, cost, corpus.rows)


def workers(config: DatasetConfig) -> int:
    """The number of worker processes that read a dataset for one process of the training. -1 in the config stands for one per core that
    this process may use, except the core that it computes with."""
    if config.n_workers >= 0:
        return config.n_workers
    return max(1, min(MOST_WORKERS, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1))


def data_loader(fetcher: Dataset, batches: Any, processes: int, pin_memory: bool) -> DataLoader:
    """Forked workers share the annotations' memory, but a process that has used CUDA must not fork."""
    context = ("forkserver" if torch.cuda.is_available() else "fork") if processes else None
    if context == "forkserver":
        with _group_signals_blocked():  # the process that forks the workers is in the group too, and they would end with it
            forkserver.ensure_running()
    return DataLoader(
        fetcher,
        batch_sampler=batches,
        num_workers=processes,
        collate_fn=Parcel if processes else _as_is,
        pin_memory=pin_memory,
        prefetch_factor=PREFETCH_PER_WORKER if processes else None,
        multiprocessing_context=context,
        worker_init_fn=_start_worker,
        # A separate generator: the DataLoader's seed must not be drawn from the model's random state.
        generator=torch.Generator(),
    )


def _as_is(batch: Any) -> Any:
    return batch


@contextmanager
def _group_signals_blocked() -> Iterator[None]:
    """Signals that a whole group of processes gets (Ctrl-C, torchrun's SIGTERM, a scheduler's) are for the training, which answers by
    finishing its step. Processes that start within, and all their threads, never get them: the workers go on reading."""
    resource_tracker.ensure_running()  # which unblocks SIGTERM when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_when_told, name="end", daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_when_told() -> None:
    """Let the SIGTERM that the training sends end this worker; if the training process is gone, torch's watchdog in the worker ends it."""
    parent = parent_process()
    while parent is not None and signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        continue
    os._exit(0)


def _check_names(datasets: Sequence[DatasetConfig]) -> None:
    names = [config.name for config in datasets]
    for name in names:
        if not name or names.count(name) > 1:
            fault = f"'{name}' occurs twice" if name else "one has none"
            raise DataError(f"training datasets need different names, for logs and random draws; {fault}")
