"""How well an index of OmniStamps finds: by weights of tracks, in long videos, and when nothing is there to be found.

    python benchmarks/search.py --model output/quickstart/pretrain [--data datasets/omnistamps/quick] [--json out.json]

- **weights**: R@1 of every test text over the test clips by one track, by several, and by weights between, beside the R@1 of the group
  itself (``Pipeline.score``), and the share of texts whose first clip has all facts of the tracks that count;
- **nothing matches**: test texts (their clip is there) against texts about triples of facts that no indexed clip has, which differ from
  some clip in one fact alone ("near") or in two ("far"): area under the ROC curve of the best score, and the share of them for which
  something is found at ``at_most_false`` 1 % and 5 %, before and after ``Index.fit`` on the validation clips;
- **moments**: test clips joined into long videos, in an order drawn from a seed, by hard cuts or by cross-fades; for every clip its text is
  searched, and right is a first result that overlaps the clip's own time, from the middle of one fade to that of the next, by an IoU of at
  least 0.5.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omnivast.corpus.omnistamps.facts import read_stamps  # noqa: E402
from omnivast.corpus.omnistamps.texts import OMNI  # noqa: E402
from omnivast.evaluation.protocol import hardware  # noqa: E402
from omnivast.inference.index.api import Index  # noqa: E402
from omnivast.inference.pipeline import Pipeline, load  # noqa: E402
from omnivast.utils.log import setup_logging  # noqa: E402

WEIGHTS: dict[str, dict[str, float]] = {
    "v": {"seen": 1}, "a": {"heard": 1}, "s": {"said": 1}, "va": {"seen": 1, "heard": 1}, "vs": {"seen": 1, "said": 1},
    "vas": {"seen": 1, "heard": 1, "said": 1}, "v + a/2": {"seen": 1, "heard": 0.5}, "v + s/2": {"seen": 1, "said": 0.5},
    "a + v/2": {"heard": 1, "seen": 0.5}, "v + a/2 + s/4": {"seen": 1, "heard": 0.5, "said": 0.25},
    "s + v/2 + a/4": {"said": 1, "seen": 0.5, "heard": 0.25}, "a + s/2 + v/4": {"heard": 1, "said": 0.5, "seen": 0.25},
    "v + a/5 + s/5": {"seen": 1, "heard": 0.2, "said": 0.2}, "s + v/10 + a/10": {"said": 1, "seen": 0.1, "heard": 0.1},
}
FACTS = {"v": "seen", "a": "heard", "s": "said"}
LENGTHS = (10, 60, 240)
"""Clips of a long video."""
FADES = {0.0: (2.0, 1.0), 0.5: (1.5, 0.5)}
"""Seconds over which one clip of a long video becomes the next (0: a hard cut) → the window and its stride. Clips of 2 s that fade for half
a second have 1.5 s of their own, which begin at any half second."""

log = logging.getLogger("omnivast")


def weights(index: Index, model: Pipeline, texts: list[dict[str, Any]], data: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """R@1 by weights, and by the group of the same tracks."""
    clips = [{"video": data / "clips" / f"{row['video_id']}.mp4", "subtitle": row["subtitle"]} for row in texts]
    rows = []
    known = {group.key for group in model.groups("ret")}
    for name, chosen in WEIGHTS.items():
        if name.isalpha() and name not in known:
            continue
        first = [Path(index.search(row["desc"], top=1, weights=chosen)[0].path).stem for row in texts]
        right = [one == row["video_id"] for one, row in zip(first, texts)]
        tracks = [FACTS[letter] for letter in "vas" if FACTS[letter] in chosen]
        all_facts = [all(facts[one][track] == facts[row["video_id"]][track] for track in tracks) for one, row in zip(first, texts)]
        found: dict[str, Any] = {"weights": name, "r1": _percent(right), "facts": _percent(all_facts)}
        if name.isalpha():
            scores = model.score([row["desc"] for row in texts], clips, group=name)
            found["group_r1"] = _percent(scores.argmax(1) == np.arange(len(texts)))
        rows.append(found)
    return rows


def nothing(index: Index, texts: list[dict[str, Any]], absent: dict[str, list[str]]) -> dict[str, Any]:
    """Texts of clips that are there beside texts of clips that are not."""
    sure: dict[str, list[tuple[float, float]]] = {}
    for name, some in {"present": [row["desc"] for row in texts], **absent}.items():
        sure[name] = [(one.score, one.probability or 0.0) for one in (index.search(text, top=1)[0] for text in some)]
    best, probability = ({name: np.array([pair[n] for pair in own]) for name, own in sure.items()} for n in range(2))
    found: dict[str, Any] = {name: len(own) for name, own in sure.items()}
    for name in absent:
        above, equal = (compare(best["present"][:, None], best[name]).mean() for compare in (np.greater, np.equal))
        found[f"auc_{name}"] = round(float(above + equal / 2), 4)
    for share in (0.01, 0.05):  # as at_most_false leaves out
        found |= {f"found_{name}_at_{share:g}": _percent(1 - own <= share) for name, own in probability.items()}
    return found


def absent_texts(clips: list[dict[str, Any]], known: set[tuple[str, str, str]], data: Path, count: int = 400) -> dict[str, list[str]]:
    """Texts about facts of ``clips``, each seen, heard or said in some of them, in triples that neither they nor ``known`` have: "near"
    ones share two facts with some clip, "far" ones at most one."""
    stamps, rng = read_stamps(data.parent), random.Random(0)
    there = [_stamps(clip) for clip in clips]
    pairs = {pair for triple in there for pair in _pairs(triple)}
    found: dict[str, dict[str, None]] = {"near": {}, "far": {}}
    while any(len(texts) < count for texts in found.values()):
        facts = [rng.choice(there)[fact] for fact in range(3)]
        if len(found["near"]) < count:  # one fact of a clip is another's
            (place,), facts = rng.sample(range(3), 1), [*rng.choice(there)]
            facts[place] = rng.choice(there)[place]
        triple = (facts[0], facts[1], facts[2])
        if triple in known or triple in there:
            continue
        near = any(pair in pairs for pair in _pairs(triple))
        seen, heard, said = (stamps[name].phrase for name in triple)
        texts = found["near" if near else "far"]
        if len(texts) < count:
            texts[rng.choice(OMNI).format(seen=seen, heard=heard, said=said)] = None
    return {name: list(texts) for name, texts in found.items()}


def moments(model: Pipeline, texts: list[dict[str, Any]], data: Path, count: int, videos: int, fade: float) -> dict[str, Any]:
    """``videos`` long videos of ``count`` clips each, indexed, and every clip searched by its text among all of them."""
    order = texts * -(-count * videos // len(texts))
    random.Random(count).shuffle(order)
    with tempfile.TemporaryDirectory(prefix="omnivast_") as folder:
        truth: list[tuple[str, str, float, float]] = []
        for number in range(videos):
            own = order[number * count : (number + 1) * count]
            ends = join([data / "clips" / f"{row['video_id']}.mp4" for row in own], [row["subtitle"] for row in own],
                        Path(folder, f"{number}.mp4"), fade)
            truth += [(row["desc"], f"{number}.mp4", start, end) for row, (start, end) in zip(own, ends)]
        began = time.perf_counter()
        index = Index(folder, model, window=FADES[fade][0], stride=FADES[fade][1])
        seconds = time.perf_counter() - began
        results = []
        for text, path, start, end in truth:
            (best,) = index.search(text, top=1)
            overlap = max(0.0, min(end, best.end) - max(start, best.start)) if best.path == path else 0.0
            iou = overlap / (max(end, best.end) - min(start, best.start)) if overlap else 0.0
            results.append((iou, abs(best.start - start) + abs(best.end - end)))
        minutes = sum(end - start for _, _, start, end in truth) / 60
        close = [error / 2 for iou, error in results if iou >= 0.5]
        return {"fade_s": fade, "clips_per_video": count, "videos": videos, "moments": len(index),
                **{f"r1_iou_{least}": _percent([iou >= least for iou, _ in results]) for least in (0.5, 0.7)},
                "boundary_error_s": round(float(np.mean(close)), 3) if close else None,
                "minutes_per_minute": round(minutes / (seconds / 60), 1)}


def join(paths: Sequence[Path], words: Sequence[str], output: Path, fade: float = 0.0) -> list[tuple[float, float]]:
    """Write one video of several clips of one size, each becoming the next over ``fade`` seconds (0: cut to cut), with its subtitles beside
    it; (start, end) of each part, which meet in the middle of a fade."""
    spans: list[tuple[float, float]] = []
    with av.open(str(output), "w") as target:
        video: Any = None
        sound: Any = None
        shown = heard = 0
        before: tuple[np.ndarray, np.ndarray] | None = None  # the pictures and the sound of the last clip's end, which are still to fade
        for number, path in enumerate(paths):
            pictures, samples, fps, rate = _read(path)
            if video is None:
                video = target.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
                video.height, video.width, video.pix_fmt = *pictures.shape[1:3], "yuv420p"
                sound = target.add_stream("aac", rate=rate, layout="mono")
            over = round(fade * fps)
            both = int(over * rate / fps)
            if before is not None:
                pictures[:over] = _faded(before[0], pictures[:over]).round()
                samples[:both] = _faded(before[1], samples[:both])
            begin = shown + (over / 2 if number else 0)
            last = number + 1 == len(paths) or not over
            before = None if last else (pictures[-over:].copy(), samples[-both:].copy())
            for picture in pictures if last else pictures[:-over]:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = shown, 1 / fps
                shown += 1
                target.mux(video.encode(frame))
            spans.append((begin / float(fps), (shown + (0 if last else over / 2)) / float(fps)))
            samples = samples if last else samples[:-both]
            for start in range(0, len(samples), 1024):
                piece = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
                piece.sample_rate, piece.pts = rate, heard
                heard += piece.samples
                target.mux(sound.encode(piece))
        target.mux([*video.encode(None), *sound.encode(None)])
    cues = [f"{n}\n{_clock(start)} --> {_clock(end)}\n{text}\n" for n, ((start, end), text) in enumerate(zip(spans, words), 1)]
    output.with_suffix(".srt").write_text("\n".join(cues))
    return spans


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, Fraction, int]:
    """(pictures (F, H, W, 3) uint8, samples (S,) float32 as long as these, frames and samples a second) of a clip."""
    with av.open(str(path)) as source:
        fps, rate = source.streams.video[0].average_rate or Fraction(25), source.streams.audio[0].rate
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)])
    with av.open(str(path)) as source:
        samples = np.concatenate([frame.to_ndarray().mean(0) for frame in source.decode(audio=0)])
    wanted = round(len(pictures) / fps * rate)
    return pictures, np.pad(samples[:wanted], (0, max(0, wanted - len(samples)))).astype(np.float32), fps, rate


def _faded(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What goes over what comes, along the first axis."""
    share = (np.arange(1, len(after) + 1) / (len(after) + 1)).reshape(-1, *[1] * (after.ndim - 1))
    return (1 - share) * before + share * after


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{round(1000 * (seconds - whole)):03}"


