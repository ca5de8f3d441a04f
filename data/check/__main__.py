"""``python -m omnivast check``: see datasets.py."""

import sys

from omnivast.utils.requirements import require_installed

require_installed()

from omnivast.data.check.datasets import main

sys.exit(main(sys.argv[1:]))
