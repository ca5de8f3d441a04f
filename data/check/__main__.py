"""``python -m omnivast.data.check``, by which ``omnivast check`` was reached before."""

import sys

from omnivast.__main__ import main

sys.exit(main(["check", *sys.argv[1:]]))