def _pairs(triple: tuple[str, str, str]) -> list[tuple[int, tuple[str, ...]]]:
    """The pairs of facts in a triple: (which is left out, the others)."""
    return [(left_out, triple[:left_out] + triple[left_out + 1 :]) for left_out in range(3)]


def _percent(values: Any) -> float:
    return round(100.0 * float(np.mean(np.asarray(values, dtype=float))), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, default=Path("datasets/omnistamps/quick"))
    parser.add_argument("--only", nargs="+", choices=("weights", "nothing", "moments"), default=["weights", "nothing", "moments"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    setup_logging(None)
    model = load(options.model)
    texts = json.loads((options.data / "ret_test.json").read_text())
    facts = {clip["clip_id"]: clip for clip in json.loads((options.data / "clips.json").read_text())}
    result: dict[str, Any] = {"machine": hardware(), "precision": model.parts.config.run_cfg.precision}
    with tempfile.TemporaryDirectory(prefix="omnivast_") as folder:
        began = time.perf_counter()
        index = Index(options.data / "ret_test.json", model, media=options.data / "clips", folder=folder)
        result["index"] = {"clips": len(index), "seconds": round(time.perf_counter() - began, 1)}
        if "weights" in options.only:
            result["weights"] = weights(index, model, texts, options.data, facts)
        if "nothing" in options.only:
            tested = [facts[row["video_id"]] for row in texts]
            absent = absent_texts(tested, {_stamps(clip) for clip in facts.values()}, options.data)
            result["nothing"] = {"background": nothing(index, texts, absent)}
            fit = index.fit(options.data / "cap_val.json", media=options.data / "clips")
            result["nothing"] |= {"fitted": nothing(index, texts, absent), "rerank": asdict(fit) if fit else None}
    if "moments" in options.only:
        result["moments"] = [moments(model, texts, options.data, count, max(1, 240 // count), fade)
                             for fade in FADES for count in LENGTHS]
    text = json.dumps(result, indent=1)
    log.info("%s", text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


def _stamps(clip: dict[str, Any]) -> tuple[str, str, str]:
    stamps = clip["stamps"]
    return stamps["seen"], stamps["heard"], stamps["said"]


if __name__ == "__main__":
    sys.exit(main())
