"""Labelling clips with a captioner (paper, section 3): several captions per clip, written as they come.

``<folder>/<dataset>/`` holds ``protocol.json`` (with what labels the clips), ``part_<rank>.jsonl`` (a line per clip as it is
labelled), and in the end ``labels.json``, an annotation file with ``vision_cap``, ``audio_cap`` or ``vast_cap`` lists,
``unreadable.json``, and ``without_words.json`` where the model wrote empty captions alone. What is labelled is never labelled again,
whatever the number of processes; the other clips are tried again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from omnivast.config.compare import OLDER_PRECISION, keys_without_say, precision_of, resolved
from omnivast.config.fields import moved_keys, section_keys
from omnivast.config.tasks import CaptionKind, Group, Objective
from omnivast.data.annotations.rows import CAPTION_KEYS
from omnivast.evaluation import protocol
from omnivast.model.interface import Model
from omnivast.utils import distributed
from omnivast.utils.files import sha256_file, write_atomically
from omnivast.utils.log import JsonlWriter, Progress, progress, read_jsonl
from omnivast.utils.random import generator

if TYPE_CHECKING:
    from omnivast.config.schema import Config
    from omnivast.data.batch import Batch
    from omnivast.data.loader import EvalLoader

KEYS = {CaptionKind.VISION: "vision_cap", CaptionKind.AUDIO: "audio_cap", CaptionKind.OMNI: "vast_cap"}
"""Under which field of VAST-27M a group's captions are written."""
PROBLEMS = ("unreadable", "without_words")
"""Why a clip may have no caption: it cannot be read, or the model ends each of its captions before the first word. Keys of the lines of
such clips, with the reason, and names of the files that list them."""
SYNC_SECONDS = 5.0
"""At most so much work is lost by a power cut; a killed process loses at most its last batch."""

logger = logging.getLogger("omnivast")


class LabellingError(ValueError):
    """Labels that cannot be continued or merged; the message says what differs."""


@torch.no_grad()
def label(model: Model, loaders: Sequence[EvalLoader], config: Config, *, folder: Path, provenance: Mapping[str, Any]) -> dict[str, float]:
    """Label the clips of every loader that no earlier run labelled; on every process, each clip by one of them.

    Args:
        provenance: what is known of the weights, with ``checkpoint_sha256``; see :func:`evaluation.protocol.build`.

    Returns:
        ``"<dataset>.labelled"`` and ``"<dataset>.unreadable"``: clips in labels.json and in unreadable.json; where there are any also
        ``"<dataset>.without_words"``.

    Raises:
        LabellingError: the folder holds labels made with another checkpoint or other settings.
    """
    counts: dict[str, float] = {}
    nums = config.run_cfg.generate_nums
    for loader in loaders:
        part = folder / loader.name
        settings = deciding_settings(loader, config, provenance)
        header = {"settings": settings, "protocol": _protocol(loader, config, provenance, model.device)}
        pending = distributed.computed_once(lambda part=part, loader=loader, header=header: _open(part, loader, header))  # type: ignore[misc]
        if isinstance(pending, str):
            raise LabellingError(pending)
        _label_rows(model, loader, config, part, pending[distributed.rank()::distributed.world_size()])
        distributed.barrier()
        merged = distributed.computed_once(lambda part=part, loader=loader: _merge(part, loader, nums))  # type: ignore[misc]
        counts |= {f"{loader.name}.{name}": number for name, number in merged.items()}
    return counts


def precision_begun(folder: Path, loaders: Sequence[EvalLoader]) -> str | None:
    """In which precision the clips of a loader were begun to be labelled; None where none were."""
    for path in (folder / loader.name / "protocol.json" for loader in loaders):
        if path.is_file():
            return _as_spelt_now(json.loads(path.read_text())["settings"])["run_cfg"]["precision"]
    return None


