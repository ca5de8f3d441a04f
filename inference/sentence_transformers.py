"""A model as a module of the library sentence-transformers: its ``encode``, its evaluators, and all that is built on them (MTEB).

    from omnivast.inference.sentence_transformers import sentence_transformer

    model = sentence_transformer("output/quickstart/pretrain")          # a sentence_transformers.SentenceTransformer
    model.similarity(model.encode(["a dog barks"]), model.encode(["one.mp4", "two.mp4"]))

Texts, and paths of videos, pictures and sounds, are told apart as that library does: by the ending of a file that exists. What it has no
ending for is given as ``{"video": "clip.webm"}``. A dict names tracks; ``text`` beside others is what is said in the clip. Vectors are
those of ``Pipeline.embed_texts`` and, by the largest group whose tracks a clip has, of ``Pipeline.embed``. It is for use, not for training.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omnivast.config.extras import import_extra
from omnivast.config.tasks import Modality
from omnivast.inference.clips import ClipError
from omnivast.inference.loading import LoadError
from omnivast.inference.pipeline import Pipeline, load
from omnivast.inference.results import Embedding
from omnivast.inference.sharing import SENTENCE_MODULE, compares_by_one_vector, write_folder

library = import_extra("sentence_transformers")
InputModule: Any = library.base.modules.InputModule
KINDS = {Modality.VISION: ("image", "video"), Modality.AUDIO: ("audio",), Modality.SUBTITLE: ("text",)}
"""Track → what the library calls it."""


def sentence_transformer(model: Pipeline | str | Path, *, group: str | None = None, device: str = "auto") -> Any:
    """A ``SentenceTransformer`` of a loaded model, or of any place that :func:`omnivast.load` takes.

    Args:
        group: the tracks to look at, such as "va"; None: of each clip the largest group that it has the tracks of.

    Raises LoadError for a model that compares by more than one vector.
    """
    pipeline = model if isinstance(model, Pipeline) else load(model, device=device)
    module = OmniVAST(pipeline, group)
    return library.SentenceTransformer(modules=[module], similarity_fn_name="dot", device=str(pipeline.model.device))


class OmniVAST(InputModule):
    """The first, and only, module of such a model. ``save`` writes what ``Pipeline.save_pretrained`` does."""

    config_file_name = "omnivast_sentence.json"
    config_keys = ["group"]

    def __init__(self, pipeline: Pipeline, group: str | None = None) -> None:
        super().__init__()
        if not compares_by_one_vector(pipeline.parts):
            raise LoadError(f"{pipeline.place}: {type(pipeline.model).__name__} compares texts with clips by more than one vector each, or "
                            "was not trained for retrieval; sentence-transformers has room for one vector")
        known = [one.key for one in pipeline.groups("ret")]
        if group is not None and group not in known:
            raise LoadError(f"{pipeline.place}: has no vectors of group '{group}'; it has those of {', '.join(known)}")
        self.pipeline, self.group = pipeline, group
        self.model = pipeline.model  # a submodule, so that it moves with this one

    @property
    def modalities(self) -> list[Any]:
        """What it takes: text, and every set of tracks that a group of the model can be made of."""
        tracks = {track for one in self.pipeline.groups("ret") for track in one}
        names = sorted({name for track in tracks for name in KINDS[track]} | {"text"})
        several = [chosen for count in range(2, len(names) + 1) for chosen in combinations(names, count)
                   if not {"image", "video"} <= set(chosen)]
        return [*names, *several]

    def get_embedding_dimension(self) -> int:
        """Numbers of a vector."""
        return int(self.pipeline.embed_texts("a")["vector"].shape[1])

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Texts and clips, as ``forward`` takes them; clips are read there. Raises ClipError."""
        return {"inputs": [self._input(one, prompt or "") for one in inputs]}

    def _input(self, given: Any, prompt: str) -> Any:
        """A text (str), or a clip as Pipeline takes it (anything else)."""
        kind = library.base.modality.infer_modality(given, self.modalities)
        tracks = given if isinstance(given, Mapping) and "array" not in given else {kind: given}
        if set(tracks) == {"text"}:
            if not isinstance(tracks["text"], str):
                raise ClipError(f"a text is a str; got {type(tracks['text']).__name__}")
            return prompt + tracks["text"]
        if set(tracks) - {"text", "image", "audio", "video"}:
            raise ClipError(f"an input is a text, a clip, or a dict of text, image, audio and video; got {kind}")
        (name, only), *others = tracks.items()
        if not others and isinstance(only, str | os.PathLike):
            return Path(only)
        clip: dict[str, Any] = {}
        for name, value in tracks.items():
            clip.update(_sound(value) if name == "audio" else {"subtitle" if name == "text" else name: _seen(value, name)})
        return clip

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Adds ``sentence_embedding`` (N, D)."""
        inputs = features["inputs"]
        texts = [number for number, one in enumerate(inputs) if isinstance(one, str)]
        clips = [number for number, one in enumerate(inputs) if not isinstance(one, str)]
        vectors: dict[int, Tensor] = {}
        if texts:
            vectors.update(zip(texts, self.pipeline.embed_texts([inputs[number] for number in texts])["vector"]))
        if clips:
            found = self.pipeline.embed([inputs[number] for number in clips])
            vectors.update(zip(clips, [torch.from_numpy(self._vector(one)) for one in found]))
        features["sentence_embedding"] = torch.stack([vectors[number] for number in range(len(inputs))]).to(self.model.device)
        return features

    def _vector(self, found: Embedding) -> np.ndarray:
        if self.group is None:
            return next(iter(found.vectors.values()))
        if self.group not in found.vectors:
            raise ClipError(f"{found.name}: has no {' and no '.join(found.missing)}, but was to be looked at by group '{self.group}'")
        return found.vectors[self.group]

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the model, and which group it looks at."""
        write_folder(self.pipeline.parts, Path(output_path))
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", token: Any = None, cache_folder: str | None = None,
             revision: str | None = None, local_files_only: bool = False, **_: Any) -> OmniVAST:
        """From a folder, or from the Hub."""
        place = {"token": token, "cache_folder": cache_folder, "revision": revision, "local_files_only": local_files_only}
        folder = cls.load_dir_path(model_name_or_path, subfolder=subfolder, **place)
        if folder is None:
            raise LoadError(f"{model_name_or_path}: holds no model")
        return cls(load(folder), **cls.load_config(model_name_or_path, subfolder=subfolder, **place))


