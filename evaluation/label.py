"""Captions for one's own clips: which model, which groups, the lists of clips and the config of the run that labels them, and its results.

The command is in omnivast/label.py.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omnivast.config.fields import accepted_keys
from omnivast.config.files import read_config
from omnivast.config.inherit import trained_datasets
from omnivast.config.tasks import Group, Modality, Objective, Task, TaskError
from omnivast.data.annotations.own_clips import Found, Kind, OwnClip, look_into
from omnivast.evaluation.captions.labelling import KEYS, PROBLEMS
from omnivast.utils.files import write_atomically

FEASIBLE: dict[Kind, str] = {"video": "vas", "image": "vs", "sound": "as"}
"""Modalities by which a clip of each kind may be captioned. A video without sound counts as silent, a clip without words as one with an
empty subtitle."""
NOT_INHERITED = ("captioner_mode", "generate_nums", "generate_by", "inherit_keys", "ret_features_dir")
BATCH_SIZE = 16
SHOWN = 3

logger = logging.getLogger("omnivast")


class LabelError(ValueError):
    """A model or clips that cannot be labelled; the message says what was expected."""


@dataclass(frozen=True)
class Model:
    """A trained model: where its run is, and how it was trained to caption."""

    run: Path
    checkpoint: Path | None
    """The checkpoint; None stands for the newest of the run."""
    groups: tuple[Group, ...]
    datasets: list[dict[str, Any]]
    """The training datasets, as its config lists them."""


@dataclass
class State:
    """The clips that a folder of labels belongs to, kept in ``label.json``. Clips are added to it, never taken away."""

    root: str
    groups: list[str]
    """The groups asked for; empty: each clip's groups are chosen by what it holds."""
    lists: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name → kind and task of the clips in ``lists/<name>.json``."""
    left_out: list[str] = field(default_factory=list)
    """Files that are no media, or that the model cannot caption."""


def read_model(path: Path) -> Model:
    """The model of a run's output folder or of a checkpoint in one. Raises LabelError, ConfigError."""
    places = (path, *path.parents[:2])
    run = next((folder for folder in places if (folder / "log" / "hps.json").is_file()), None)
    if run is None or not path.exists():
        tested = next((file for folder in places if (file := folder / "log" / "hps_testing.json").is_file()), None)
        weights = read_config(tested).get("run_cfg", {}) if tested else {}
        hint = f"; it holds a test of {weights.get('checkpoint') or weights.get('pretrain_dir')}: name that" if tested else ""
        raise LabelError(f"--model {path}: expected the output folder of a training (log/hps.json and ckpt/model_step_N.pt), or a "
                         f"checkpoint inside one{hint if path.exists() else '; there is nothing at this path'}")
    datasets = trained_datasets(run)
    groups = dict.fromkeys(group for dataset in datasets for group in _caption_groups(dataset))
    return Model(run, path if path.is_file() else None, tuple(groups), datasets)


def _caption_groups(dataset: dict[str, Any]) -> tuple[Group, ...]:
    """The groups that a dataset of a trained run is captioned by; none where its task is none of ours."""
    try:
        return Task.parse(dataset.get("task", "")).groups(Objective.CAPTION)
    except TaskError:
        return ()


def groups_of(words: Sequence[str], model: Model) -> list[str]:
    """The groups asked for, as they are written elsewhere. Raises LabelError, TaskError."""
    if not model.groups:
        raise LabelError(f"{model.run} was not trained to caption: no task of its data_cfg.train has 'cap' "
                         f"({', '.join(str(dataset.get('task')) for dataset in model.datasets) or 'it lists none'})")
    asked = list(dict.fromkeys(Group.parse(word) for word in words))
    if len({group.caption_kind for group in asked}) < len(asked):
        raise LabelError(f"--groups {' '.join(words)}: name at most one group of several modalities, or of subtitles: all write 'vast_cap'")
    untrained = [str(group) for group in asked if group not in model.groups]
    if untrained:
        logger.warning("%s was not trained to caption by %s (but by %s): expect poor captions", model.run, ", ".join(untrained),
                       ", ".join(map(str, model.groups)))
    return [str(group) for group in asked]


