"""The best caption of eight on OmniStamps, before and after fine-tuning with the seven wrong ones as hard negatives.

Takes the quickstart's pretrained model, writes eight captions for every clip, one right and seven with one wrong fact each, fine-tunes,
chooses with both models by both scores among the captions of test clips, and writes choose.json and table.md. The threshold is calibrated
on validation clips. Run again, it reuses what is done and continues what was interrupted. `bash scripts/omnistamps/choose.sh` in a
checkout does the same, and installs what it needs first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnivast.config.paths import as_path
from omnivast.scripts.omnistamps.stages import CLIPS, CONFIGS, Recipe, StageError, Stages, positive, run_script
from omnivast.utils.files import sha256_file, write_atomically

SCORES = ("matching", "contrastive")
STAGES = 2 + 2 * 2 * len(SCORES)
"""Clips and fine-tuning; for both models and each score a choice on validation clips and one on test clips."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m omnivast.scripts.omnistamps.choose", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--size", choices=sorted(CONFIGS), default="quick", help="of OmniStamps (default quick)")
    result.add_argument("--pretrained", type=as_path, default=Path("output", "quickstart", "pretrain"), metavar="RUN",
                        help="the model before fine-tuning (default %(default)s)")
    result.add_argument("--folder", type=as_path, default=Path("output", "choose"), help="where everything but the clips goes (default "
                        "%(default)s)")
    result.add_argument("--data", type=as_path, help=f"where the clips are built (default {CLIPS}/SIZE)")
    result.add_argument("--steps", type=positive, help="of the fine-tuning (default: as its config says)")
    result.add_argument("--fresh", action="store_true", help="remove what earlier calls made, and start over")
    return result


def choose(options: argparse.Namespace) -> None:
    """All stages. Raises StageError."""
    from omnivast.corpus.omnistamps.build import SOURCE
    from omnivast.corpus.omnistamps.rejected import write_rejected

    if not (options.pretrained / "log" / "hps.json").is_file():
        raise StageError(f"{options.pretrained}: no run to start from; make one with omnivast quickstart, or name one with --pretrained", 2)
    folder, recipe = options.folder, Recipe(options.size, options.data, options.steps)
    stages = Stages(folder, STAGES, fresh=options.fresh)
    inputs = {"clips": stages.build("building the clips", recipe)}
    rows = {path.stem.removeprefix("choose_"): path for path in write_rejected(recipe.data, SOURCE, folder)}
    inputs |= {split: sha256_file(path) for split, path in rows.items()}
    cache = ("--cache_dir", str(folder / "cache"))
    arguments = recipe.training(recipe.config("finetune_choose"), "--data_cfg.train.0.txt", str(rows["train"]), "--pretrain_dir",
                                str(options.pretrained), *cache)
    weights = stages.train("finetune", "fine-tuning", folder / "tuned", arguments, {**inputs, "pretrained": _known_by(options.pretrained)})
    models = {"untuned": options.pretrained, "tuned": folder / "tuned"}
    known = {"untuned": _known_by(options.pretrained), "tuned": sha256_file(weights)}
    for name, model in models.items():
        for by in SCORES:
            for split in ("val", "test"):
                output = folder / f"{name}_{by}_{split}"
                command = [sys.executable, "-m", "omnivast", "choose", str(rows[split]), "--model", str(model), "--media",
                           str(recipe.data / "clips"), "--group", "tvas", "--by", by, "--output", str(output), *cache]
                if split == "test":
                    command += ["--threshold", str(folder / f"{name}_{by}_val" / "summary.json")]
                stages.command(f"{name}_{by}_{split}", f"choosing: {name}, {by}, {split}", command, {**inputs, "weights": known[name]})
    results = {name: {by: _result(folder, f"{name}_{by}", recipe.data) for by in SCORES} for name in models}
    write_atomically(folder / "choose.json", json.dumps({"results": results, "seconds": stages.seconds()}, indent=1) + "\n")
    write_atomically(folder / "table.md", _table(results))
    print(f"\nDone: {folder / 'table.md'}\n\n{_table(results)}")


def _known_by(run: Path) -> str:
    newest = json.loads((run / "ckpt" / "latest.json").read_text())["step"]
    return sha256_file(run / "ckpt" / f"model_step_{newest}.pt")


def _result(folder: Path, name: str, data: Path) -> dict[str, Any]:
    """What was chosen on test clips: R@1, wrong choices by the role of the wrong fact, and what the calibrated threshold does."""
    from omnivast.corpus.omnistamps.build import SOURCE
    from omnivast.corpus.omnistamps.facts import read_stamps
    from omnivast.corpus.omnistamps.rejected import ROLES, wrong_fact

    stamps = read_stamps(SOURCE)
    facts = {row["clip_id"]: row["stamps"] for row in json.loads((data / "clips.json").read_text(encoding="utf-8"))}
    lines = [json.loads(line) for line in (folder / f"{name}_test" / "choices.jsonl").read_text(encoding="utf-8").splitlines()]
    wrong = Counter(wrong_fact(line["captions"][line["best"]]["text"], facts[line["clip_id"]], stamps)
                    for line in lines if not line["captions"][line["best"]]["own"])
    told = json.loads((folder / f"{name}_test" / "summary.json").read_text())
    best = [line["captions"][line["best"]] for line in lines]
    own = [caption["score"] >= told["threshold"] for line in lines for caption in line["captions"] if caption["own"]]
    others = [caption["score"] >= told["threshold"] for line in lines for caption in line["captions"] if not caption["own"]]
    sure = [caption["own"] for caption in best if caption["score"] >= told["threshold"]]
    return {"clips": len(lines), "r1": told["r1"], "wrong": {role: wrong[role] for role in ROLES}, "threshold": told["threshold"],
            "own lost, %": 100 * (1 - sum(own) / len(own)), "rejected let through, %": 100 * sum(others) / len(others),
            "kept, %": 100 * len(sure) / len(best), "r1 of kept": 100 * sum(sure) / len(sure) if sure else None,
            "kept at 0.43, %": 100 * sum(caption["score"] >= 0.43 for caption in best) / len(best)}


def _table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    lines = ["| model | score | R@1 of 8 | wrong: seen, heard, said | threshold (validation) | own below it | rejected above it | "
             "clips kept | R@1 of these | kept at 0.43 |", "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for model, by_score in results.items():
        for by, own in by_score.items():
            wrong = ", ".join(map(str, own["wrong"].values()))
            sure = "–" if own["r1 of kept"] is None else f"{own['r1 of kept']:.1f}"
            lines.append(f"| {model} | {by} | {own['r1']:.1f} | {wrong} | {own['threshold']:.3f} | {own['own lost, %']:.1f} | "
                         f"{own['rejected let through, %']:.1f} | {own['kept, %']:.1f} | {sure} | {own['kept at 0.43, %']:.1f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = parser().parse_args(arguments)
    return run_script("choose", lambda: choose(options))


if __name__ == "__main__":
    sys.exit(main())
