"""A few generated clips in the shape that each benchmark's annotations and media have, laid out where the recipes look for them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from PIL import Image

from omnivast.config.schema import DatasetConfig
from omnivast.config.tasks import Modality, Objective, Task
from tests.media_factory import write_frames, write_image, write_json, write_video, write_wav

CLIPS = 4
# How a benchmark names its clips, with its files' extension.
NAMES = {
    "msrvtt": ("video{}", ".mp4"), "vatex": ("G9zN5TTuGO4_00017{}_000189", ".mp4"), "activitynet": ("v_1QIUV7WYKX{}", ".mkv"),
    "didemo": ("26292851@N04_425348968{}_265c3c8051", ".mp4"), "youcook": ("GLd3aX16zBg_9{}_102", ".webm"),
    "audiocaps": ("GOD8Bt5LfDE_10{}.000_110.000", ".wav"), "lsmdc": ("1004_Juno_00.00.3{}.306-00.00.40.987", ".avi"),
    "tv": ("friends_s01e03_seg02_clip_19%16.4{}%33.87", ""), "mscoco": ("COCO_val2014_00000039176{}.jpg", ""),
    "flickr": ("flickr30k-images/9723378{}.jpg", ""), "clothov1": ("Toys of the 8{}'s", ".wav"), "clothov2": ("Toys of the 8{}'s.wav", ""),
    "tgif": ("tumblr_nd746kRp{}", ".gif"), "vast27m": ("09WssDay9FE_{}", ".mp4"), "laion110m": ("00000/00000000{}", ".webp"),
}
LISTS = ("vatex", "audiocaps", "mscoco", "flickr", "clothov1", "clothov2", "lsmdc")
"""Whose retrieval tests have several captions per clip, or lists of one."""
CAPTIONS = ["a man is playing the piano", "two dogs run through the street .", "a red car", "a woman cuts onions"]
SUBTITLES = [" you", "", "no no the car", None]
QUESTIONS = ["what is the man doing", "who is running ?", "what color is the car", "where is the woman"]
ANSWERS = ["piano", "dogs", "red", "2"]


def make_media(folder: Path) -> dict[str, list[Path]]:
    """``CLIPS`` of each kind, once for all recipes."""
    return {
        "video": [write_video(folder / f"{i}.mp4", frames=4, size=32, hertz=200 + 90 * i, sound=i != 1) for i in range(CLIPS)],
        "gif": [_write_gif(folder / f"{i}.gif", level=50 * i) for i in range(CLIPS)],
        "sound": [write_wav(folder / f"{i}.wav", seconds=0.5, hertz=200 + 90 * i) for i in range(CLIPS)],
        "image": [write_image(folder / f"{i}.jpg", (40, 30), 50 * i) for i in range(CLIPS)],
        "frames": [write_frames(folder / f"frames{i}", frames=3, size=24) for i in range(CLIPS)],
    }


def _write_gif(path: Path, level: int) -> Path:
    frames = [Image.new("P", (32, 24), level + step) for step in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    return path


def lay_out(root: Path, dataset: DatasetConfig, media: dict[str, list[Path]], training: bool) -> None:
    """Write the annotations of one corpus under ``root`` and link the media into its folders."""
    corpus = Path(dataset.txt).parent.name
    name, extension = NAMES.get("mscoco" if corpus == "vqav2" else corpus, (f"{corpus}_{{}}", ""))
    ids = [name.format(i) for i in range(CLIPS)]
    seen = {"video_rawvideo": "gif" if extension == ".gif" else "video", "video_frame": "frames", "image_rawimage": "image"}
    for folder, kind in ((dataset.vision, seen[dataset.vision_format]), (dataset.audio, "sound")):
        for clip_id, source in zip(ids, media[kind] if folder else ()):
            ending = source.suffix if folder == dataset.audio and dataset.vision else extension
            link = root / str(folder) / (clip_id + (ending or ("" if clip_id[-4:] in (".jpg", ".wav") else source.suffix)))
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(source)
    captions = Path(dataset.txt).name.startswith("captions")
    write_json(root / dataset.txt, rows(corpus, ids, Task.parse(dataset.task), training, captions))
    if dataset.annfile:
        key = "image_id" if dataset.vision_format == "image_rawimage" else "video_id"
        write_json(root / dataset.annfile, {"images": [], "annotations": [
            {key: clip_id, "caption": caption, "id": n} for n, (clip_id, caption) in enumerate(zip(ids, CAPTIONS))]})


REGION = "%width20%height16%x4%y6"
"""What the ids of Visual Genome's regions say behind the picture's."""


def lay_out_by_id(root: Path, dataset: DatasetConfig, media: dict[str, list[Path]]) -> None:
    """The same of one corpus in the form of VALOR's release: a list of ids, an object of their texts, folders of frames, sounds."""
    corpus = str(dataset.ids_path).split("/")[1]
    ids = [f"{corpus}_{i}{REGION if corpus == 'vg' else ''}" for i in range(CLIPS)]
    image = dataset.vision_format == "image_rawimage"
    for folder, kind in ((dataset.vision, "image" if image else "frames"), (dataset.audio, "sound")):
        for clip_id, source in zip(ids, media[kind] if folder else ()):
            link = root / str(folder) / (clip_id.removesuffix(REGION) + source.suffix)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(source)
    write_json(root / str(dataset.ids_path), ids)
    if "qa" in dataset.task:
        answered = dataset.training or corpus != "mscoco"  # those of VQAv2's test are not public
        asked = [{"question": question, **({"answer": answer} if answered else {}), "question_id": n}
                 for n, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS))]
        texts: dict[str, Any] = {clip_id: asked[: 1 + i] for i, clip_id in enumerate(ids)}
    else:
        texts = {clip_id: CAPTIONS[i] if corpus == "webvid" else several(i, 2) for i, clip_id in enumerate(ids)}
    write_json(root / dataset.txt, texts)
    if dataset.annfile:
        key = "image_id" if image else "video_id"
        write_json(root / dataset.annfile, {"annotations": [{key: clip_id, "caption": CAPTIONS[n]} for n, clip_id in enumerate(ids)]})