MODULE_CLASSES = {SENTENCE_MODULE: OmniVAST}
"""The name in a folder's ``modules.json`` → the class, for loaders that are given classes."""


def _sound(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return {"audio": given["array"], "rate": given["sampling_rate"]}
    if isinstance(given, np.ndarray | Tensor):
        raise ClipError("samples of sound need their rate: {'array': samples, 'sampling_rate': 16000}")
    return {"audio": given}


def _seen(given: Any, name: str) -> Any:
    """Frames as the library takes them, (F, 3, H, W) or (F, H, W, 3), or a list of pictures → as Pipeline does. All else as it is."""
    if name == "text" and isinstance(given, list | tuple):
        return "\n".join(given)
    if isinstance(given, Mapping):
        given = given["array"]
    if isinstance(given, list | tuple) and given:
        pictures = [np.asarray(one.convert("RGB") if isinstance(one, Image.Image) else one) for one in given]
        if len({one.shape for one in pictures}) != 1 or pictures[0].ndim != 3:
            raise ClipError("a list of frames is of pictures or arrays of one size")
        given = np.stack(pictures)
    if isinstance(given, np.ndarray | Tensor) and given.ndim in (3, 4) and given.shape[-1] != 3 and given.shape[-3] == 3:
        given = torch.as_tensor(given).movedim(-3, -1)
    return given
