"""The verbs ``caption``, ``answer``, ``embed``, ``index``, ``search`` and ``serve``: the methods of a loaded model and of an index, from a
terminal.

Results go to standard output, for people or, with ``--json``, for programs; progress and warnings to standard error. Exit status: 0 done,
1 done but for clips that could not be read (each is named), 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnivast.config.paths import as_path
from omnivast.inference.index.ann import EXACT_UP_TO
from omnivast.inference.moments import STRIDE, WINDOW
from omnivast.utils.ending import end_with
from omnivast.utils.log import setup_logging

MODEL = "OMNIVAST_MODEL"
"""The environment variable that names the model where --model does not."""
WAIT_MINUTES = 30 * 24 * 60.0
"""How long a process waits for others that still index their share; the launcher ends all when one dies."""
SHOWN_FAULTS = 5
OWN_VAL = Path("the val list of the run")
"""``--fit`` without a file."""


def caption(arguments: Sequence[str] | None = None) -> int:
    """``omnivast caption clip.mp4 --model RUN``"""
    parser = _parser("caption", "Caption videos, pictures and sounds.")
    _clips(parser)
    parser.add_argument("--n", type=int, default=1, help="captions of each clip (default 1)")
    parser.add_argument("--beams", type=int, help="width of the beam search; 1: greedy (default: as the model is tested)")
    parser.add_argument("--sample", action="store_true", help="draw captions instead of searching for the likeliest")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")

    def run(options: argparse.Namespace) -> int:
        model = _model(options)
        return _by_clip(options, lambda clip: model.caption(clip, group=options.group, n=options.n, beams=options.beams,
                                                            sample=options.sample, seed=options.seed),
                        lambda found: "\n".join(map(_words, found.candidates)))[1]

    return _main(parser, run, arguments)


def answer(arguments: Sequence[str] | None = None) -> int:
    """``omnivast answer clip.mp4 "what is heard?" --model RUN``"""
    parser = _parser("answer", "Answer a question about a video, picture or sound.")
    parser.add_argument("clip", type=as_path, help="the file")
    parser.add_argument("question", nargs="+", help="one or more questions, each in quotes")
    _common(parser)
    parser.add_argument("--beams", type=int, help="width of the beam search; 1: greedy (default: as the model is tested)")
    parser.add_argument("--evidence", action="store_true", help="name the frames and slices of sound without which the answer is another")

    def run(options: argparse.Namespace) -> int:
        found = _model(options).answer(options.clip, options.question, group=options.group, beams=options.beams, evidence=options.evidence)
        if options.json:
            _print_json({"results": [_plain(one) for one in found]})
        else:
            _print_missing(found[:1])
            for one in found:
                _tell(_words(one.text) if len(found) == 1 else f"{one.question}\n  {_words(one.text)}")
                if one.evidence is not None:
                    _print_evidence(one.evidence)
        return 0

    return _main(parser, run, arguments)


def embed(arguments: Sequence[str] | None = None) -> int:
    """``omnivast embed clip.mp4 … --model RUN --output vectors.npz``"""
    parser = _parser("embed", "Vectors of clips, by group of tracks, into a .npz file or as JSON.")
    _clips(parser)
    parser.add_argument("--output", type=as_path, help=".npz file: an array (clips, width) for each group, and 'paths'; rows of clips "
                                                       "without a track of the group are NaN")

    def run(options: argparse.Namespace) -> int:
        if not options.json and options.output is None:
            raise ValueError("name a file with --output vectors.npz, or print the vectors with --json")
        found, status = _by_clip(options, _model(options).embed,
                                 lambda one: ", ".join(f"{key} ({len(vector)})" for key, vector in one.vectors.items()))
        if options.output is not None and found:
            _save(options.output, found)
        return status

    return _main(parser, run, arguments)


def index(arguments: Sequence[str] | None = None) -> int:
    """``omnivast index videos/ --model RUN``"""
    parser = _parser("index", "Make the index of a folder of videos, pictures and sounds, or bring it up to date: only new and changed "
                              "files are read. Killed at any moment, the same command goes on. Under torchrun the files are shared "
                              "out over the processes.")
    parser.add_argument("source", type=as_path, help="the folder, or a list of clips (.txt, .csv, .json), which may give subtitles")
    _common(parser, group=False)
    parser.add_argument("--index", type=as_path, metavar="FOLDER", help="where the index lies (default: .omnivast inside the folder)")
    parser.add_argument("--media", type=as_path, metavar="FOLDER", help="where the files of a list lie")
    parser.add_argument("--window", type=float, default=WINDOW, help=f"seconds of a moment of long files (default {WINDOW:g})")
    parser.add_argument("--stride", type=float, default=STRIDE, help=f"seconds from one moment to the next (default {STRIDE:g})")
    parser.add_argument("--background", type=as_path, metavar="FILE", help="texts about other things, one a line, by which it is told what "
                                                                            "a score means (default: captions of the model's training)")
    parser.add_argument("--fresh", action="store_true", help="throw away the index that is there")
    parser.add_argument("--fit", type=as_path, nargs="?", const=OWN_VAL, metavar="VAL.json",
                        help="learn what a score means (search --at-most-false), and how much the matching head counts (--rerank), "
                             "from texts whose clips are known: a list of clips with captions, whose files lie in --fit-media "
                             "(default: the val list of the model's run)")
    parser.add_argument("--fit-media", type=as_path, metavar="FOLDER", help="where the files of --fit lie (default: beside it)")
    parser.add_argument("--ann", action="store_true", default=None,
                        help=f"make the approximate index as well (extra ann; without being asked from {EXACT_UP_TO:,} moments on)")

    def run(options: argparse.Namespace) -> int:
        from omnivast.inference.index.api import Index, has_index, loaded, place_of
        from omnivast.inference.index.known import read_texts, texts_to_fit
        from omnivast.utils import distributed

        if options.fit is not None and "RANK" in os.environ:
            raise ValueError("--fit is of one process: leave the launcher out; the index that is there is kept")
        distributed.setup(options.device, timeout_minutes=WAIT_MINUTES)
        place = options.index or options.source
        known = has_index(place) and not options.fresh
        model = _model(options) if options.model or os.environ.get(MODEL) or not known else loaded(None, place_of(place))
        val = None if options.fit is OWN_VAL else options.fit
        if options.fit is not None:
            texts_to_fit(model.parts, val)
        texts = options.background.read_text(encoding="utf-8").splitlines() if options.background else None
        made = Index(options.source, model, folder=options.index, media=options.media, window=options.window, stride=options.stride,
                     background=texts, fresh=options.fresh, ann=options.ann)
        report = made.report
        fit = None
        if options.fit is not None:
            fit = made.fit(val, media=options.fit_media)
        if not distributed.is_main():
            return 1 if report.faults else 0
        if options.json:
            _print_json({"index": str(made.folder), **_plain(report), **({"fit": _plain(fit)} if fit else {}),
                         **({"approximate": _plain(made.ann.facts)} if made.ann else {})})
        else:
            _tell(f"{made.folder}: {report.moments} moments of {report.files} files ({report.new} new, {report.changed} changed, "
                  f"{report.removed} removed)")
            if made.ann:
                _tell(f"approximate index: {made.ann.facts.words}, made in {made.ann.facts.seconds:.0f} s")
            if options.fit is not None:
                _tell(f"how sure a result is: also told by {len(read_texts(made.folder))} texts among clips without their own")
            if fit:
                _tell(f"re-ranking: the matching head counts {100 * fit.weight:.0f} %; R@1 {100 * fit.r1_without:.1f} % without it, "
                      f"{100 * fit.r1:.1f} % with it ({fit.texts} texts of {fit.fitted_on})")
            _print_faults(report.faults)
        return 1 if report.faults else 0

    return _main(parser, run, arguments)


def search(arguments: Sequence[str] | None = None) -> int:
    """``omnivast search videos/ "a dog barks"``"""
    parser = _parser("search", "Search an index for moments.")
    parser.add_argument("index", type=as_path, help="the index, or the folder of files that it lies in")
    parser.add_argument("text", nargs="*", help="what is looked for, in quotes; several texts count alike")
    parser.add_argument("--like", type=as_path, action="append", metavar="FILE", help="a video, picture or sound that results are to be "
                                                                                      "like")
    parser.add_argument("--without", action="append", default=[], metavar="TEXT", help="what results are not to be like")
    parser.add_argument("--words", default="", help="moments in which some of these words are said come further up")
    parser.add_argument("--top", type=int, default=10, help="results (default 10)")
    parser.add_argument("--weights", type=_weights, metavar="seen=1,heard=0.5", help="how much each track counts: seen, heard, said; those "
                                                                                     "not named do not (default: all the same)")
    parser.add_argument("--at-most-false", type=float, metavar="SHARE", help="such as 0.01: find nothing rather than what a text about "
                                                                             "something else would find as well")
    parser.add_argument("--rerank", type=int, nargs="?", const=50, default=0, metavar="N",
                        help="let the matching head order the best N anew (default 50), as far as omnivast index --fit found it to help")
    parser.add_argument("--explain", action="store_true", help="name the second of each result that fits best; results are read again")
    parser.add_argument("--all-moments", action="store_true", help="also moments of a file that overlap a better one")
    parser.add_argument("--export", type=as_path, metavar="FILE", help="search nothing; write the index as a table, .parquet, or vectors"
                                                                       " of one group as an index of FAISS, .faiss")
    parser.add_argument("--group", help="with --export: the group of tracks, such as va (default: all in .parquet, the largest in .faiss)")
    _settings(parser)

    def run(options: argparse.Namespace) -> int:
        from omnivast.inference.index.api import Index, place_of
        from omnivast.inference.index.export import export_index
        from omnivast.inference.index.store import Store

        if options.export is not None:
            if options.text or options.like or options.words:
                raise ValueError("--export writes the whole index; leave out what is searched for")
            store = Store.read(place_of(options.index))
            path = export_index(store, options.export, group=options.group)
            _print_json({"file": str(path), "moments": len(store)}) if options.json else _tell(f"{path}: {len(store)} moments")
            return 0
        if options.group is not None:
            raise ValueError("--group goes with --export; a search takes --weights seen=1,heard=0.5")
        opened = Index.open(options.index, _model(options) if options.model else None)
        found = opened.search(options.text, like=options.like, without=options.without, words=options.words, top=options.top,
                              weights=options.weights, at_most_false=options.at_most_false, merge=not options.all_moments,
                              rerank=options.rerank, explain=options.explain)
        if options.json:
            _print_json({"results": [_plain(one) for one in found], **({"approximate": _plain(opened.ann.facts)} if opened.ann else {})})
        elif not found:
            _tell("nothing matches")
        else:
            _print_table(found)
        if opened.ann and not options.json:
            _say(f"approximate: {opened.ann.facts.words}")
        return 0

    return _main(parser, run, arguments)


def serve(arguments: Sequence[str] | None = None) -> int:
    """``omnivast serve videos/ --model RUN``"""
    parser = _parser("serve", "Serve a folder of videos, pictures and sounds: a page to search it with, and the verbs over HTTP.")
    parser.add_argument("place", type=as_path, help="the folder, whose index is made or brought up to date meanwhile; or an index, which "
                                                    "is served as it is")
    _settings(parser, json=False)
    parser.add_argument("--index", type=as_path, metavar="FOLDER", help="where the index of the folder lies (default: .omnivast inside it)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to answer at (default 127.0.0.1: this machine only); others need "
                                                            "a token in the environment variable OMNIVAST_TOKEN")
    parser.add_argument("--port", type=int, default=8000, help="default 8000")
    parser.add_argument("--uploads", action="store_true", help="let files be added to the folder")
    parser.add_argument("--upload-mb", type=int, metavar="MB", help="the largest request with files (default 2147)")

    def run(options: argparse.Namespace) -> int:
        from omnivast.inference.service.run import TOKEN
        from omnivast.inference.service.run import serve as begin

        begin(options.place, model=options.model or os.environ.get(MODEL), device=options.device, precision=options.precision,
              index=options.index, host=options.host, port=options.port, token=os.environ.get(TOKEN), uploads=options.uploads,
              upload_mb=options.upload_mb, say=_say)
        return 0

    return _main(parser, run, arguments)


def export(arguments: Sequence[str] | None = None) -> int:
    """``omnivast export text.onnx --model RUN``"""
    parser = _parser("export", "Write a model for others: its text tower as ONNX or as a program of torch.export, checked to compute the "
                               "same vectors, its language model, or all of it as a folder to share.")
    parser.add_argument("path", type=as_path, help="the file, .onnx or .pt2, or the folder")
    parser.add_argument("--format", choices=("onnx", "torch", "folder", "adapter", "llm"),
                        help="default: as the path ends; without an ending, folder. Of a model with a language model: adapter, a folder "
                             "for peft; llm, a folder for transformers, the adapter merged")
    parser.add_argument("--licence", help="with a folder: of the model, for its card, such as mit")
    parser.add_argument("--llm-by-path", action="store_true", help="with a folder: name the place of a frozen or adapted language model "
                                                                   "instead of copying it")
    _settings(parser)

    def run(options: argparse.Namespace) -> int:
        whole = (options.format or ("" if options.path.suffix else "folder")) == "folder"
        if options.licence is not None and not whole:
            raise ValueError("--licence goes with a folder, which has a card")
        if options.llm_by_path and not whole:
            raise ValueError("--llm-by-path goes with a folder")
        model = _model(options)
        if options.format in ("adapter", "llm"):
            path = model.export_language_model(options.path, whole=options.format == "llm")
        else:
            path = model.save_pretrained(options.path, licence=options.licence, copy_llm=not options.llm_by_path) if whole else \
                model.export_text(options.path, options.format)
        _print_json({"path": str(path)}) if options.json else _tell(str(path))
        return 0

    return _main(parser, run, arguments)


# ---------------------------------------------------------------------------------------------------------------- options


def _parser(verb: str, does: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m omnivast {verb}", description=does)


def _clips(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", nargs="+", type=as_path, help="files, or folders of them")
    _common(parser)


def _common(parser: argparse.ArgumentParser, group: bool = True) -> None:
    if group:
        parser.add_argument("--group", help="tracks to look at: v (seen), a (heard), s (said), such as va (default: all that the clip has)")
    _settings(parser)


def _settings(parser: argparse.ArgumentParser, json: bool = True) -> None:
    parser.add_argument("--model", help=f"the output folder of a training, a checkpoint, a shared folder, or hf-hub:org/name (default: the "
                                        f"environment variable {MODEL})")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default auto)")
    parser.add_argument("--precision", choices=("auto", "float32", "bf16", "fp16"), help="default: as the model was trained")
    if json:
        parser.add_argument("--json", action="store_true", help="results as JSON on standard output")


def _weights(text: str) -> dict[str, float]:
    """``seen=1,heard=0.5`` → a dict."""
    weights = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{part}': expected seen=1, heard=0.5 or said=0.2, joined by commas") from None
    return weights


def _model(options: argparse.Namespace) -> Any:
    from omnivast.inference.pipeline import load

    place = options.model or os.environ.get(MODEL)
    if not place:
        raise ValueError(f"which model? Name the output folder of a training with --model, or in the environment variable {MODEL}")
    return load(place, device=options.device, precision=options.precision)


def _main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], arguments: Sequence[str] | None) -> int:
    options = parser.parse_args(arguments)
    setup_logging(None).setLevel(logging.WARNING)
    try:
        return run(options)
    except BrokenPipeError:  # a reader that has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, ValueError, ImportError, OSError, RuntimeError) as error:
        if os.environ.get("OMNIVAST_TRACEBACK"):
            raise
        return end_with(f"omnivast: {str(error) or 'stopped'}", 130 if isinstance(error, KeyboardInterrupt) else 2)


# ----------------------------------------------------------------------------------------------------------------- output


def _by_clip(options: argparse.Namespace, do: Callable[[Any], Any], words: Callable[[Any], str]) -> tuple[list[Any], int]:
    """``do`` of every clip, its result told as soon as it is there; the results, and the exit status."""
    from omnivast.data.annotations.own_clips import find_files
    from omnivast.data.media.errors import MediaError
    from omnivast.inference.clips import ClipError
    from omnivast.utils.log import progress

    found = find_files([str(clip) for clip in options.clips])
    paths = [found.root / name for name in found.subtitles]
    results: list[Any] = []
    faults: dict[str, str] = {}
    for path in progress(paths, "reading", unit="clips") if len(paths) > 1 and not sys.stdout.isatty() else paths:
        try:
            results.append(do(path))
        except (MediaError, ClipError) as error:
            faults[str(path)] = str(error)
            continue
        if not options.json:
            words_of_it = words(results[-1])
            _tell(words_of_it if len(paths) == 1 else f"{path.relative_to(found.root)}: {words_of_it}")
    if options.json:
        _print_json({"results": [_plain(one) for one in results], "faults": faults})
    else:
        _print_missing(results)
        _print_faults(faults)
    return results, 1 if faults else 0


def _plain(result: Any) -> dict[str, Any]:
    from omnivast.inference.results import as_json

    return as_json(result)


def _words(text: str) -> str:
    return text or "(no words)"


def _print_missing(results: Sequence[Any]) -> None:
    """What a person must know of results: tracks that clips lack."""
    lacking: dict[str, list[str]] = {}
    for one in results:
        for track in one.missing:
            lacking.setdefault(track, []).append(Path(one.name).name)
    for track, names in lacking.items():
        several = f"{len(names)} of {len(results)} clips have no {track}, such as {names[0]}"
        _say(f"{names[0]} has no {track}" if len(results) == 1 else several)


def _tell(line: str) -> None:
    """A line of the result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _say(note: str) -> None:
    """A line beside the result."""
    if note:
        sys.stderr.write(f"{note}\n")


