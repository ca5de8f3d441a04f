"""``python -m omnivast score``: see predictions.py."""

import sys

from omnivast.evaluation.score.predictions import main

sys.exit(main(sys.argv[1:]))
