"""A quickstart's folders with made-up results, for tests of its summary."""

from __future__ import annotations

import json
import random
from pathlib import Path

import av
import numpy as np

GROUPS = ("tv", "ta", "ts", "tva", "tvs", "tvas")
NOUNS = ("electric guitar", "cow", "dog", "drum kit", "cat", "owl")


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def make_data(data: Path, clips: int = 6) -> None:
    """A set of ``clips`` test clips with tiny videos."""
    rows = [
        {"clip_id": f"test{n}", "split": "test", "seen": NOUNS[n % 6], "motion": "left", "background": "red", "heard": NOUNS[(n + 1) % 6],
         "said": NOUNS[(n + 2) % 6], "number": "two"} for n in range(clips)
    ]
    roles = ("seen", "heard", "said")
    write(data / "clips.json", [{**row, "stamps": {role: row[role].replace(" ", "_") for role in roles}} for row in rows])
    write(data / "build.json", {"size": "quick"})
    ceilings = {group[1:]: {"r1": 10.0 * len(group), "r5": 90.0, "r10": 100.0} for group in GROUPS}
    write(data / "ceilings.json", {"clips": clips, "chance": {"r1": 1.0}, **ceilings})
    write(data / "ret_test.json", [{"video_id": r["clip_id"], "desc": f"a {r['seen']}", "subtitle": f"we met a {r['said']}"} for r in rows])
    answers = ["cow", "cow", "dog"]
    write(data / "qa_train.json", [{"video_id": "x", "question": "q", "answer": a, "question_type": "vision"} for a in answers]
          + [{"video_id": "x", "question": "q", "answer": "owl", "question_type": "audio"}])
    (data / "clips").mkdir(exist_ok=True)
    for number, row in enumerate(rows):
        with av.open(str(data / "clips" / f"{row['clip_id']}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for step in range(4):
                pixels = np.full((32, 32, 3), 20 * number + 5 * step, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())


def make_results(folder: Path, data: Path) -> None:
    """Training logs and test results of every stage."""
    rng = random.Random(0)
    rows = [row for row in json.loads((data / "clips.json").read_text()) if row["split"] == "test"]
    texts = {row["video_id"]: row for row in json.loads((data / "ret_test.json").read_text())}
    for number, stage in enumerate(("pretrain", "ret", "cap", "qa")):
        names = (["itc", "itm", "cap"], ["itc", "itm"], ["cap"], ["qa"])[number]
        lines = []
        for step in range(1, 301):
            losses = {name: (4 - k) * 0.99**step + 0.3 + 0.1 * rng.random() for k, name in enumerate(names)}
            lines.append(json.dumps({"step": step, "corpus": "toy", "loss": sum(losses.values()), "losses": losses, "lr": {"text": 1e-4}}))
        write(folder / stage / "log" / "hps.json", {})
        (folder / stage / "log" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    protocol = {"clips": len(rows), "split_file": "test.json", "versions": {"python": "3.11"}, "checkpoint_sha256": "ab" * 32}
    ids = [row["clip_id"] for row in rows]

    def recalls(base: float) -> dict[str, float]:
        return {"r1": base, "r5": min(100.0, base * 2), "r10": min(100.0, base * 3), "median_rank": 3.0, "mean_rank": 7.0}

    ret = {"protocol": protocol, "metrics": {g: {"itm": recalls(12.0 * len(g)), "itc": recalls(10.0 * len(g))} for g in GROUPS}}
    ret["predictions"] = []
    for row in rows:
        top = rng.sample([i for i in ids if i != row["clip_id"]], min(5, len(ids) - 1))
        top[rng.randrange(len(top))] = row["clip_id"]
        ranks = {"itc_rank": 4, "itm_rank": top.index(row["clip_id"]) + 1, "top": top, "itc_top": top[::-1]}
        ret["predictions"].append({"text": texts[row["clip_id"]]["desc"], "clip_id": row["clip_id"], **dict.fromkeys(GROUPS, ranks)})
    cap = {"protocol": protocol, "metrics": {g: {"cider": 80.0 + len(g), "bleu4": 30.0, "rougeL": 50.0} for g in GROUPS}, "predictions": []}
    for row in rows:
        full = f"a {row['seen']} is seen while a {row['heard']} is heard and someone talks about a {row['said']}"
        captions = {**dict.fromkeys(GROUPS, f"a {row['seen']}"), "tvas": full}
        cap["predictions"].append({"clip_id": row["clip_id"], "references": [full, full], **captions})
    qa = {"protocol": protocol, "metrics": {"tvas": {"accuracy": 75.0, "types": {}}}, "predictions": []}
    for row in rows:
        for kind, fact in (("vision", "seen"), ("audio", "heard")):
            qa["predictions"].append({"clip_id": row["clip_id"], "question": f"what is {fact}?", "answer": row[fact], "type": kind,
                                      "tvas": f" {row[fact]} " if kind == "audio" else "cow"})
    for objective, result in (("ret", ret), ("cap", cap), ("qa", qa)):
        write(folder / f"test_{objective}" / "results" / f"omnistamps.{objective}.json", result)
    write(folder / "seconds.json", {"clips": 20.5, "pretrain": 200.0})