def _print_json(content: dict[str, Any]) -> None:
    _tell(json.dumps(content, ensure_ascii=False, indent=1 if sys.stdout.isatty() else None))


def _print_faults(faults: dict[str, str]) -> None:
    for path, why in list(faults.items())[:SHOWN_FAULTS]:
        _say(f"not read: {why if path in why else f'{path}: {why}'}")
    if len(faults) > SHOWN_FAULTS:
        _say(f"… and {len(faults) - SHOWN_FAULTS} more files could not be read")


def _print_table(found: Sequence[Any]) -> None:
    """A line for every moment: how sure, where, by which track and second, and what each track alone scores."""
    width = min(60, max(len(one.path) for one in found))
    for place, one in enumerate(found, 1):
        sure = f"{100 * one.probability:3.0f} %" if one.probability is not None else f"{one.score:5.2f}"
        tracks = "  ".join(f"{name} {score:.2f}" for name, score in one.tracks.items())
        at = "" if one.second is None else f" at {_clock(one.second)}"
        why = "" if one.by is None else f"  by {one.by}{at}"
        matched = "" if one.match is None else f"  match {100 * one.match:.0f} %"
        said = f"  “{one.said[:60]}{'…' if len(one.said) > 60 else ''}”" if one.said else ""
        _tell(f"{place:3}  {sure}  {one.path:<{width}}  {_clock(one.start)}–{_clock(one.end)}{matched}{why}  ({tracks}){said}")


def _print_evidence(evidence: Sequence[Any]) -> None:
    for one in evidence:
        what = "frame" if one.track == "seen" else "slice of sound"
        at = "" if one.start is None else f", {_clock(one.start)}–{_clock(one.end)}"
        _tell(f"  {one.track} in {what} {one.number + 1}{at}")
    if evidence:
        _tell(f"  without {'it' if len(evidence) == 1 else 'these'}: {_words(evidence[-1].without)}")
    else:
        _tell("  the answer is the same without frames or slices of sound")


def _clock(seconds: float) -> str:
    """``1:02:03.5``, ``0:07.0``"""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def _save(path: Path, found: Sequence[Any]) -> None:
    groups = dict.fromkeys(key for one in found for key in one.vectors)
    arrays: dict[str, Any] = {"paths": np.array([one.name for one in found])}
    for key in groups:
        width = next(len(one.vectors[key]) for one in found if key in one.vectors)
        arrays[key] = np.stack([one.vectors.get(key, np.full(width, np.nan, np.float32)) for one in found])
    np.savez(path, **arrays)
    _tell(f"{path}: vectors of {len(found)} clips by {', '.join(groups)}")
