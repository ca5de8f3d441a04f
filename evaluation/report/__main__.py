"""``python -m omnivast report``: see run_report.py."""

import sys

from omnivast.utils.requirements import require_installed

require_installed()

from omnivast.evaluation.report.run_report import main

sys.exit(main(sys.argv[1:]))
