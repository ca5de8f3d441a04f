"""Everything once: OmniStamps clips, pretraining, fine-tuning for retrieval, captions and questions, tests, report.

Writes metrics.json and report.html. Run again, it reuses what is done and continues what was interrupted.
`bash scripts/quickstart.sh` in a checkout does the same, and installs what it needs first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omnivast.config.paths import as_path
from omnivast.scripts.omnistamps.stages import CLIPS, CONFIGS, Recipe, Stages, positive, run_script
from omnivast.utils.files import sha256_file, write_atomically

TASKS = {"ret": "retrieval", "cap": "captions", "qa": "questions"}
STAGES = 5 + 2 * len(TASKS)
"""Clips, a look at each, pretraining, its test, the report; a fine-tuning and a test for each task."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m omnivast quickstart", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--size", choices=sorted(CONFIGS), default="quick",
                        help="quick: 2,400 training clips, 7 to 9 minutes on two CPU cores; full: 12,000, for a GPU; debug: 24 clips and "
                             "four steps, to try the script (default quick)")
    result.add_argument("--folder", type=as_path, help="where everything but the clips goes (default output/quickstart, or for other sizes "
                                                    "output/quickstart_SIZE)")
    result.add_argument("--data", type=as_path, help=f"where the clips are built (default {CLIPS}/SIZE)")
    result.add_argument("--steps", type=positive, help="steps of every training (default: as its config says)")
    result.add_argument("--fresh", action="store_true", help="remove what earlier calls made, clips too, and start over")
    return result


def quickstart(options: argparse.Namespace) -> None:
    """All stages. Raises StageError."""
    os.environ["OMNIVAST_SMALLER"] = "`--steps N` shortens every training of the quickstart, `--size debug` tries it in minutes"
    folder = options.folder or Path("output", "quickstart" if options.size == "quick" else f"quickstart_{options.size}")
    recipe = Recipe(options.size, options.data, options.steps)
    stages = Stages(folder, STAGES, fresh=options.fresh)
    shared: tuple[str, ...] = ("--cache_dir", str(folder / "cache"))
    # The debug clips come with a checkout.
    inputs = {"clips": stages.build("building the clips", recipe, options.fresh and options.size != "debug")}
    # All tracks of all clips are read here, with all cores; what follows finds them decoded.
    stages.command("check", "checking and decoding the clips", recipe.check(recipe.config("finetune_ret"), *shared), inputs)
    pretrained = stages.train("pretrain", "pretraining", folder / "pretrain",
                              recipe.training(recipe.config("pretrain"), *shared), inputs)
    after = {**inputs, "pretrained": sha256_file(pretrained)}
    shared += recipe.threads(len(TASKS))

    def finetune_and_test(task: str, words: str) -> None:
        config, output = recipe.config(f"finetune_{task}"), folder / task
        tuned = stages.train(f"finetune_{task}", f"fine-tuning: {words}", output,
                             recipe.training(config, *shared, "--pretrain_dir", str(folder / "pretrain")), after)
        stages.test(f"test_{task}", f"testing: {words}", folder / f"test_{task}", recipe.testing(config, *shared), tuned, inputs)

    def test_pretrained() -> None:
        # Beside the tables, to see what fine-tuning adds: ten re-ranked texts a clip are enough and cost a fifth of fifty.
        stages.test("test_pretrain_ret", "testing: retrieval with the pretrained checkpoint", folder / "test_pretrain_ret",
                    recipe.testing(recipe.config("finetune_ret"), *shared, "--itm_rerank_num", "10"), pretrained, inputs)

    lanes = {words: partial(finetune_and_test, task, words) for task, words in TASKS.items()}
    stages.side_by_side({**lanes, "pretrained": test_pretrained})
    stages.command("report", "writing the report", [sys.executable, "-m", "omnivast.scripts.omnistamps.quickstart_summary", "--folder",
                                                    str(folder), "--data", str(recipe.data)])
    _complete_seconds(folder / "metrics.json", stages.seconds())
    print(f"\nDone: {folder / 'metrics.json'} and {folder / 'report.html'}")


def _complete_seconds(path: Path, seconds: dict[str, float]) -> None:
    """What the report itself took is known only now."""
    metrics = json.loads(path.read_text(encoding="utf-8"))
    metrics["seconds"] = seconds
    write_atomically(path, json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = parser().parse_args(arguments)
    return run_script("quickstart", lambda: quickstart(options))
