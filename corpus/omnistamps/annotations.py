"""Facts and texts -> the annotation files of a set, as plain data ready to be written as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from omnivast.corpus.omnistamps.facts import SPLITS, Clip, Stamp
from omnivast.corpus.omnistamps.texts import ClipTexts

Row = dict[str, object]


def annotation_files(clips: Sequence[Clip], texts: dict[str, ClipTexts], stamps: dict[str, Stamp]) -> dict[str, object]:
    """File name -> content, for all annotation files of a set."""
    files: dict[str, object] = {"clips.json": [_truth(clip, stamps) for clip in clips]}
    for split in SPLITS:
        own = [(clip.clip_id, texts[clip.clip_id]) for clip in clips if clip.split == split]
        files[f"ret_{split}.json"] = [{"video_id": i, "desc": t.omni[0], "subtitle": t.subtitle} for i, t in own]
        files[f"cap_{split}.json"] = [{"video_id": i, "desc": list(t.omni), "subtitle": t.subtitle} for i, t in own]
        if split == "train":
            files["pretrain_train.json"] = [_pretraining(i, t) for i, t in own]
            files["qa_train.json"] = [row for i, t in own for row in _single_questions(i, t)]
        else:
            files[f"qa_{split}.json"] = [_all_questions(i, t) for i, t in own]
            files[f"cap_{split}_references.json"] = _references(own)
    return files


def training_texts(files: dict[str, object]) -> list[str]:
    """Every text that some training file holds, for the vocabulary."""
    found: list[str] = []
    for name in ("pretrain_train.json", "ret_train.json", "cap_train.json", "qa_train.json"):
        for row in files[name]:  # type: ignore[attr-defined]
            for key in ("vision_cap", "audio_cap", "vast_cap", "desc", "subtitle", "question", "answer"):
                value = row.get(key, [])
                found.extend([value] if isinstance(value, str) else value)
    return found


def _truth(clip: Clip, stamps: dict[str, Stamp]) -> Row:
    """The facts in the words of the texts, and the names of the stamps they come from."""
    return {
        "clip_id": clip.clip_id,
        "split": clip.split,
        "seen": stamps[clip.seen].noun,
        "motion": clip.motion,
        "background": clip.background,
        "heard": stamps[clip.heard].noun,
        "said": stamps[clip.said].noun,
        "number": clip.number,
        "stamps": {"seen": clip.seen, "heard": clip.heard, "said": clip.said},
    }


def _pretraining(clip_id: str, texts: ClipTexts) -> Row:
    return {
        "clip_id": clip_id,
        "vision_cap": list(texts.vision),
        "audio_cap": list(texts.audio),
        "vast_cap": texts.omni[1],
        "subtitle": texts.subtitle,
    }


def _single_questions(clip_id: str, texts: ClipTexts) -> list[Row]:
    return [
        {"video_id": clip_id, "question": q.question, "answer": q.answer, "question_type": q.question_type, "subtitle": texts.subtitle}
        for q in texts.questions
    ]


def _all_questions(clip_id: str, texts: ClipTexts) -> Row:
    return {
        "video_id": clip_id,
        "question": [q.question for q in texts.questions],
        "answer": [q.answer for q in texts.questions],
        "question_type": [q.question_type for q in texts.questions],
        "subtitle": texts.subtitle,
    }


def _references(clips: Sequence[tuple[str, ClipTexts]]) -> dict[str, object]:
    """The captions in the format of COCO's caption evaluation."""
    captions = [(clip_id, caption) for clip_id, texts in clips for caption in texts.omni]
    return {
        "info": {"description": "OmniStamps omni captions"},
        "licenses": [],
        "type": "captions",
        "images": [{"id": clip_id} for clip_id, _ in clips],
        "annotations": [{"id": n, "image_id": clip_id, "caption": caption} for n, (clip_id, caption) in enumerate(captions)],
    }
