"""OmniVAST: pretraining, retrieval, captioning and question answering for models that see, hear and read video.

    config = omnivast.load_config(["--config", "debug/tiny.json", "--seed", "1"])
    model = omnivast.build_model(config.model_cfg)

A config alone needs no flags: ``omnivast.load_config("debug/tiny.json")``. Those that come with OmniVAST are found from any folder.

An installed package holds its subpackages (``omnivast/model`` …) beside this file. In a checkout they lie one folder up, where a
user of the project looks for them; there the search path of the package is extended, so that ``omnivast.model`` is ``model/``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivast.version import VERSION

if TYPE_CHECKING:
    from omnivast.config.load import load_config as load_config
    from omnivast.inference.index.api import Index as Index
    from omnivast.inference.pipeline import load as load
    from omnivast.model.build import build_model as build_model

__version__ = VERSION

if not Path(__file__).with_name("model").is_dir():
    __path__.append(str(Path(__file__).resolve().parent.parent))

_HOMES = {"load": "omnivast.inference.pipeline", "Index": "omnivast.inference.index.api",
          "load_config": "omnivast.config.load", "build_model": "omnivast.model.build"}
"""Name → the module that is imported when the name is first used: with torch, importing takes seconds."""
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'omnivast' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
