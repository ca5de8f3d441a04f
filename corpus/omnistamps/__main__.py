"""``python -m omnivast omnistamps --size quick --output datasets/omnistamps/quick``"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from omnivast.config.paths import expanded


def parser() -> argparse.ArgumentParser:
    """The command line of the builder."""
    from omnivast.corpus.omnistamps.picks import SIZES

    result = argparse.ArgumentParser(prog="python -m omnivast omnistamps", description="Build a set of OmniStamps clips.")
    sizes = "; ".join(f"{name}: {' / '.join(map(str, size.clips.values()))}" for name, size in SIZES.items())
    result.add_argument("--size", required=True, choices=list(SIZES), help=f"clips for training / validation / test: {sizes}")
    result.add_argument("--output", type=expanded, help="folder to build in, where an unfinished build is continued (default: "
                                                        "datasets/omnistamps/SIZE, where the configs look)")
    result.add_argument("--seed", type=int, default=0, help="decides every choice (default 0)")
    result.add_argument("--workers", type=int, help="processes (default: all CPUs); the result does not depend on it")
    result.add_argument("--source", type=expanded, help="folder with stamps.json (default: the one that OmniVAST comes with)")
    result.add_argument("--fresh", action="store_true", help="throw away an earlier build in the output folder")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Build, and return the exit status: 0, or 2 after an error that the user can mend."""
    # Imported here: the workers start from this file too, and need none of it.
    from omnivast.corpus.omnistamps.build import BuildError, build
    from omnivast.corpus.omnistamps.facts import SourceError
    from omnivast.utils.log import setup_logging

    arguments = parser().parse_args(argv)
    arguments.output = arguments.output or f"datasets/omnistamps/{arguments.size}"
    setup_logging(None)
    try:
        build(**vars(arguments))
    except (BuildError, SourceError) as error:
        logging.getLogger("omnivast").error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
