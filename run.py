"""Train or test a model from a JSON config: ``python run.py --config config/debug/tiny.json --output_dir output/debug``.

The same command runs under ``python``, ``torchrun`` and ``python -m torch.distributed.launch``. ``--help`` lists every setting.
The work is done in omnivast/launch.py, whose docstring lists the exit statuses.
"""

import sys

from omnivast.utils.requirements import require_installed

require_installed()

from omnivast.launch import run

if __name__ == "__main__":
    run(sys.argv[1:])
