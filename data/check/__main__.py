"""``python -m omnivast check``: see datasets.py."""

import sys

from omnivast.data.check.datasets import main

sys.exit(main(sys.argv[1:]))
