"""Chooses the engine: the one that ``run_cfg.parallel`` names."""

from __future__ import annotations

import logging

import torch

from omnivast.config.schema import RunConfig
from omnivast.model.interface import Model
from omnivast.training.engines.base import Engine
from omnivast.training.engines.compile import compile_layers
from omnivast.training.engines.ddp import DataParallel
from omnivast.training.engines.fsdp import FullySharded
from omnivast.training.engines.zero import ZeRO
from omnivast.utils import distributed

logger = logging.getLogger("omnivast")
ENGINES: dict[str, type[Engine]] = {"ddp": DataParallel, "fsdp": FullySharded, "deepspeed": ZeRO}
"""``run_cfg.parallel`` → the engine of several processes."""


def build_engine(model: Model, run_cfg: RunConfig, device: torch.device) -> Engine:
    """The engine that ``run_cfg.parallel`` names, around ``model`` on ``device``; a single process trains without one, whatever the name.

    Raises ValueError when DeepSpeed is asked for and is not installed, or its settings file is not valid.
    """
    alone = distributed.world_size() == 1
    if alone and run_cfg.parallel != "ddp":
        logger.info("run_cfg.parallel %s shares nothing out: there is one process", run_cfg.parallel)
    engine = (Engine if alone else ENGINES[run_cfg.parallel])(model, run_cfg, device)
    if run_cfg.compile:
        logger.info("%d layers will be compiled, each kind when it is first used", compile_layers(engine.trained))
    return engine
