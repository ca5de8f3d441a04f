"""A model from where people have it: the output folder of a run, a checkpoint in one, a folder made to be shared, or the Hugging Face Hub.

A shared folder holds ``config.json`` (an OmniVAST config), ``inference.json`` (how clips are shown to the model, and what it was trained
for), ``model.safetensors``, the tokenizer, ``background.json`` (some captions of the training, to calibrate scores with), and
``README.md``. Nothing in it is ever run as code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivast.config.extras import import_extra
from omnivast.config.files import read_config
from omnivast.config.inherit import settings_of_run
from omnivast.config.load import config_of_model
from omnivast.config.paths import as_path, looked_up
from omnivast.config.schema import Config
from omnivast.config.tasks import OF_CAPTIONS, Group, Objective, Task, TaskError
from omnivast.data.batch import Sample, collate
from omnivast.data.spec import InputSpec
from omnivast.inference.reading import Sampling
from omnivast.model.build import model_of, set_precision
from omnivast.model.interface import Model
from omnivast.model.weights import LoadReport, load_weights, start_weights
from omnivast.utils import distributed

HUB = "hf-hub:"
WEIGHTS, CONFIG, FACTS, BACKGROUND = "model.safetensors", "config.json", "inference.json", "background.json"
LLM = "llm"
"""Subfolder with the language model of an Audio-Visual LLM."""
LANGUAGE_MODEL = tuple(f"{LLM}/*{ending}" for ending in (".safetensors", ".gguf", ".model", ".jinja"))
"""What of it is no JSON."""
RUN_KEYS = ("seed", "precision", "beam_size", "beam_size_qa")
"""Settings of a run that decide what a loaded model says."""


class LoadError(ValueError):
    """A place that holds no model; the message says what was looked for."""


@dataclass(frozen=True)
class Loaded:
    """A model, ready to use, and what it is to be used for."""

    model: Model
    config: Config
    sampling: Sampling
    groups: dict[Objective, tuple[Group, ...]]
    """The groups that each objective was trained or tested with, the largest first."""
    weights: LoadReport
    facts: dict[str, Any]
    """What ``inference.json`` of a shared folder says, or would say."""
    background: Path | None = None
    """The file of a shared folder with captions of the training."""

    def encode(self, groups: Sequence[Group], samples: Sequence[Sample]) -> Any:
        """The model's features of samples with the same tracks and the same number of frames, of all tracks of ``groups``."""
        task = Task(((Objective.RETRIEVAL, tuple(groups)),))
        batch = collate(samples, corpus="clips", tokenizer=self.model.tokenizer, lengths=self.sampling.lengths, task=task)
        return self.model.encode(batch.to(self.model.device), task.modalities)


@contextmanager
def in_float32(model: Model) -> Iterator[None]:
    """Within it the model computes in float32, whatever its precision is; its parameters are float32 always."""
    precision, model.precision = model.precision, None
    try:
        yield
    finally:
        model.precision = precision


def load_parts(place: str | Path, *, device: str = "auto", precision: str | None = None, frames: int | None = None,
               slices: int | None = None, llm: str | Path | None = None) -> Loaded:
    """The model at ``place``. Raises LoadError, ConfigError, ModelError, WeightsError, and ValueError for frames or slices that it cannot
    take."""
    folder, file = _found(place)
    shared = (folder / FACTS).is_file()
    config_file = folder / CONFIG if shared else folder / "log" / "hps.json"
    content = read_config(config_file) if shared else settings_of_run(folder)
    facts = read_config(folder / FACTS) if shared else facts_of(content)
    weights = file or (folder / WEIGHTS if shared else start_weights(None, str(folder)))
    if weights is None:
        raise LoadError(f"{folder}: holds no weights")
    config = _config(content, config_file, shared, device, precision, llm)
    model = model_of(config, load_towers=False)
    torch_device = distributed.setup(config.run_cfg.device)
    config, _ = set_precision(model, config, torch_device)
    report = load_weights(model, weights)
    model.to(torch_device).eval().requires_grad_(False)
    shown = facts["shown"]
    spec = InputSpec.of(config.model_cfg, model.audio_frontend, frame_resize=model.frame_resize,
                        one_caption_length=model.one_caption_length)
    sampling = Sampling(spec, shown["frames"] if frames is None else frames, shown["slices"] if slices is None else slices,
                        shown["transform"])
    for what, asked in (("frames", sampling.frames), ("slices", sampling.slices)):
        if asked < 1 or asked > (model.most_samples or asked):
            takes = "1 or more" if model.most_samples is None else f"1 to {model.most_samples}"
            raise ValueError(f"{what} {asked}: this model takes {takes}")
    groups = {Objective(name): tuple(Group.parse(group) for group in own) for name, own in facts["groups"].items()}
    background = folder / BACKGROUND
    return Loaded(model, config, sampling, groups, report, facts, background if background.is_file() else None)