def choose(clip: OwnClip, groups: Sequence[Group], every: bool) -> tuple[Group, ...]:
    """The groups that a clip is captioned by. Candidates are the groups that its kind allows and of which it has some modality; empty
    where there is none. With ``every`` all of them count, else the one with the fewest modalities that the clip lacks and, among equals,
    the most modalities."""
    possible = [group for group in groups if all(m.value in FEASIBLE[clip.kind] for m in group) and any(m in clip.present for m in group)]
    if every or not possible:
        return tuple(possible)
    return (min(possible, key=lambda group: (sum(m not in clip.present for m in group), -len(group.modalities), group)),)


def config_of(model: Model, state: State, output: Path, captions: int) -> dict[str, Any]:
    """The config that labels the lists of ``state``: the model as it was trained, on these clips."""
    kept = [key for key, setting in accepted_keys("model_cfg").items() if key not in NOT_INHERITED and "obsolete" not in setting.metadata]
    run: dict[str, Any] = {"mode": "testing", "pretrain_dir": str(model.run), "output_dir": str(output), "captioner_mode": True,
                           "generate_nums": captions, "generate_by": "beam" if captions == 1 else "sample"}
    if model.checkpoint:
        run["checkpoint"] = str(model.checkpoint)
    return {"run_cfg": run,
            "model_cfg": {"inherit_keys": kept},
            "data_cfg": {"train": [], "val": [_dataset(name, settings, model, state, output) for name, settings in state.lists.items()]}}


def _dataset(name: str, settings: dict[str, Any], model: Model, state: State, output: Path) -> dict[str, Any]:
    task = Task.parse(settings["task"])
    # Frames and sound slices as in the training whose captions had these groups, or else whichever says.
    trained = sorted(model.datasets, key=lambda dataset: not set(task.all_groups) <= set(_caption_groups(dataset)))
    dataset: dict[str, Any] = {"name": name, "task": settings["task"], "txt": str(output / "lists" / f"{name}.json"),
                             "batch_size": BATCH_SIZE, "n_workers": -1}
    if Modality.VISION in task.modalities:
        dataset |= {"vision_sample_num": 1 if settings["kind"] == "image" else _first(trained, "vision_sample_num", 8),
                  "vision_transforms": _first(trained, "vision_transforms", "none")}
    if Modality.AUDIO in task.modalities:
        dataset["audio_sample_num"] = _first(trained, "audio_sample_num", 1)
    if settings["kind"] == "sound":
        return {**dataset, "audio": state.root}
    return {**dataset, "vision": state.root, "vision_format": "image_rawimage" if settings["kind"] == "image" else "video_rawvideo"}


def _first(datasets: Iterable[dict[str, Any]], key: str, default: Any) -> Any:
    return next((dataset[key] for dataset in datasets if dataset.get(key)), default)


# ------------------------------------------------------------------------------------------------------------------ lists


def add_clips(state: State, files: Found, model: Model, output: Path) -> None:
    """Put the clips that are in no list yet into new lists, by kind and groups; written at once. Raises LabelError."""
    known = {*state.left_out, *(_id(row) for name in state.lists for row in _rows(output, name))}
    new = [name for name in files.subtitles if name not in known]
    groups = [Group.parse(group) for group in state.groups] or list(model.groups)
    clips, others = look_into(files, new, with_subtitles=any(Modality.SUBTITLE in group for group in groups))
    lists: dict[tuple[Kind, str], list[Any]] = {}
    unfit: Counter[Kind] = Counter()
    for clip in clips:
        chosen = choose(clip, groups, every=bool(state.groups))
        if not chosen:
            unfit[clip.kind] += 1
            others.append(clip.clip_id)
            continue
        row = {"clip_id": clip.clip_id, "subtitle": clip.subtitle} if any(Modality.SUBTITLE in group for group in chosen) else clip.clip_id
        lists.setdefault((clip.kind, "%".join(["cap", *map(str, chosen)])), []).append(row)
    words = ", ".join(map(str, groups))
    for kind, number in unfit.items():
        logger.warning("%d %s(s) are left out: nothing in them is what captions are made of here (%s)", number, kind, words)
    if len(others) > unfit.total():
        logger.info("%d files are left out, which are no video, picture or sound: '%s', …", len(others) - unfit.total(), others[0])
    for (kind, task), rows in lists.items():
        name = _free_name(f"{kind}s_{task.removeprefix('cap%').replace('%', '_')}", state)
        write_atomically(output / "lists" / f"{name}.json", json.dumps(rows, indent=0, ensure_ascii=False) + "\n")
        state.lists[name] = {"kind": kind, "task": task}
        said = sum(isinstance(row, dict) and bool(row["subtitle"]) for row in rows)
        with_words = f", {said} of them with subtitles" if said else ""
        logger.info("to caption: %d %s(s) by %s%s", len(rows), kind, task.removeprefix("cap%").replace("%", ", "), with_words)
    state.left_out += others
    if not state.lists:
        raise LabelError(f"nothing to label in {files.root}: {len(others)} file(s), none of which can be captioned by {words}")
    write_atomically(output / "label.json", json.dumps(asdict(state), indent=1, ensure_ascii=False) + "\n")


