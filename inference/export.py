"""The text tower as a file that other programs run: ONNX, or a program of ``torch.export``.

It takes ``input_ids`` and ``attention_mask``, int64 (N, L), any N and L up to the tower's positions, and returns ``sentence_embedding``,
float32 (N, D) of unit length: what ``Pipeline.embed_texts`` returns. The vectors of an index stay as they are; only queries are embedded
elsewhere, without OmniVAST, or without torch. Beside ``text.onnx`` lie ``text.onnx.json``, which says this and of which weights it is,
and ``text.onnx.tokenizer.json``, by which the library tokenizers makes the ids.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from omnivast.config.extras import import_extra
from omnivast.config.paths import as_path
from omnivast.config.tasks import CaptionKind
from omnivast.config.words import did_you_mean
from omnivast.data.batch import Texts, make_texts
from omnivast.inference.loading import Loaded, in_float32
from omnivast.model.interface import Model
from omnivast.model.text.pretrained import text_parts
from omnivast.utils.files import write_atomically
from omnivast.version import VERSION

Format = Literal["onnx", "torch"]
ENDINGS = {".onnx": "onnx", ".pt2": "torch"}
INPUTS, OUTPUT = ("input_ids", "attention_mask"), "sentence_embedding"
CLOSE = 1e-4
"""The largest difference of a number of a vector at which a file counts as the same model."""
PROBES = ("a dog barks", "a long train passes slowly while two people talk about the weather and a bell rings far away", "music", "")
logger = logging.getLogger("omnivast")
Run = Callable[[Tensor, Tensor], Tensor]


class ExportError(RuntimeError):
    """A file that could not be written, or that computes something else than the model."""


class _TextTower(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.text_vectors(input_ids, attention_mask)


def export_text(parts: Loaded, path: str | Path, format: Format | None = None) -> Path:
    """Write the text tower to ``path``; see :meth:`omnivast.inference.pipeline.Pipeline.export_text`."""
    path = as_path(str(path))
    chosen = _format(path, format)
    for package in ("onnx", "onnxscript", "onnxruntime") if chosen == "onnx" else ():
        import_extra(package)
    if parts.model.device.type != "cpu":
        raise ExportError(f"the model is on {parts.model.device}: load it with device=\"cpu\" to export it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export", dir=path.parent) as folder:
        made = Path(folder, path.name)
        run = _written(_program(parts), made, chosen)
        with in_float32(parts.model):
            difference = _difference(parts, run)
        if not difference <= CLOSE:
            raise ExportError(f"{path}: not written: its vectors differ by up to {difference:.1e}, not {CLOSE:.0e} at most, from those "
                              "that the model computes in float32")
        own = _difference(parts, run) if parts.model.precision is not None else None
        del run
        _describe(parts, path, chosen)
        made.replace(path)
    logger.info("%s: float32; its vectors differ by at most %.1e from those that the model computes in float32%s", path, difference,
                "" if own is None else f", and by {own:.1e} from its own, in {str(parts.model.precision).removeprefix('torch.')}")
    return path


def _format(path: Path, given: str | None) -> str:
    known = get_args(Format)
    if given is None:
        if path.suffix not in ENDINGS:
            raise ExportError(f"{path}: a name that ends in .onnx or .pt2 says the format; or give it, {' or '.join(known)}")
        return ENDINGS[path.suffix]
    if given not in known:
        raise ExportError(f"there is no format '{given}'; the text tower is exported as {' or '.join(known)}.{did_you_mean(given, known)}")
    return given


def _program(parts: Loaded) -> torch.export.ExportedProgram:
    """The traced tower; its parameters are the model's own."""
    sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=_longest(parts))}
    ids = _tokens(parts, PROBES[:2]).ids
    with torch.no_grad():
        return torch.export.export(_TextTower(parts.model).eval(), (ids, torch.ones_like(ids)), dynamic_shapes=(sizes, sizes),
                                   strict=False)


def _written(program: torch.export.ExportedProgram, path: Path, format: str) -> Run:
    """What runs the file that is written."""
    if format == "torch":
        torch.export.save(program, path)
        return torch.export.load(path).module()
    torch.onnx.export(program, f=path, input_names=list(INPUTS), output_names=[OUTPUT], external_data=False, verbose=False)
    session = import_extra("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda ids, mask: torch.from_numpy(session.run([OUTPUT], dict(zip(INPUTS, (ids.numpy(), mask.numpy()))))[0])


def _difference(parts: Loaded, run: Run) -> float:
    """The largest difference, over texts alone and together, from what the model computes."""
    differences = []
    with torch.inference_mode():
        for texts in (PROBES, *([text] for text in PROBES)):
            made = _tokens(parts, texts)
            differences.append(float((run(made.ids, made.mask.long()) - parts.model.index_texts(made)["vector"]).abs().max()))
    return float(np.max(differences))  # which keeps NaN, unlike max


def _longest(parts: Loaded) -> int:
    """Tokens of a text, at most."""
    return parts.sampling.lengths.caption[CaptionKind.OMNI]


def _tokens(parts: Loaded, texts: Sequence[str]) -> Texts:
    return make_texts([[text] for text in texts], parts.model.tokenizer, _longest(parts))


def _describe(parts: Loaded, path: Path, format: str) -> None:
    """The tokenizer, and a JSON file that says what the file takes."""
    tokenizer = path.with_name(f"{path.name}.tokenizer.json")
    write_atomically(tokenizer, text_parts(parts.config.model_cfg)[0].as_json(_longest(parts)))
    facts = {"format": format, "inputs": list(INPUTS), "output": OUTPUT, "tokenizer": tokenizer.name, "most_tokens": _longest(parts),
             "weights": parts.weights.sha256, "made_by": f"OmniVAST {VERSION}"}
    write_atomically(path.with_name(f"{path.name}.json"), json.dumps(facts, indent=1) + "\n")
