"""What is wrong with a config's datasets, before a run finds out: every clip is opened as the run would, and tables say what was found."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch.utils.data import Dataset

from omnivast.config.schema import Config
from omnivast.config.tasks import CaptionKind
from omnivast.data.annotations.rows import Row
from omnivast.data.check.shared import log_shared, size_of
from omnivast.data.dataset import IndexedDataset
from omnivast.data.loader import BatchStream, Key, data_loader
from omnivast.data.media.errors import MediaError
from omnivast.data.spec import DataError, InputSpec, kind_of_fault
from omnivast.data.stats.measure import quantile
from omnivast.utils import distributed
from omnivast.utils.log import Progress, progress
from omnivast.utils.machine import cores

CLIPS_AT_ONCE = 8
SHOWN = 20
DRY_RUN_CLIPS = 64

logger = logging.getLogger("omnivast")


@dataclass
class Finding:
    """What was found of one clip."""

    clip_id: str
    fault: str = ""
    """Why it cannot be read; "" where it can."""
    without_sound: bool = False
    """The task hears, and the clip has no sound."""
    without_subtitle: bool = False
    too_short: bool = False
    """Fewer frames than vision_sample_num."""
    long_texts: int = 0
    """Captions and subtitles that are cut to the model's limits."""
    lengths: dict[str, list[int]] = field(default_factory=dict)
    """Tokens of its captions and its subtitle, at least, by kind of text; moved to its dataset's report."""
    sizes: tuple[int, ...] = ()
    """Bytes of its media files."""


@dataclass
class Report:
    """What was found of one dataset."""

    name: str
    rows: int = 0
    bearable: float = 0.0
    """Share of unreadable clips that the run would accept."""
    fault: str = ""
    """Why the dataset cannot be used; "" where it can."""
    findings: list[Finding] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    """Most tokens that the model takes, by kind of text."""
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """How many texts have so many tokens, at least, by kind of text."""

    def count(self, what: str) -> int:
        """Clips with a truthy attribute ``what``."""
        return sum(bool(getattr(finding, what)) for finding in self.findings)

    @property
    def failed(self) -> bool:
        return bool(self.fault) or self.count("fault") > self.bearable * len(self.findings)


def check(config: Config, spec: InputSpec, clips: int | None = None, workers: int = 0, threshold: float | None = None) -> list[Report]:
    """Open ``clips`` clips of each dataset (None: all) as the model takes them, which ``spec`` says, with ``workers`` processes, and log
    tables of what was found. ``threshold``: the share of unreadable clips that is borne; None: as much as the run would."""
    reports: list[Report] = []
    sources: dict[str, IndexedDataset] = {}
    for training, datasets in ((True, config.data_cfg.train), (False, config.data_cfg.val)):
        for dataset in datasets:
            report = Report(f"{'train' if training else 'val'} {dataset.name}",
                            bearable=config.run_cfg.max_unreadable if training else float(config.run_cfg.skip_unreadable))
            report.bearable = report.bearable if threshold is None else threshold
            reports.append(report)
            try:
                source = IndexedDataset(dataset, spec, seed=config.run_cfg.seed, training=training)
            except DataError as error:
                report.fault = str(error)
                continue
            sources[report.name] = source
            _open_clips(source, report, clips, workers)
    _log(reports)
    for one in reports:
        for other in reports:
            if one.name in sources and other.name in sources and sources[one.name].training and not sources[other.name].training:
                log_shared(sources[one.name], sources[other.name], one, other)
    return reports


def require(config: Config, spec: InputSpec, clips: int = DRY_RUN_CLIPS) -> None:
    """``check`` of so many clips of each dataset, on the main process. Raises DataError, on all, naming the datasets at which the run
    would stop."""
    failing = [report.name for report in check(config, spec, clips, cores()) if report.failed] if distributed.is_main() else []
    failed = distributed.all_gather_objects(failing)[0]
    if failed:
        raise DataError(f"the run would stop at {', '.join(failed)}: see above; `python -m omnivast check` opens every clip")


