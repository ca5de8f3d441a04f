"""Write a model as a folder that others can load: offline, by ``omnivast.load(folder)``, or from the Hugging Face Hub."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save

from omnivast.config.load import resolved
from omnivast.config.tasks import Group, Objective
from omnivast.evaluation import protocol
from omnivast.inference.background import background_texts
from omnivast.inference.loading import BACKGROUND, CONFIG, FACTS, HUB, LLM, RUN_KEYS, WEIGHTS, Loaded, LoadError
from omnivast.model.encoders.hf_audio import hf_folder
from omnivast.model.interface import Model
from omnivast.model.text.pretrained import text_parts
from omnivast.utils.files import write_atomically
from omnivast.version import VERSION

CARD = "README.md"
AUDIO_TOWER = "audio_encoder"
"""Subfolder with the ``config.json`` of an audio tower of the transformers library."""
TOKENIZER_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")
SENTENCE_MODULE = "omnivast.inference.sentence_transformers.OmniVAST"
SENTENCE_FILES: dict[str, Any] = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": SENTENCE_MODULE}],
    "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "dot", "prompts": {},
                                          "default_prompt_name": None}}
"""By which the library sentence-transformers knows a folder as one of its own."""
DOES = {Objective.RETRIEVAL: "compares texts with", Objective.CAPTION: "captions", Objective.QA: "answers questions about",
        Objective.CHAT: "converses about"}
LLM_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja")
"""Files of a language model's folder that are copied: nothing pickled, and no code."""


