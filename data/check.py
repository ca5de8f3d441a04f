"""What is wrong with a config's datasets, before a run finds out: ``python -m data.check --config config/debug/tiny.json``.

Opens every clip as a run would (or ``--clips N`` of each dataset, evenly spread), in parallel, and logs a table. All flags of run.py are
understood as well. Exit status: 0 fine; 1 a dataset cannot be used, or more of its clips are unreadable than the run would bear
(training: the share run_cfg.max_unreadable; testing: any, unless run_cfg.skip_unreadable); 2 a bad config.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch.utils.data import Dataset

from config.load import ConfigError, load_config
from config.schema import Config
from config.tasks import CaptionKind
from data.annotations import Row
from data.dataset import IndexedDataset
from data.loader import BatchStream, Key, LoaderError, data_loader
from data.media import MediaError
from data.spec import DataError, InputSpec
from utils.files import sha256_file
from utils.log import Progress, progress, setup_logging

CLIPS_AT_ONCE = 8
SHOWN = 20

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


@dataclass
class Report:
    """What was found of one dataset."""

    name: str
    rows: int = 0
    bearable: float = 0.0
    """Share of unreadable clips that the run would bear."""
    fault: str = ""
    """Why the dataset cannot be used; "" where it can."""
    findings: list[Finding] = field(default_factory=list)

    def count(self, what: str) -> int:
        """Clips with a truthy attribute ``what``."""
        return sum(bool(getattr(finding, what)) for finding in self.findings)

    @property
    def failed(self) -> bool:
        return bool(self.fault) or self.count("fault") > self.bearable * len(self.findings)


def check(config: Config, clips: int | None = None, workers: int = 0) -> list[Report]:
    """Open ``clips`` clips of each dataset (None: all) with ``workers`` processes, and log tables of what was found."""
    spec, reports, sources = InputSpec.of(config.model_cfg), [], {}
    for training, datasets in ((True, config.data_cfg.train), (False, config.data_cfg.val)):
        for dataset in datasets:
            report = Report(f"{'train' if training else 'val'} {dataset.name}",
                            bearable=config.run_cfg.max_unreadable if training else float(config.run_cfg.skip_unreadable))
            reports.append(report)
            try:
                source = IndexedDataset(dataset, spec, seed=config.run_cfg.seed, training=training)
            except DataError as error:
                report.fault = str(error)
                continue
            sources[report.name] = source
            _open_clips(source, report, clips, workers)
    _log(reports)
    for one in sources.values():
        for other in sources.values():
            if one.training and not other.training:
                _log_shared(one, other)
    return reports


def require(config: Config, clips: int) -> None:
    """``check`` of so many clips of each dataset. Raises DataError naming the datasets at which the run would stop."""
    failed = [report.name for report in check(config, clips, os.cpu_count() or 1) if report.failed]
    if failed:
        raise DataError(f"the run would stop at {', '.join(failed)}: see above; `python -m data.check` opens every clip")


class _Opener(Dataset):
    """What runs in a worker: the keys of some clips → their Findings."""

    def __init__(self, source: IndexedDataset) -> None:
        self._source = source

    def __getitems__(self, keys: list[Key]) -> list[Finding]:
        return [self._open(row) for _, _, row in keys]

    def _open(self, index: int) -> Finding:
        source = self._source
        row = source.annotations[index]
        finding = Finding(row.clip_id, without_subtitle=not (row.subtitle or "").strip(), long_texts=_long_texts(row, source))
        try:
            clip = source.media(row.clip_id, index)
        except MediaError as error:
            finding.fault = str(error)
        else:
            finding.without_sound = source.reader.needs_audio and not clip.has_sound
            finding.too_short = 1 < clip.frame_count < (source.config.vision_sample_num or 1)
        return finding


def _open_clips(source: IndexedDataset, report: Report, clips: int | None, workers: int) -> None:
    report.rows = len(source)
    number = min(len(source), clips or len(source))
    rows = [place * len(source) // number for place in range(number)]
    batches = [[(0, row, row) for row in rows[start : start + CLIPS_AT_ONCE]] for start in range(0, number, CLIPS_AT_ONCE)]
    bar: Progress[Any] = progress(number, report.name, unit="clip")
    stream = BatchStream(data_loader(_Opener(source), batches, min(workers, len(batches)), pin_memory=False))
    with bar:
        for found in cast(Iterator[list[Finding]], stream):
            report.findings += found
            bar.update(len(found))


def _long_texts(row: Row, source: IndexedDataset) -> int:
    """Texts above their limit of tokens, at least: a word or a sign is one token or several, and two frame each text."""
    limits = source.lengths
    texts = [(text, limits.caption[kind]) for kind in CaptionKind for text in row.captions.get(kind, ())]
    texts.append((row.subtitle or "", limits.subtitle))
    return sum(len(re.findall(r"\w+|[^\w\s]", text)) + 2 > limit for text, limit in texts)


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
        bad = [finding for finding in report.findings if finding.fault]
        if not bad:
            continue
        reasons = Counter(re.sub(r"\d+(\.\d+)?", "N", finding.fault.rsplit(": ", 1)[-1]) for finding in bad)
        lines = [f"  {count} x {reason}" for reason, count in reasons.most_common(SHOWN)]
        lines += [f"  {finding.clip_id}: {finding.fault}" for finding in bad[:SHOWN]]
        lines += [f"  ... and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        logger.warning("%s: %d of %d clips cannot be read%s\n%s", report.name, len(bad), len(report.findings),
                       f", above what the run bears ({report.bearable:.0%})" if report.failed else "", "\n".join(lines))


def _log_shared(train: IndexedDataset, test: IndexedDataset) -> None:
    """A clip in training and test makes the test worthless. The same id counts where it names the same file, or one of equal content."""
    ids = set(test.annotations.ids())
    shared = sorted(clip_id for clip_id in ids.intersection(train.annotations.ids()) if _same_clip(clip_id, train, test))
    if shared:
        logger.warning("%d of the %d clips of val %s are also in train %s: %s%s", len(shared), len(ids), test.name, train.name,
                       ", ".join(shared[:SHOWN]), " ..." if len(shared) > SHOWN else "")


def _same_clip(clip_id: str, one: IndexedDataset, other: IndexedDataset) -> bool:
    """Whether an id names the same file in both, or files of equal content. Where a dataset has no file, the id is all there is."""
    files = list(zip(one.reader.files(clip_id), other.reader.files(clip_id)))
    return all(os.path.realpath(a) == os.path.realpath(b) or (os.path.isfile(a) and os.path.isfile(b)
               and os.path.getsize(a) == os.path.getsize(b) and sha256_file(a) == sha256_file(b)) for a, b in files)


def main(argv: Sequence[str]) -> int:
    """Check the datasets of the config that a command line describes; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m data.check", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, help="open so many clips of each dataset; default: all")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that read; default: one per core")
    own, rest = parser.parse_known_args(argv)
    setup_logging(None)
    try:
        reports = check(load_config(rest), own.clips, own.workers)
    except (ConfigError, LoaderError) as error:
        logger.error("%s: %s", type(error).__name__, error)
        return 2
    return int(any(report.failed for report in reports))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