class _Opener(Dataset):
    """What runs in a worker: the keys of some clips → their Findings."""

    def __init__(self, source: IndexedDataset) -> None:
        self._source = source

    def __getitems__(self, keys: list[Key]) -> list[Finding]:
        return [self._open(row) for _, _, row in keys]

    def _open(self, index: int) -> Finding:
        source = self._source
        row = source.annotations[index]
        lengths, limits = lengths_of(row), limits_of(source)
        cut = sum(length > limits[kind] for kind, tokens in lengths.items() for length in tokens)
        finding = Finding(row.clip_id, without_subtitle=not (row.subtitle or "").strip(), long_texts=cut, lengths=lengths)
        finding.sizes = tuple(size_of(file) for file in source.reader_of(index).files(row.clip_id))
        try:
            clip = source.media(index, index)
        except MediaError as error:
            finding.fault = str(error)
        else:
            finding.without_sound = source.reader_of(index).needs_audio and not clip.has_sound
            finding.too_short = 1 < clip.frame_count < (source.config.vision_sample_num or 1)
        return finding


def _open_clips(source: IndexedDataset, report: Report, clips: int | None, workers: int) -> None:
    report.rows, report.limits = len(source), limits_of(source)
    number = min(len(source), clips or len(source))
    rows = [n * len(source) // number for n in range(number)]
    batches = [[(0, row, row) for row in rows[start : start + CLIPS_AT_ONCE]] for start in range(0, number, CLIPS_AT_ONCE)]
    bar: Progress[Any] = progress(number, report.name, unit="clip")
    stream = BatchStream(data_loader(_Opener(source), batches, min(workers, len(batches)), pin_memory=False))
    with bar:
        for findings in cast(Iterator[list[Finding]], stream):
            for finding in findings:
                for kind, lengths in finding.lengths.items():
                    report.lengths[kind].update(lengths)
                finding.lengths = {}
            report.findings += findings
            bar.update(len(findings))


def lengths_of(row: Row) -> dict[str, list[int]]:
    """A lower bound of the tokens of each text of a row: one for each word and sign (which may take several), and [CLS] and [SEP]."""
    texts = {f"{kind.value} captions": row.captions.get(kind, []) for kind in CaptionKind}
    texts["subtitles"] = [row.subtitle] if (row.subtitle or "").strip() else []  # type: ignore[list-item]
    return {kind: [len(re.findall(r"\w+|[^\w\s]", text)) + 2 for text in own] for kind, own in texts.items() if own}


def limits_of(source: IndexedDataset) -> dict[str, int]:
    """Most tokens of each kind of text."""
    return {**{f"{kind.value} captions": limit for kind, limit in source.lengths.caption.items()}, "subtitles": source.lengths.subtitle}


# ----------------------------------------------------------------------------------------------------------------- the log


def _log(reports: Sequence[Report]) -> None:
    head = ("dataset", "rows", "opened", "unreadable", "without sound", "without subtitle", "too short", "with long texts")
    whats = ("fault", "without_sound", "without_subtitle", "too_short", "long_texts")
    rows = [(r.name, f"{r.rows:,}", f"{len(r.findings):,}", *(f"{r.count(what):,}" for what in whats)) for r in reports]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(row, widths)))
             for row in [head, *rows]]
    logger.info("%s", "\n".join(["", *lines]))
    for report in reports:
        if report.fault:
            logger.error("%s cannot be used: %s", report.name, report.fault)
        _log_lengths(report)
        bad = [finding for finding in report.findings if finding.fault]
        if not bad:
            continue
        reasons = Counter(kind_of_fault(finding.fault) for finding in bad)
        lines = [f"  {count} x {reason}" for reason, count in reasons.most_common(SHOWN)]
        lines += [f"  {finding.clip_id}: {finding.fault}" for finding in bad[:SHOWN]]
        lines += [f"  ... and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        logger.warning("%s: %d of %d clips cannot be read%s\n%s", report.name, len(bad), len(report.findings),
                       f", above what the run bears ({report.bearable:.0%})" if report.failed else "", "\n".join(lines))


def _log_lengths(report: Report) -> None:
    """Captions and subtitles beside the model's limits."""
    for kind, limit in report.limits.items():
        lengths = report.lengths[kind]
        if lengths:
            total, cut = lengths.total(), sum(count for length, count in lengths.items() if length > limit)
            logger.info("%s: %s %s, tokens at least: half up to %d, 95 %% up to %d, the longest %d; limit %d%s", report.name, f"{total:,}",
                        kind, quantile(lengths, 0.5), quantile(lengths, 0.95), max(lengths), limit,
                        f", which cuts {cut:,} ({cut / total:.1%})" if cut else "")
