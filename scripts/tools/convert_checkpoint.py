"""Bring a checkpoint to this house's naming, or to the release's, tensor for tensor and bit for bit.

    python -m omnivast convert released.pt ours.safetensors
    python -m omnivast convert ours.safetensors for_the_release.pt --to released --unused released.pt

Both namings are one, but for AST's embeddings (audio_embeddings., here within audio_encoder.), for what older releases spelt otherwise
(module., video_…, evaclip_model., clip_model.) and for tensors that the release carries without use, such as CLIP's text tower:
--to omnivast leaves these out and lists them by name; --to released keeps those that are there, and --unused takes them from a
released checkpoint, so that every released name is in the result. The endings of the files, .pt (also .pth, .bin) or .safetensors,
say their format. Files are read without running anything in them.

Exit status: 0 written; 2 the file cannot be read or does not fit, and nothing was written.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from omnivast.config.load import load_config
from omnivast.config.paths import as_path
from omnivast.model.build import build_model
from omnivast.model.interface import MODELS, Model, Names
from omnivast.model.weights import WeightsError, load_weights
from omnivast.model.weights.load import read_current, read_state_dict, split_unused
from omnivast.model.weights.origin import families_of
from omnivast.utils.files import write_atomically
from omnivast.utils.log import Progress, progress, setup_logging

NAMING = {"omnivast": "OmniVAST's", "released": "the release's"}
TORCH, SAFETENSORS = (".pt", ".pth", ".bin"), ".safetensors"
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}
"""safetensors' names of types."""


class _Counted:
    """A file that tells a progress bar how many megabytes were written."""

    def __init__(self, file: BinaryIO, bar: Progress) -> None:
        self.file, self.bar, self.bytes = file, bar, 0

    def write(self, data: bytes | memoryview) -> int:
        before, self.bytes = self.bytes // 2**20, self.bytes + len(data)
        if megabytes := self.bytes // 2**20 - before:
            self.bar.update(megabytes)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def save(state: dict[str, Tensor], path: Path) -> None:
    """Write the tensors, one after the other, to ``path`` in the format of its ending; the file appears whole or not at all."""
    bar: Progress
    with progress(sum(tensor.nbytes for tensor in state.values()) // 2**20, f"writing {path.name}", unit="MB") as bar:
        def write(file: BinaryIO) -> None:
            counted = _Counted(file, bar)
            if path.suffix == SAFETENSORS:
                _write_safetensors(state, counted)
            else:
                # An empty tensor of a mapped file begins where the next one does, of which torch.save would make one storage.
                content = {name: tensor if tensor.numel() else tensor.clone() for name, tensor in state.items()}
                torch.save(content, counted)  # type: ignore[arg-type]
        write_atomically(path, write)


def _write_safetensors(state: dict[str, Tensor], file: _Counted) -> None:
    """The format of github.com/huggingface/safetensors: the header's length, the header as JSON, the tensors' bytes. Its library takes
    a path instead of a file, and refuses tensors that share their memory, as the tied word embeddings do. As there, types of more
    bytes come first, so that every tensor is aligned."""
    header, end = {}, 0
    state = dict(sorted(state.items(), key=lambda item: -item[1].element_size()))
    for name, tensor in state.items():
        if tensor.dtype not in DTYPES:
            raise WeightsError(f"{name} has type {tensor.dtype}, which safetensors does not hold; write a .pt file")
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in state.values():
        file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def convert(source: Path, target: str, names: Names, unused: Path | None = None, wanted: Sequence[str] = ()
            ) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the names of ``target`` ("omnivast" or "released"), still in the file, and the names left out."""
    state = read_current(source, names, wanted)
    if target == "omnivast":
        state, dropped = split_unused(state, names, wanted)
        return state, list(dropped)
    copies = dict(names.copies)
    if unused is not None:
        released = read_current(unused, names)
        copies = {start: repeated for start, repeated in copies.items() if any(name.startswith(start) for name in released)}
        extra = split_unused(released, names)[1]
        if not extra:
            raise WeightsError(f"{unused}: holds no tensors without use; expected a released checkpoint")
        state = {**{name: released[name] for name in extra}, **state}
    result = {names.released(name): tensor for name, tensor in state.items()}
    for start, repeated in copies.items():
        result |= {start + name[len(repeated):]: tensor for name, tensor in result.items() if name.startswith(repeated)}
    return result, []


def model_of(config: Path) -> tuple[Model, list[str]]:
    """The model that a config describes, without memory for its weights, and what the config lets a checkpoint lack."""
    loaded = load_config(["--config", str(config)])
    with torch.device("meta"):
        return build_model(loaded.model_cfg, load_towers=False), list(loaded.run_cfg.allow_missing)


def run(arguments: argparse.Namespace) -> None:
    """Check, convert, write, and say what was done."""
    source, result = arguments.source, arguments.result
    if result.suffix not in (*TORCH, SAFETENSORS):
        raise WeightsError(f"{result}: expected a name that ends in {', '.join(TORCH)} or {SAFETENSORS}")
    if result.exists() and result.samefile(source):
        raise WeightsError(f"{result}: is IN itself, which a conversion leaves as it is; name another file")
    if arguments.unused and arguments.to != "released":
        raise WeightsError("--unused goes with --to released: OmniVAST keeps no tensors without use")
    wanted: Sequence[str] = ()
    names = MODELS.find(arguments.model_type).names
    if arguments.config is not None:
        model, allowed = model_of(arguments.config)
        wanted, names = list(model.state_dict()), model.names
        with warnings.catch_warnings():  # copying into a model without memory does nothing, as torch remarks
            warnings.simplefilter("ignore")
            load_weights(model, source, allowed)
        print(f"{source}: fits the model of {arguments.config}")
    before = read_state_dict(source)
    _check_family(source, before, names)
    state, dropped = convert(source, arguments.to, names, arguments.unused, wanted)
    save(state, result)
    renamed = before.keys() - state.keys() - set(dropped)
    print(f"{result}: {len(state)} tensors, {sum(t.nbytes for t in state.values()) / 1e9:.2f} GB, in {NAMING[arguments.to]} naming; "
          f"{len(renamed)} of {source}'s {len(before)} had another name; {len(dropped)} left out, which no model here uses")
    for name in dropped:
        print(f"  left out: {name}")


def _check_family(source: Path, state: dict[str, Tensor], names: Names) -> None:
    """Raise WeightsError where the names are those of another family than the one whose naming is used."""
    families = families_of(state)
    if families and not any(MODELS.find(family).names.current is names.current for family in families):
        raise WeightsError(f"{source}: it is a checkpoint of model_type {families[0]}; give --model_type {families[0]}")


def main(argv: Sequence[str]) -> int:
    """Returns the exit status."""
    head, rest = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(prog="python -m omnivast convert", description=head, epilog=rest,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=as_path, metavar="IN", help="a checkpoint: ours, the release's, or an older one")
    parser.add_argument("result", type=as_path, metavar="OUT", help="the file to write")
    parser.add_argument("--to", choices=tuple(NAMING), default="omnivast", help="whose naming (default: omnivast)")
    parser.add_argument("--model_type", default="vast", choices=sorted(MODELS), help="of which family (default: vast, or --config's)")
    parser.add_argument("--config", type=as_path, help="check IN's names and shapes against the model of this config first")
    parser.add_argument("--unused", type=as_path, metavar="FILE", help="--to released: take the tensors without use from this checkpoint")
    setup_logging(None)
    try:
        run(parser.parse_args(argv))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0