def rows(corpus: str, ids: Sequence[str], task: Task, training: bool, captions: bool = False) -> list[dict[str, Any]]:
    """An annotation file of ``corpus``; ``captions``: of conversations, those of stage 1."""
    if corpus == "yourdata":
        return [{"video_id": clip_id} for clip_id in ids]
    if corpus == "vast27m":
        return [{"clip_id": clip_id, "vision_cap": several(i, 5), "audio_cap": several(i + 1, 5), "vast_cap": CAPTIONS[i],
                 "subtitle": SUBTITLES[i] or ""} for i, clip_id in enumerate(ids)]
    if corpus in ("cc4m", "cc12m", "laion102m", "laion110m"):
        return [{"image": clip_id, "caption": CAPTIONS[i]} for i, clip_id in enumerate(ids)]
    if Objective.CHAT in task.objectives:
        return _with_subtitles(_conversations(ids, captions), task)
    key = "image_id" if corpus in ("mscoco", "flickr", "vqav2") else "id" if corpus == "wavcaps" else "video_id"
    if Objective.QA in task.objectives:
        return _questions(corpus, key, ids, task, training)
    caption = "caption" if corpus in ("audiocaps", "clothov1", "clothov2", "wavcaps") else "desc"
    number = 1 if corpus == "lsmdc" else 3
    lists = not training and (Objective.CAPTION in task.objectives or corpus in LISTS)
    found: list[dict[str, Any]] = [{key: clip_id, caption: several(i, number) if lists else CAPTIONS[i]} for i, clip_id in enumerate(ids)]
    if training:
        # A row per caption, as the release's training files have it; some people use the same words.
        found += [{key: ids[0], caption: "someone plays"}, dict(found[0])]
    return _with_subtitles(found, task)


def _questions(corpus: str, key: str, ids: Sequence[str], task: Task, training: bool) -> list[dict[str, Any]]:
    if corpus == "vqav2":
        return [{key: clip_id, "question": QUESTIONS[i], "answer": [ANSWERS[i]] * 7 + ["yes"] * 3, "question_id": 4580 + i}
                for i, clip_id in enumerate(ids)]
    if corpus == "avssd":
        return [{key: clip_id, "question": "Identify the event in the video.", "answer": ANSWERS[i]} for i, clip_id in enumerate(ids)]
    if training:
        found = [{key: clip_id, "question": question, "answer": ANSWERS[i]} for i, clip_id in enumerate(ids) for question in QUESTIONS[:2]]
    elif corpus in ("tgif", "music"):
        found = [{key: clip_id, "question": [question], "answer": [ANSWERS[i]]} for i, clip_id in enumerate(ids) for question in QUESTIONS]
    else:
        found = [{key: clip_id, "question": QUESTIONS, "answer": ANSWERS} for clip_id in ids]
    return _with_subtitles(found, task)


def _conversations(ids: Sequence[str], captions: bool) -> list[dict[str, Any]]:
    """Captions, or from one to four turns about a clip."""
    if captions:
        return [{"video_id": clip_id, "desc": CAPTIONS[i]} for i, clip_id in enumerate(ids)]
    return [{"video_id": clip_id, "messages": [{"role": role, "content": text} for n in range(i + 1)
                                               for role, text in (("user", QUESTIONS[n]), ("assistant", ANSWERS[n]))]}
            for i, clip_id in enumerate(ids)]


def _with_subtitles(found: list[dict[str, Any]], task: Task) -> list[dict[str, Any]]:
    """With words, empty, or absent."""
    if Modality.SUBTITLE in task.modalities:
        for row, subtitle in zip(found, cycle(SUBTITLES)):
            if subtitle is not None:
                row["subtitle"] = subtitle
    return found


def several(first: int, number: int) -> list[str]:
    return list(islice(cycle(CAPTIONS), first, first + number))
