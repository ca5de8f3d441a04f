"""How the verbs of corpora end."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Callable, Sequence

from omnivast.config.fields import ConfigError
from omnivast.corpus.clips.recipes import RecipeError
from omnivast.corpus.clips.tower import TowerError
from omnivast.corpus.engine.workers import StageError
from omnivast.corpus.plan import BuildError
from omnivast.data.media.errors import MediaError
from omnivast.data.spec import DataError
from omnivast.model.encoders.base import EncoderError
from omnivast.model.interface import ModelError
from omnivast.model.weights import WeightsError
from omnivast.utils.log import setup_logging

log = logging.getLogger("omnivast")
BAD_INPUT = (BuildError, RecipeError, TowerError, DataError, MediaError, StageError, ConfigError, EncoderError, ModelError, WeightsError,
             ImportError, OSError)
"""Told in one line."""


def ended(parser: argparse.ArgumentParser, does: Callable[[argparse.Namespace], int], arguments: Sequence[str] | None) -> int:
    """Do what is asked; the exit status: 2, behind one sentence, for what cannot be done."""
    options = parser.parse_args(arguments)
    setup_logging(None)
    try:
        return does(options)
    except BAD_INPUT as error:
        log.error("%s: %s", parser.prog.split()[-1], error)
        return 2
    except KeyboardInterrupt:
        log.error("stopped; the same command goes on")
        return 128 + signal.SIGINT
