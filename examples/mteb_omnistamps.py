"""MTEB's harness, unmodified, on OmniStamps: texts find clips by what is seen, heard and said.

    pip install "omnivast[sentence-transformers]" mteb
    python examples/mteb_omnistamps.py output/quickstart/ret datasets/omnistamps/quick

A document is the path of a clip, which the model opens itself: MTEB's video columns hand over frames that it has chosen, and have no place
for what is said. What is said lies beside each clip as a text file, in a folder made for the test.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import mteb
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from datasets import Dataset
from omnivast.inference.sentence_transformers import sentence_transformer


class OmniStamps(AbsTaskRetrieval):
    """Every test text of a set made by ``omnivast omnistamps`` against all its test clips."""

    metadata = TaskMetadata(
        name="OmniStamps", description="Clips with a fact each in pictures, sound and subtitle, found by texts that name all three.",
        dataset={"path": "made on this machine", "revision": "1"}, type="Retrieval", category="t2t", modalities=["text"],
        eval_splits=["test"], eval_langs=["eng-Latn"], main_score="recall_at_1", domains=["Constructed"])

    def __init__(self, data: Path, folder: Path, **settings: Any) -> None:
        """``data``: the set; ``folder``: where links to its clips, and what is said in them, are written."""
        super().__init__(**settings)
        self.data, self.folder = data, folder

    def load_data(self, **_: Any) -> None:
        """Called by the harness."""
        rows = json.loads((self.data / "ret_test.json").read_text())
        paths = [self.folder / f"{row['video_id']}.mp4" for row in rows]
        for row, path in zip(rows, paths):
            path.symlink_to((self.data / "clips" / path.name).resolve())
            path.with_suffix(".txt").write_text(row["subtitle"])
        clips = [{"id": path.stem, "text": str(path)} for path in paths]
        queries = [{"id": f"text of {row['video_id']}", "text": row["desc"]} for row in rows]
        right = {query["id"]: {clip["id"]: 1} for query, clip in zip(queries, clips)}
        self.dataset = {"default": {"test": {"corpus": Dataset.from_list(clips), "queries": Dataset.from_list(queries),
                                             "relevant_docs": right, "top_ranked": None}}}
        self.data_loaded = True


def evaluate(model: str, data: str) -> dict[str, Any]:
    """The scores of one model, as MTEB names them."""
    with tempfile.TemporaryDirectory(prefix="omnivast_") as folder:
        task = OmniStamps(Path(data), Path(folder))
        found = mteb.evaluate(sentence_transformer(model), [task], cache=None, encode_kwargs={"batch_size": 64})
        return dict(found.task_results[0].scores["test"][0])


if __name__ == "__main__":
    scores = evaluate(*sys.argv[1:3])
    print({name: scores[name] for name in ("recall_at_1", "recall_at_5", "recall_at_10", "ndcg_at_10")})
