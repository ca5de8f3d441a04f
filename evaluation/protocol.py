"""Under which protocol a number was made: everything that must be known to compare it with another."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omnivast.config.tasks import Modality, Objective, Task
from omnivast.evaluation import published as benchmarks
from omnivast.utils import distributed
from omnivast.utils.files import sha256_file
from omnivast.utils.precision import device_name
from omnivast.version import VERSION

if TYPE_CHECKING:
    from omnivast.config.schema import Config, DatasetConfig
    from omnivast.model.weights import LoadReport

PACKAGES = ("torch", "torchvision", "timm", "transformers", "tokenizers", "open_clip_torch", "av", "decord", "torchcodec", "torchaudio",
            "librosa", "numpy", "pycocoevalcap")


def build(
    objective: Objective,
    dataset: DatasetConfig,
    config: Config,
    *,
    data: Mapping[str, Any],
    facts: Mapping[str, Any],
    provenance: Mapping[str, Any],
    device: torch.device | str,
    seconds: float,
) -> dict[str, Any]:
    """The protocol of one objective on one dataset, ready for JSON.

    Args:
        data: the loader's provenance (``split_file``, ``split_sha256``, ``clips``, ``texts``, ``unreadable``, …).
        facts: the evaluator's counts and settings; they stand above the loader's of the same name.
        provenance: what the caller knows of the weights and the run: ``checkpoint``, ``checkpoint_sha256``,
            ``missing_parameters``, ``config_hash``, …
        device: where the model was.
        seconds: wall-clock time of encoding (for all the dataset's objectives at once), and of this one's scoring and metrics.
    """
    task = Task.parse(dataset.task)
    sound_or_sight = {Modality.VISION, Modality.AUDIO}
    modalities = {m for group in task.groups(objective) for m in group}
    seen = {
        "frames": dataset.vision_sample_num if Modality.VISION in modalities else None,
        "resolution": config.model_cfg.vision_resolution if Modality.VISION in modalities else None,
        "slices": dataset.audio_sample_num if Modality.AUDIO in modalities else None,
        "audio_backend": dataset.audio_backend if Modality.AUDIO in modalities else None,
        "video_decoder": dataset.video_decoder if modalities & sound_or_sight else None,
    }
    counts = {**data, **facts}
    if counts.get("clips") and counts.get("texts") is not None:
        seen["texts_per_clip"] = round(counts["texts"] / counts["clips"], 2)
    references = {}
    if objective is Objective.CAPTION and dataset.annfile:
        references = {"references": dataset.annfile, "references_sha256": sha256_file(dataset.annfile)}
    return {
        "dataset": dataset.name,
        "benchmark": benchmarks.known().get(dataset.name, {}).get("benchmark"),
        "objective": objective.value,
        "groups": [str(group) for group in task.groups(objective)],
        "model_type": config.model_cfg.model_type,
        **data,
        **references,
        **{name: value for name, value in seen.items() if value is not None},
        **facts,
        **provenance,
        "seed": config.run_cfg.seed,
        "precision": config.run_cfg.precision,
        "processes": distributed.world_size(),
        "code_commit": code_commit(),
        "versions": versions(),
        "hardware": hardware(device),
        "seconds": round(seconds, 3),
    }


def refuse_partial(provenance: Mapping[str, Any], config: Config) -> None:
    """Raises ValueError when the checkpoint lacked parameters of the model and run_cfg.allow_missing allows none: their values are
    those of the initialisation, and so would be part of the numbers."""
    missing = provenance.get("missing_parameters") or []
    if missing and not config.run_cfg.allow_missing:
        raise ValueError(f"{provenance.get('checkpoint')}: {len(missing)} parameter(s) of the model were not in the checkpoint, such as "
                         f"'{missing[0]}'; numbers of such a model mean little. To test it all the same: --allow_missing {missing[0]} …")


def checkpoint_facts(report: LoadReport | None) -> dict[str, Any]:
    """``checkpoint``, its hash, and what was missing when it was loaded; None stands for weights that were not loaded."""
    if report is None:
        return {"checkpoint": None, "checkpoint_sha256": None, "missing_parameters": [], "unexpected_parameters": []}
    return {
        "checkpoint": str(report.path),
        "checkpoint_sha256": report.sha256,
        "missing_parameters": sorted(report.missing),
        "unexpected_parameters": sorted(report.unexpected),
    }


def saved_facts(path: Path) -> dict[str, Any]:
    """The same facts about weights that this run saved. The hash is known on the main process alone, which writes the result."""
    sha256 = sha256_file(path) if distributed.is_main() else None
    return {"checkpoint": str(path), "checkpoint_sha256": sha256, "missing_parameters": [], "unexpected_parameters": []}


def code_commit() -> str | None:
    """The git commit of this code, ``+changes`` behind it when files differ; None without git or outside a repository of ours, as where
    it is installed within another project."""
    root = Path(__file__).resolve().parent.parent
    try:
        _git(root, "ls-files", "--error-unmatch", __file__)
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Versions of OmniVAST, of Python and of the libraries that numbers may depend on."""
    known = {"omnivast": VERSION, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            known[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**known, "torch": torch.__version__}


def hardware(device: torch.device | str = "cpu") -> str:
    """The device in words: the GPU's name and number, or the processor and its cores."""
    if torch.device(device).type != "cpu":
        return f"{distributed.world_size()} × {device_name(torch.device(device))}"
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor() or "CPU")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