def facts_of(hps: Mapping[str, Any]) -> dict[str, Any]:
    """What ``inference.json`` holds, from the ``log/hps.json`` of a run: frames and slices as its tests take them, else its training."""
    data = hps.get("data_cfg") or {}
    datasets = [dataset for name in ("val", "train") for dataset in data.get(name) or () if isinstance(dataset, dict)]
    groups: dict[str, dict[Group, None]] = {}
    for dataset in datasets:
        try:
            task = Task.parse(dataset.get("task", ""))
        except TaskError:
            continue
        for objective in task.objectives:
            own = [group for group in task.groups(objective) if not group.alone]  # those with one are trained alone
            groups.setdefault(objective.value, {}).update(dict.fromkeys(own))
    shown = {"frames": _first(datasets, "vision_sample_num", 8), "slices": _first(datasets, "audio_sample_num", 1),
             "transform": _first(datasets, "vision_transforms", "none")}
    by_size = {name: [str(group) for group in sorted(own, key=lambda group: -len(group.modalities))] for name, own in groups.items()}
    return {"format": 1, "shown": shown, "groups": by_size, "trained_on": [d.get("name", "") for d in data.get("train") or ()],
            "texts": [d["txt"] for d in data.get("train") or () if d.get("txt") and _has_captions(d)],
            "tests": [[d["txt"], d.get("vision") or d.get("audio")] for d in data.get("val") or () if d.get("txt") and _is_retrieval(d)]}


def _is_retrieval(dataset: Mapping[str, Any]) -> bool:
    try:
        return bool(Task.parse(dataset.get("task", "")).groups(Objective.RETRIEVAL))
    except TaskError:
        return False


def _has_captions(dataset: Mapping[str, Any]) -> bool:
    try:
        return any(Task.parse(dataset.get("task", "")).groups(objective) for objective in OF_CAPTIONS)
    except TaskError:
        return False


def _first(datasets: Iterable[Mapping[str, Any]], key: str, default: Any) -> Any:
    return next((dataset[key] for dataset in datasets if dataset.get(key)), default)


def _config(content: Mapping[str, Any], file: Path, shared: bool, device: str, precision: str | None,
            llm: str | Path | None) -> Config:
    """The config of a model alone, without the datasets and the training of its run."""
    run = {key: value for key, value in (content.get("run_cfg") or {}).items() if key in RUN_KEYS}
    model = {**content["model_cfg"], "pretrained": False, "inherit_keys": []}
    for key in ("tokenizer", "llm"):
        if model.get(key):  # paths of a shared folder are inside it, but for a language model that was not copied
            model[key] = str(file.parent / model[key]) if shared else _near(file, str(model[key]))
    if llm is not None:
        if not model.get("llm"):
            raise LoadError(f"{file}: the model has no language model, so llm={str(llm)!r} is of no use")
        model["llm"] = str(as_path(str(llm)))
    if shared and str(model["audio_encoder_type"]).startswith("hf:"):
        model["audio_encoder_type"] = f"hf:{file.parent / str(model['audio_encoder_type']).removeprefix('hf:')}"
    run |= {"device": device, **({"precision": precision} if precision else {})}
    return config_of_model({"run_cfg": run, "model_cfg": model}, file)


def _near(file: Path, path: str) -> str:
    """A path of a run's config, which is relative to where the run was started: from here or, where it is not there, from the nearest
    folder above the run that has it."""
    if Path(path).exists():
        return path
    return next((str(folder / path) for folder in file.resolve().parents if (folder / path).exists()), path)


def _found(place: str | Path) -> tuple[Path, Path | None]:
    """(the folder of a run or a shared one, the checkpoint that was named in it)."""
    if str(place).startswith(HUB):
        return _from_hub(str(place).removeprefix(HUB)), None
    path = as_path(str(place))
    for folder in (path, *path.parents[:2]):
        if path.exists() and ((folder / "log" / "hps.json").is_file() or (folder / FACTS).is_file()):
            return folder, path if path.is_file() else None
    if not path.exists():
        raise LoadError(f"no model at {path}{looked_up(path)}")
    raise LoadError(f"{path}: expected the output folder of a training (log/hps.json and ckpt/model_step_N.pt), a checkpoint inside one, "
                    f"or a shared folder ({CONFIG}, {FACTS}, {WEIGHTS})")


def _from_hub(name: str) -> Path:
    """The folder of a model on the Hub, fetched unless it is there already. ``name``: "org/name" or "org/name@revision"."""
    import_extra("huggingface_hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=["*.json", "*.txt", "*.md", WEIGHTS,
                                                                                                       *LANGUAGE_MODEL]))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, ValueError) as error:
        raise LoadError(f"{HUB}{name}: cannot be fetched: {str(error).splitlines()[0]}") from None
