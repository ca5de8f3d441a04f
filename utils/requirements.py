"""Checks that the packages of requirements.txt are installed, and says in one line what is missing, before the first of them is imported.
"""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec

MODULES = ("torch", "torchvision", "timm", "transformers", "safetensors", "av", "numpy", "PIL", "tqdm", "tensorboard")
"""What they are imported as."""


def require_installed() -> None:
    """Called before a program's other imports: where a package is missing, names it and what installs it, and ends with status 2."""
    missing = [name for name in MODULES if find_spec(name) is None]
    if missing:
        logging.getLogger("omnivast").error("not installed in %s: %s. `bash preinstall.sh` in a checkout, or `pip install omnivast`, "
                                            "installs what is needed into the active environment", sys.executable, ", ".join(missing))
        sys.exit(2)
