"""``python -m omnivast score``: see predictions.py."""

import sys

from omnivast.utils.requirements import require_installed

require_installed()

from omnivast.evaluation.score.predictions import main

sys.exit(main(sys.argv[1:]))
