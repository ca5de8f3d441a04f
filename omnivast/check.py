"""What is wrong with a config's datasets, before a run finds out: ``python -m omnivast check --config config/debug/tiny.json``.

Opens every clip as a run would (or ``--clips N`` of each dataset, evenly spread), in parallel, and logs a table. All flags of run.py are
understood as well. Exit status: 0 fine; 1 a dataset cannot be used, or more of its clips are unreadable than the run would bear
(training: the share run_cfg.max_unreadable; testing: any, unless run_cfg.skip_unreadable; or the share --threshold); 2 a bad config;
130 stopped.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence

import omnivast.model.build  # noqa: F401  (it enters the families into MODELS)
from omnivast.config.load import ConfigError, load_config
from omnivast.config.schema import Config
from omnivast.data.check.datasets import check
from omnivast.data.limits import LoaderError
from omnivast.data.spec import InputSpec
from omnivast.model.encoders.base import EncoderError
from omnivast.model.interface import MODELS, ModelError
from omnivast.utils.log import setup_logging
from omnivast.utils.machine import cores

logger = logging.getLogger("omnivast")


def spec_of(config: Config) -> InputSpec:
    """What the data must know of a config's model, which is not built for it. Raises ModelError, EncoderError."""
    cfg = config.model_cfg
    family = MODELS.find(cfg.model_type)
    return InputSpec.of(cfg, family.frontend_of(cfg), config.run_cfg.captioner_mode, family.frame_resize, family.one_caption_length,
                        family.conversations, negatives=family.learns_negatives)


def main(argv: Sequence[str]) -> int:
    """Check the datasets of the config that a command line describes; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m omnivast check", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=_at_least(1), help="open so many clips of each dataset; default: all")
    parser.add_argument("--workers", type=_at_least(0), default=cores(), help="processes that read; default: one per core")
    parser.add_argument("--threshold", type=_share, help="share of unreadable clips of a dataset from which the status is 1")
    options, rest = parser.parse_known_args(argv)
    setup_logging(None)
    try:
        config = load_config(rest)
        spec = spec_of(config)
        reports = check(config, spec, options.clips, options.workers, options.threshold)
    except (ConfigError, ModelError, EncoderError, LoaderError) as error:
        logger.error("%s: %s", type(error).__name__, error)
        return 2
    except KeyboardInterrupt:
        logger.error("stopped; nothing was changed")
        return 130
    return int(any(report.failed for report in reports))


def _at_least(lowest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {lowest}, got '{text}'")
        return int(text)

    return number


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got '{text}'")
    return value
