"""Ways to compare texts with clips, on OmniStamps: VAST's contrastive loss, what settings add to it, GRAM, VALOR.

Every variant is trained from scratch for retrieval alone, without matching, for the same number of steps, with several seeds, and is
tested on every group that it has. Three tables:

  losses     VAST, its options, GRAM and VALOR
  groups     VALOR's table 8: which groups are trained
  alignment  VALOR's table 10: coarse or fine, fusion of scores or of features, weights

Writes table.json and table.md. Run again, it reuses what is done and continues what was interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omnivast.config.paths import as_path
from omnivast.scripts.omnistamps.loss_tables import as_markdown, read_tables
from omnivast.scripts.omnistamps.loss_variants import BASE, TABLES, VARIANTS, Variant
from omnivast.scripts.omnistamps.stages import CLIPS, CONFIGS, DEBUG_STEPS, Recipe, StageError, Stages, positive
from omnivast.utils.files import sha256_file, write_atomically

STEPS = 280
SEEDS = (50, 51, 52)
RATE = "0.008"
"""Pretraining's learning rate: this is a training from scratch."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m omnivast compare-losses", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES), help="which tables (default all)")
    result.add_argument("--size", choices=sorted(CONFIGS), default="quick", help="size of OmniStamps (default quick)")
    result.add_argument("--folder", type=as_path, default=Path("output/compare_losses"),
                        help="where everything but the clips goes (default output/compare_losses)")
    result.add_argument("--data", type=as_path, help=f"where the clips are built (default {CLIPS}/SIZE)")
    result.add_argument("--steps", type=positive, help=f"steps of every training (default {STEPS}; size debug: few)")
    result.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="(default 50 51 52)")
    result.add_argument("--lanes", type=positive, default=2, help="runs at the same time (default 2)")
    result.add_argument("--fresh", action="store_true", help="remove what earlier calls made, but for the clips, and start over")
    return result


def compare_losses(options: argparse.Namespace) -> None:
    """All stages. Raises StageError."""
    names = list(dict.fromkeys(name for table in options.tables for name in TABLES[table]))
    jobs = [(seed, name) for seed in options.seeds for name in names if not VARIANTS[name].mined]
    mined = [name for name in names if VARIANTS[name].mined]
    recipe = Recipe(options.size, options.data, options.steps or (DEBUG_STEPS if options.size == "debug" else STEPS))
    total = 1 + len(options.seeds) * sum(_stages(VARIANTS[name]) for name in names)
    stages = Stages(options.folder, total, fresh=options.fresh)
    runs = Runs(stages, recipe, options.folder, {"clips": stages.build("building the clips", recipe)}, options.lanes)
    waiting = iter(jobs)
    stages.side_by_side({f"lane {n + 1}": partial(_work, runs, waiting, mined) for n in range(options.lanes)})
    tables = read_tables(options.folder, recipe.data, {table: TABLES[table] for table in options.tables}, options.seeds, BASE)
    markdown = as_markdown(tables)
    write_atomically(options.folder / "table.json", json.dumps(tables, indent=1, ensure_ascii=False) + "\n")
    write_atomically(options.folder / "table.md", markdown)
    print(f"\n{markdown}\n{options.folder / 'table.json'} and {options.folder / 'table.md'}")


def _stages(variant: Variant) -> int:
    return 2 + len(variant.dimensions) + 2 * variant.mined


def _work(runs: Runs, waiting: Iterator[tuple[int, str]], mined: Sequence[str]) -> None:
    """Do what waits, until nothing does. What is mined with a model follows it in the same lane."""
    for seed, name in waiting:
        runs.run(name, seed)
        for other in mined if name == BASE else ():
            runs.run(other, seed)


@dataclass
class Runs:
    """The stages of one variant with one seed."""

    stages: Stages
    recipe: Recipe
    folder: Path
    inputs: dict[str, str]
    lanes: int

    def run(self, name: str, seed: int) -> None:
        """Train and test it. Raises StageError."""
        variant, title, inputs = VARIANTS[name], f"{name}, seed {seed}", self.inputs
        shared = ("--cache_dir", str(self.folder / "cache"), "--tensorboard", "false", "--itm_ratio", "0", *self.recipe.threads(self.lanes),
                  *variant.flags, "--seed", str(seed), "--train_task", _task(variant.groups))
        config = self.recipe.config("finetune_ret")
        longer = Recipe(self.recipe.size, self.recipe.data, (self.recipe.steps or STEPS) * variant.times)
        negatives: tuple[str, ...] = ()
        if variant.mined:
            mined = self._mine(seed, shared)
            negatives, inputs = ("--data_cfg.train.0.hard_negatives", str(mined)), {**inputs, "hard_negatives": sha256_file(mined)}
        training = longer.training(config, *shared, *negatives, "--learning_rate", RATE)
        output = self.folder / f"{name}_{seed}"
        weights = self.stages.train(f"train_{output.name}", f"{title}: training", output, training, inputs)
        testing = self.recipe.testing(config, *shared, "--itm_rerank_num", "0", "--test_task", _task(variant.tested))
        self.stages.test(f"test_{output.name}", f"{title}: testing", self.folder / f"test_{output.name}", testing, weights, inputs)
        for length in variant.dimensions:
            cut = f"test_{output.name}_{length}"
            self.stages.test(cut, f"{title}: testing with {length} numbers a vector", self.folder / cut,
                             [*testing, "--index_dim", str(length)], weights, inputs)

    def _mine(self, seed: int, shared: Sequence[str]) -> Path:
        """The file of hard negatives that BASE finds among the training clips."""
        config, source = self.recipe.config("finetune_ret"), self.folder / f"{BASE}_{seed}"
        found, mined = self.folder / f"train_found_{seed}", self.folder / f"hard_negatives_{seed}.json"
        (weights,) = (source / "ckpt").glob("model_step_*.pt")
        searching = self.recipe.testing(config, *shared, "--itm_rerank_num", "0", "--test_task", _task(("tvas",)),
                                        "--data_cfg.val.0.txt", str(self.recipe.data / "ret_train.json"))
        self.stages.test(found.name, f"mining, seed {seed}: search", found, searching, weights, self.inputs)
        (result,) = (found / "results").glob("*.json")
        self.stages.command(mined.stem, f"mining, seed {seed}", [sys.executable, "-m", "omnivast", "mine", str(result), "--group", "tvas",
                                                                 "--output", str(mined)], {"result": sha256_file(result)})
        return mined


def _task(groups: Sequence[str]) -> str:
    return "%".join(["ret", *groups])


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    try:
        compare_losses(parser().parse_args(arguments))
    except StageError as error:
        print(f"\ncompare-losses: {error}", file=sys.stderr)
        return error.status
    return 0