def deciding_settings(loader: EvalLoader, config: Config, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides which captions a clip gets, ready for JSON; batch size and processes do not."""
    run, model = config.run_cfg, resolved(config)["model_cfg"]
    search = {"beam_size": run.beam_size} if run.generate_by == "beam" else {}
    settings = {
        "checkpoint_sha256": provenance.get("checkpoint_sha256"),
        "clips_sha256": loader.provenance["split_sha256"],
        "run_cfg": {"seed": run.seed, "precision": run.precision, "generate_nums": run.generate_nums, "generate_by": run.generate_by,
                    **search},
        "model_cfg": {key: value for key, value in model.items() if key not in keys_without_say("model_cfg")},
        # The hash of the list of clips stands for its path.
        "data_cfg": {key: value for key, value in dataclasses.asdict(loader.config).items()
                     if key not in keys_without_say("data_cfg") | {"txt", "ignore_fields"}},
    }
    return json.loads(json.dumps(settings))


def _protocol(loader: EvalLoader, config: Config, provenance: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    facts = {"generate_by": config.run_cfg.generate_by, "generate_nums": config.run_cfg.generate_nums}
    data = {key: value for key, value in loader.provenance.items() if key not in ("texts", "unreadable")}
    made = protocol.build(Objective.CAPTION, loader.config, config, data=data, facts=facts, provenance=provenance, device=device,
                          seconds=0.0)
    return {key: value for key, value in made.items() if key != "seconds"}


def _open(folder: Path, loader: EvalLoader, header: dict[str, Any]) -> list[int] | str:
    """The annotation rows still to be labelled, after the header was written; or why the folder's labels cannot be continued."""
    path = folder / "protocol.json"
    if path.exists():
        before = _as_spelt_now(json.loads(path.read_text())["settings"])
        differences = list(_differences(before, header["settings"]))
        if differences:
            return "\n  ".join([f"'{folder}' holds labels made otherwise; here is what was, and what is now:", *differences,
                                "Undo these changes, or choose another --output_dir"])
    else:
        write_atomically(path, json.dumps(header, indent=1) + "\n")
    done = {row["clip_id"] for row in _written(folder) if not row.keys() & PROBLEMS}
    if done:
        logger.info("%s: %d of %d clips are labelled already", loader.name, len(done), loader.clips)
    return [row for row, clip_id in enumerate(loader.clip_ids) if clip_id not in done]


def _as_spelt_now(settings: dict[str, Any]) -> dict[str, Any]:
    """The deciding settings of a folder that an older version may have written: its precision, and what has moved to run_cfg."""
    run, model = dict(settings["run_cfg"]), dict(settings["model_cfg"])
    run |= {key: model.pop(key) for key in moved_keys("model_cfg") if key in model}
    run = {**run, "precision": precision_of(run)}
    return {**settings, "model_cfg": _filled(model, "model_cfg"), "data_cfg": _filled(settings["data_cfg"], "data_cfg"),
            "run_cfg": {key: value for key, value in run.items() if key not in OLDER_PRECISION}}


def _filled(settings: Mapping[str, Any], section: str) -> dict[str, Any]:
    """With the defaults of deciding settings that did not exist yet."""
    newer = {key: setting.default for key, setting in section_keys(section).items()
             if "newer" in setting.metadata and key not in keys_without_say(section)}
    return {**newer, **settings}


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {json.dumps(old)}, now {json.dumps(new)}"


def _written(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of all parts; one cut off by a kill is left out."""
    for path in sorted(folder.glob("part_*.jsonl")):
        yield from read_jsonl(path)


# ------------------------------------------------------------------------------------------------------------ labelling


def _label_rows(model: Model, loader: EvalLoader, config: Config, folder: Path, rows: Sequence[int]) -> None:
    """Label this process's rows, a line for each in its part."""
    device, processes = model.device, distributed.world_size()
    share = f" (process 1 of {processes})" if processes > 1 else ""
    bar: Progress[Any] = progress(len(rows), f"labelling {loader.name}{share}", unit="clips")
    writer, synced = JsonlWriter(folder / f"part_{distributed.rank():05d}.jsonl"), time.monotonic()
    try:
        with bar:
            for batch in loader.batches(rows):
                for clip_id, reason in batch.unreadable:
                    writer.append({"clip_id": clip_id, "unreadable": reason})
                if len(batch):
                    for line in _lines(model, batch.to(device), loader, config):
                        writer.append(line)
                if time.monotonic() - synced > SYNC_SECONDS:
                    writer.sync()
                    synced = time.monotonic()
                bar.update(len(batch) + len(batch.unreadable))
        writer.sync()
    finally:
        writer.close()


def _lines(model: Model, batch: Batch, loader: EvalLoader, config: Config) -> list[dict[str, Any]]:
    """What is written of each clip of a batch: its captions by field. Of a clip with a caption missing, that."""
    memory = model.memory(model.encode(batch, loader.task.modalities))
    lines: list[dict[str, Any]] = [{"clip_id": clip_id} for clip_id in batch.clip_ids]
    for group in loader.task.groups(Objective.CAPTION):
        for line, captions in zip(lines, _captions(model, memory, group, batch.clip_ids, config)):
            line[KEYS[group.caption_kind]] = [caption for caption in captions if caption.strip()]
    wordless = "the model read the clip, but its captions end before the first word; trained for longer it may write some"
    return [line if all(line.values()) else {"clip_id": line["clip_id"], "without_words": wordless} for line in lines]


def _captions(model: Model, memory: Any, group: Group, clip_ids: Sequence[str], config: Config) -> list[list[str]]:
    """``generate_nums`` captions per clip. Random draws are keyed by the clip, so that its captions do not depend on what else is in the
    batch."""
    run, longest = config.run_cfg, config.model_cfg.max_caption_len
    number = run.generate_nums
    if run.generate_by == "beam":
        best = model.best_captions(memory, group, beam_size=run.beam_size, max_length=longest, length_penalty=model.length_penalty)
        return [captions[:number] for captions in best]
    keyed = (generator(run.seed, "label", group, clip_id) for clip_id in clip_ids)
    draws = torch.stack([torch.rand(number, longest, generator=each) for each in keyed])
    return model.sample_captions(memory, group, draws=draws)


# -------------------------------------------------------------------------------------------------------------- merging


def _merge(folder: Path, loader: EvalLoader, nums: int) -> dict[str, int]:
    """labels.json in the order of the list of clips, each with what the list says of it, and the files of clips without captions; how
    many in each."""
    labels: dict[str, dict[str, list[str]]] = {}
    reasons: dict[str, tuple[str, str]] = {}
    for line in _written(folder):
        clip_id = line.pop("clip_id")
        problem = next((name for name in PROBLEMS if name in line), None)
        if problem:
            reasons[clip_id] = problem, line[problem]
        else:
            labels[clip_id] = line
    lacking: dict[str, list[dict[str, str]]] = {name: [] for name in PROBLEMS}
    for clip_id in loader.clip_ids:
        if clip_id not in labels:
            problem, reason = reasons.get(clip_id, ("unreadable", "not tried"))
            lacking[problem].append({"clip_id": clip_id, "reason": reason})
    path = Path(loader.provenance["split_file"])
    if sha256_file(path) != loader.provenance["split_sha256"]:
        raise LabellingError(f"{path} was changed while its clips were labelled; the labels are in {folder}/part_*.jsonl")
    items = json.loads(path.read_bytes())

    def write(file: BinaryIO) -> None:
        start = b"[\n"
        for clip_id, item in zip(loader.clip_ids, items):
            if clip_id in labels:
                merged = _merged(item, clip_id, labels[clip_id], loader.config.ignore_fields)
                file.write(start + json.dumps(merged, ensure_ascii=False).encode())
                start = b",\n"
        file.write(b"\n]\n" if labels else b"[]\n")

    write_atomically(folder / "labels.json", write)
    for problem, entries in lacking.items():
        path = folder / f"{problem}.json"
        if entries or problem == "unreadable":
            write_atomically(path, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
        else:
            path.unlink(missing_ok=True)
    logger.info("%s: %d clips labelled in %s", loader.name, len(labels), folder / "labels.json")
    short = [clip_id for clip_id, by_kind in labels.items() if any(len(captions) < nums for captions in by_kind.values())]
    if short:
        logger.warning("%s: %d clips, the first '%s', have fewer captions than the %d asked for (generate_nums): the others were blank",
                       loader.name, len(short), short[0], nums)
    for problem, entries in lacking.items():
        if entries:
            logger.warning("%s: %d clips could not be labelled, the first '%s': %s (all: %s)", loader.name, len(entries),
                           entries[0]["clip_id"], entries[0]["reason"], folder / f"{problem}.json")
    without_words = {"without_words": len(lacking["without_words"])} if lacking["without_words"] else {}
    return {"labelled": len(labels), "unreadable": len(lacking["unreadable"])} | without_words


def _merged(item: Any, clip_id: str, labels: dict[str, list[str]], ignored: Sequence[str]) -> dict[str, Any]:
    """The entry of an annotation file: what the list says of the clip (its subtitle, other captions) and its new captions."""
    if not isinstance(item, dict):
        return {"clip_id": clip_id, **labels}
    written = {CAPTION_KEYS[key] for key in labels}
    return {**{key: value for key, value in item.items() if key not in ignored and CAPTION_KEYS.get(key) not in written}, **labels}
