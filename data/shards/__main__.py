"""``python -m omnivast pack`` and ``verify``: see pack.py."""

import sys

from omnivast.utils.requirements import require_installed

require_installed()

from omnivast.data.shards.pack import main

sys.exit(main(sys.argv[1:]))