def _free_name(name: str, state: State) -> str:
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(state.lists) + 2))
    return next(free for free in numbered if free not in state.lists)


def _id(row: Any) -> str:
    return str(row["clip_id"] if isinstance(row, dict) else row)


def _rows(output: Path, name: str) -> list[Any]:
    rows: list[Any] = json.loads((output / "lists" / f"{name}.json").read_text(encoding="utf-8"))
    return rows


def open_state(output: Path, files: Found, groups: Sequence[str]) -> State:
    """What the output folder holds labels of; new for an empty one. Raises LabelError where those are others than asked for."""
    path = output / "label.json"
    asked = State(str(files.root), list(groups))
    if not path.exists():
        return asked
    state = State(**json.loads(path.read_text(encoding="utf-8")))
    if state.root != asked.root:
        raise LabelError(f"'{output}' holds labels of clips in {state.root}, now {asked.root}; choose another --output")
    if state.groups != asked.groups:
        before, now = (" ".join(each.groups) or "chosen by clip" for each in (state, asked))
        raise LabelError(f"'{output}' holds labels by other groups: {before}, now {now}; choose another --output")
    return state


# ---------------------------------------------------------------------------------------------------------------- results


def gather(state: State, files: Found, output: Path) -> dict[str, int]:
    """labels.json, labels.csv, unreadable.json and without_words.json of all lists, sorted by path; how many clips are in each."""
    labels: dict[str, dict[str, Any]] = {}
    lacking: dict[str, dict[str, str]] = {"unreadable": dict(files.missing), "without_words": {}}
    kinds: dict[str, str] = {}
    groups: dict[str, dict[str, str]] = {}
    for name, settings in state.lists.items():
        folder = output / "results" / name
        keys = {KEYS[group.caption_kind]: str(group) for group in Task.parse(settings["task"]).all_groups}
        for row in _rows(output, name):
            kinds[_id(row)], groups[_id(row)] = settings["kind"], keys
        labels |= {row["clip_id"]: row for row in json.loads((folder / "labels.json").read_text(encoding="utf-8"))}
        for problem in PROBLEMS:
            entries = json.loads(file.read_text(encoding="utf-8")) if (file := folder / f"{problem}.json").is_file() else []
            lacking[problem] |= {entry["clip_id"]: entry["reason"] for entry in entries}
    ordered = [labels[clip_id] for clip_id in sorted(labels)]
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["clip", "kind", "group", "caption", "problem"])
    for row in ordered:
        clip_id = row["clip_id"]
        for key, group in groups[clip_id].items():
            writer.writerows([clip_id, kinds[clip_id], group, caption, ""] for caption in row[key])
    reasons = {clip_id: reason for entries in lacking.values() for clip_id, reason in entries.items()}
    writer.writerows([clip_id, kinds.get(clip_id, ""), "", "", reason] for clip_id, reason in sorted(reasons.items()))
    write_atomically(output / "labels.json", json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    # With a mark of its encoding, without which spreadsheets take it for another.
    write_atomically(output / "labels.csv", table.getvalue().encode("utf-8-sig"))
    for problem, own in lacking.items():
        entries = [{"clip_id": clip_id, "reason": reason} for clip_id, reason in sorted(own.items())]
        if entries or problem == "unreadable":
            write_atomically(output / f"{problem}.json", json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
        else:
            (output / f"{problem}.json").unlink(missing_ok=True)
    for row in ordered[:SHOWN]:
        logger.info("  %s: %s", row["clip_id"], row[next(iter(groups[row["clip_id"]]))][0])
    return {"labelled": len(ordered), **{problem: len(own) for problem, own in lacking.items()}}


if __name__ == "__main__":  # how the command was started before it was a verb; not imported, because it stands above this
    sys.exit(importlib.import_module("omnivast.label").main(sys.argv[1:]))