def save_pretrained(parts: Loaded, folder: str | Path, *, licence: str | None = None, copy_llm: bool = True) -> Path:
    """Write the model with all that :func:`omnivast.load` needs: weights, config, tokenizer, and a card that says what it is.

    Args:
        licence: an identifier such as "mit" for the card; None leaves it out, and the card says that none is stated.
        copy_llm: whether a frozen or adapted language model is copied into the folder; else the folder names where it lies, and others
            say where theirs is with ``omnivast.load(folder, llm=…)``. One that was trained itself is always written.

    Returns the folder. Raises LoadError when it exists and holds something else than a shared model.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir()) and not (folder / FACTS).is_file()):
        raise LoadError(f"{folder}: exists, and is no folder of a shared model; name one that is new or empty")
    write_folder(parts, folder, licence, copy_llm)
    return folder


def write_folder(parts: Loaded, folder: Path, licence: str | None = None, copy_llm: bool = True) -> None:
    """The files of a shared model, into a folder that may hold others."""
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(parts, folder, copy_llm)
    facts = {key: value for key, value in parts.facts.items() if key not in ("texts", "tests")}
    facts |= {"made_by": f"OmniVAST {VERSION}", "weights_of_run": parts.weights.sha256}
    # The facts, by which the folder is known for one, come last.
    write_atomically(folder / WEIGHTS, save(_state(parts)))
    write_atomically(folder / CONFIG, json.dumps(config, indent=1) + "\n")
    write_atomically(folder / BACKGROUND, json.dumps(background_texts(parts), indent=0, ensure_ascii=False) + "\n")
    write_atomically(folder / CARD, card(parts, licence))
    if compares_by_one_vector(parts):
        for name, content in SENTENCE_FILES.items():
            write_atomically(folder / name, json.dumps(content, indent=1) + "\n")
    write_atomically(folder / FACTS, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def compares_by_one_vector(parts: Loaded) -> bool:
    """Whether texts and clips are compared by the dot product of one vector each, as other programs do."""
    return bool(parts.groups.get(Objective.RETRIEVAL)) and type(parts.model).similarity is Model.similarity


def push_to_hub(parts: Loaded, name: str, *, licence: str | None = None, private: bool = False, token: str | None = None) -> str:
    """Upload the folder that :func:`save_pretrained` writes as ``org/name``; the address. Needs an account there: ``hf auth login``, or
    ``token``."""
    from tempfile import TemporaryDirectory

    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with TemporaryDirectory(prefix="omnivast_") as folder:
        save_pretrained(parts, Path(folder, "model"), licence=licence)
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        api.upload_folder(repo_id=repository, folder_path=str(Path(folder, "model")))
    return f"{HUB}{repository}"


def _state(parts: Loaded) -> dict[str, Any]:
    """Tensors by name, those that stand under several names once."""
    kept, seen = {}, set()
    for name, tensor in parts.model.state_to_share().items():
        place = (tensor.data_ptr(), tensor.shape) if tensor.numel() else name
        if place not in seen:
            seen.add(place)
            kept[name] = tensor.cpu().contiguous()
    return kept


def _config(parts: Loaded, folder: Path, copy_llm: bool) -> dict[str, Any]:
    """The config of the model, with paths inside the folder; copies the files that they name into it."""
    whole = resolved(parts.config)
    run = {key: whole["run_cfg"][key] for key in RUN_KEYS}
    model = {**whole["model_cfg"], "pretrained": False, "inherit_keys": []}
    model |= _text_tower(parts, folder) if parts.model.text_tower else {}
    model |= _language_model(parts, folder, copy_llm) if parts.config.model_cfg.llm is not None else {}
    if str(model["audio_encoder_type"]).startswith("hf:"):
        tower = hf_folder(str(model["audio_encoder_type"]).removeprefix("hf:"))
        for source in tower.glob("*config.json"):
            _copy(source, folder / AUDIO_TOWER / source.name)
        model["audio_encoder_type"] = f"hf:{AUDIO_TOWER}"
    return {"run_cfg": run, "model_cfg": model}


def _text_tower(parts: Loaded, folder: Path) -> dict[str, Any]:
    """What the config says of the text tower, whose tokenizer is copied."""
    tokenizer, sizes = text_parts(parts.config.model_cfg)
    for name in TOKENIZER_FILES:
        source = tokenizer.path.with_name(name)
        if source == tokenizer.path or name == "tokenizer_config.json" and source.is_file():
            _copy(source, folder / name)
    return {"text_encoder_type": "bert", "text_encoder_cfg": asdict(sizes), "tokenizer": tokenizer.path.name}


def _language_model(parts: Loaded, folder: Path, copied: bool) -> dict[str, Any]:
    """What the config says of the language model. One that was trained is written as a language model of its own, which the folder's
    model then has frozen; of another the file or folder is copied, or named."""
    cfg = parts.config.model_cfg
    source = Path(str(cfg.llm)).resolve()
    if cfg.llm_tune == "full":
        parts.model.export_language_model(folder / LLM, whole=True)
        return {"llm": LLM, "llm_tune": "projectors"}
    if not copied:
        return {"llm": str(source)}
    if source.is_file():
        _copy(source, folder / LLM / source.name)
        return {"llm": f"{LLM}/{source.name}"}
    for file in source.iterdir():
        if file.is_file() and file.suffix in LLM_FILES:
            _copy(file, folder / LLM / file.name)
    return {"llm": LLM}


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    if not target.exists() or not source.samefile(target):
        shutil.copyfile(source, target)


def card(parts: Loaded, licence: str | None) -> str:
    """The model card, in Markdown with the Hub's header."""
    model, sampling = parts.config.model_cfg, parts.sampling
    millions = sum(p.numel() for p in parts.model.parameters()) / 1e6
    header = ["---", *([f"license: {licence}"] if licence else []), "library_name: omnivast", "tags:", "- video", "- audio",
              "- video-text-retrieval", "---"]
    words = "BERT" if parts.model.text_tower else f"language model {Path(str(model.llm)).stem}"
    does = [f"- {DOES[objective]} clips by {_listed(groups)}" for objective, groups in parts.groups.items() if objective in DOES and groups]
    shown = f"{sampling.frames} frame(s) of {sampling.spec.resolution} pixels square, {sampling.slices} slice(s) of sound"
    corpora = ", ".join(name for name in parts.facts.get("trained_on", ()) if name) or "not stated"
    return "\n".join([
        *header, "", f"# {model.model_type.upper()} model of {millions:.1f} M parameters", "", "```python", "import omnivast", "",
        "model = omnivast.load(\"this folder, or hf-hub:org/name\")", "print(model.caption(\"clip.mp4\").text)", "```", "", "It", "", *does,
        "", f"It is shown {shown} of a clip. Vision: {model.vision_encoder_type}; audio: {model.audio_encoder_type}; text: {words}.", "",
        f"Trained on: {corpora}. Licence: {licence or 'not stated'}.", "",
        f"Made with OmniVAST {VERSION}, code {protocol.code_commit() or 'of a release'}; weights of the run: sha256 "
        f"{parts.weights.sha256}.", ""])


def _listed(groups: tuple[Group, ...]) -> str:
    return ", ".join(" + ".join(modality.word for modality in group) for group in groups)
