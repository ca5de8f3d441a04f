"""Table 7, rows (i) and (j), of the VAST paper on OmniStamps: does modality grouping in pretraining help?

Row i pretrains on the group vas alone, row j as config/omnistamps/SIZE/pretrain.json says, on all groups, for the same number of
steps and with as many clips in each. Both are then evaluated on every group: without fine-tuning (retrieval and captions), and
after the same fine-tuning for retrieval on all groups. The second comparison is the paper's; without fine-tuning, row i has
untrained contrastive heads for all groups but vas.

Writes table.json and table.md. Run again, it reuses what is done and continues what was interrupted.
`bash scripts/ablation_grouping.sh` in a checkout does the same, and installs what it needs first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omnivast.config.paths import as_path
from omnivast.config.tasks import Task
from omnivast.scripts.omnistamps.stages import CLIPS, CONFIGS, Recipe, StageError, Stages, positive
from omnivast.utils.files import sha256_file, write_atomically

ROWS = {"i": "vas alone", "j": "modality grouping"}
WITHOUT_GROUPING = "ret%tvas_cap%tvas"
GROUPS = ("tv", "ta", "ts", "tva", "tvs", "tvas")
TESTS = {
    "zero_shot_ret": "testing retrieval, not fine-tuned",
    "zero_shot_cap": "testing captions, not fine-tuned",
    "finetuned_ret": "testing retrieval, fine-tuned",
}
MEASURES = (
    ("Retrieval after fine-tuning on all groups, R@1, contrastive", "finetuned_ret", ("itc", "r1")),
    ("Retrieval after fine-tuning on all groups, R@1, re-ranked by matching", "finetuned_ret", ("itm", "r1")),
    ("Retrieval without fine-tuning, R@1, contrastive", "zero_shot_ret", ("itc", "r1")),
    ("Retrieval without fine-tuning, R@1, re-ranked by matching", "zero_shot_ret", ("itm", "r1")),
    ("Captions without fine-tuning, CIDEr × 100", "zero_shot_cap", ("cider",)),
)
STAGES = 1 + len(ROWS) * (2 + len(TESTS))
"""Clips; for each row pretraining, fine-tuning and the tests."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m omnivast ablation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--size", choices=sorted(CONFIGS), default="quick", help="size of OmniStamps (default quick)")
    result.add_argument("--folder", type=as_path, default=Path("output/ablation_grouping"),
                        help="where everything but the clips goes (default output/ablation_grouping)")
    result.add_argument("--data", type=as_path, help=f"where the clips are built (default {CLIPS}/SIZE)")
    result.add_argument("--steps", type=positive, help="steps of every training (default: as its config says)")
    result.add_argument("--fresh", action="store_true", help="remove what earlier calls made, but for the clips, and start over")
    return result


def ablation(options: argparse.Namespace) -> None:
    """All stages. Raises StageError."""
    folder = options.folder
    recipe = Recipe(options.size, options.data, options.steps)
    stages = Stages(folder, STAGES, fresh=options.fresh)
    inputs = {"clips": stages.build("building the clips", recipe)}
    stages.side_by_side({f"row {row}": partial(_row, stages, recipe, row, folder, inputs) for row in ROWS})
    table = read_table(folder)
    markdown = as_markdown(table)
    write_atomically(folder / "table.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "table.md", markdown)
    print(f"\n{markdown}\n{folder / 'table.json'} and {folder / 'table.md'}")


def _row(stages: Stages, recipe: Recipe, row: str, folder: Path, inputs: dict[str, str]) -> None:
    shared = ("--cache_dir", str(folder / "cache"), *recipe.threads(len(ROWS)))
    config = recipe.config("pretrain") if row == "j" else without_grouping(recipe.config("pretrain"), folder / f"pretrain_{row}.json")
    title = f"row ({row}), {ROWS[row]}"
    pretrained = stages.train(f"pretrain_{row}", f"{title}: pretraining", folder / f"pretrain_{row}",
                              recipe.training(config, *shared), inputs)
    tuned = stages.train(f"finetune_{row}", f"{title}: fine-tuning", folder / f"finetune_{row}",
                         recipe.training(recipe.config("finetune_ret"), *shared, "--pretrain_dir", str(folder / f"pretrain_{row}")),
                         {**inputs, "pretrained": sha256_file(pretrained)})
    for test, words in TESTS.items():
        objective, weights = test.rsplit("_", 1)[1], tuned if test.startswith("finetuned") else pretrained
        task = "%".join([objective, *GROUPS])
        stages.test(f"{test}_{row}", f"{title}: {words}", folder / f"{test}_{row}",
                    recipe.testing(recipe.config(f"finetune_{objective}"), *shared, "--test_task", task), weights, inputs)


def without_grouping(config: Path, output: Path) -> Path:
    """Write ``config`` with the group vas alone: every corpus becomes its first that has this group, and keeps its steps and batch size."""
    content = json.loads(config.read_text(encoding="utf-8"))
    corpora = content["data_cfg"]["train"]
    omni = next(corpus for corpus in corpora if any(group.key == "vas" for group in Task.parse(corpus["task"]).all_groups))
    content["data_cfg"]["train"] = [{**omni, "task": WITHOUT_GROUPING, **{key: corpus[key] for key in ("name", "steps", "batch_size")}}
                                    for corpus in corpora]
    return write_atomically(output, json.dumps(content, indent=2) + "\n")


def read_table(folder: Path) -> dict[str, Any]:
    """What the tests found: ``rows.<row>.<test>.<group>`` with all metrics, and the protocols."""
    rows: dict[str, Any] = {}
    protocols: dict[str, Any] = {}
    for row, words in ROWS.items():
        rows[row] = {"pretraining": words, "steps": _trained_steps(folder / f"pretrain_{row}")}
        for test in TESTS:
            result = json.loads(next((folder / f"{test}_{row}" / "results").glob("*.json")).read_text(encoding="utf-8"))
            rows[row][test] = {group: result["metrics"][group] for group in GROUPS}
            protocols[f"{test}_{row}"] = result["protocol"]
    return {"rows": rows, "protocol": protocols}


def _trained_steps(run: Path) -> int:
    return json.loads((run / "ckpt" / "latest.json").read_text(encoding="utf-8"))["step"]


def as_markdown(table: dict[str, Any]) -> str:
    """One table per measure: rows (i) and (j) and their difference, by group."""
    lines = [f"Pretraining: {table['rows']['i']['steps']} steps each."]
    for title, test, path in MEASURES:
        values = {row: [_at(table["rows"][row][test][group], path) for group in GROUPS] for row in ROWS}
        lines += ["", f"**{title}**", "", f"| pretraining | {' | '.join(GROUPS)} | mean |", "|---|" + "---:|" * (len(GROUPS) + 1)]
        for row, words in ROWS.items():
            lines.append(f"| ({row}) {words} | {_cells(values[row], '.1f')} |")
        lines.append(f"| (j) − (i) | {_cells([j - i for i, j in zip(values['i'], values['j'])], '+.1f')} |")
    return "\n".join(lines) + "\n"


def _at(metrics: dict[str, Any], path: Sequence[str]) -> float:
    value: Any = metrics
    for key in path:
        value = value[key]
    return value


def _cells(values: Sequence[float], form: str) -> str:
    # Adding 0.0 turns -0.0 into 0.0.
    return " | ".join(format(round(value, 1) + 0.0, form) for value in [*values, sum(values) / len(values)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    try:
        ablation(parser().parse_args(arguments))
    except StageError as error:
        print(f"\nablation: {error}", file=sys.stderr)
        return error.status
    return 0
