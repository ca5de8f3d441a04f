"""Captions by a model of transformers that turns a picture into text: BLIP, BLIP-2, GIT, ViT-GPT2 and the like, and chat models that see.
Those that write captions alone are not told anything; chat models are asked by the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from omnivast.config.paths import as_path
from omnivast.corpus.captions.frames import pictures
from omnivast.corpus.captions.prompts import Knowledge, prompt_hash
from omnivast.corpus.captions.teachers import Teacher, TeacherError
from omnivast.corpus.engine.here import batches
from omnivast.corpus.engine.results import Row
from omnivast.data.media.errors import MediaError
from omnivast.utils.machine import cores
from omnivast.utils.random import stable_seed

BATCH = 8
READERS = 4
BEAMS = 3
TOP_K = 10


class PictureCaptioner:
    """A loaded model. One caption of a clip is the best of a beam search, several are drawn by top-k sampling, keyed by the clip."""

    def __init__(self, teacher: Teacher, root: Path) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        folder = as_path(teacher.folder or "")
        try:
            model: Any = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
            try:
                self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
            except (OSError, ValueError, KeyError):
                self._processor = None
            if not hasattr(self._processor, "image_processor"):  # of some models each half lies there alone
                self._processor = None
                self._images: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
                self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            else:
                self._images, self._tokenizer = self._processor, self._processor.tokenizer
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise TeacherError(f"the captioner '{teacher.name}': {folder} holds no model of transformers that turns pictures into text: "
                               f"{(str(error).splitlines() or [''])[0]}") from None
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._chats = self._processor is not None and bool(getattr(self._processor, "chat_template", None))
        if not self._chats and (teacher.inputs or teacher.pictures > 1):
            raise TeacherError(f"the captioner '{teacher.name}' writes captions of one picture alone: it takes neither inputs nor more "
                               "pictures")
        self._teacher, self._root = teacher, root
        self._known = Knowledge(root, teacher.inputs)

    def __call__(self, clips: Sequence[Row], there: int) -> Iterator[Row]:
        """A row of each clip behind the first ``there``."""
        # Chat models, whose prompts differ in length, and draws, which have a seed for each clip, are one by one.
        size = BATCH if not self._chats and self._teacher.number == 1 else 1
        todo = list(batches(clips, there, size))
        with ThreadPoolExecutor(min(READERS, cores())) as readers:
            ahead = [readers.map(self._read, batch) for batch, _ in todo[:READERS]]
            for number, (batch, done) in enumerate(todo):
                ahead += [readers.map(self._read, following) for following, _ in todo[number + READERS : number + READERS + 1]]
                yield from self._rows(batch, list(ahead.pop(0)))[done:]

    def _read(self, clip: Row) -> list[Image.Image] | MediaError:
        try:
            return pictures(self._root, clip, self._teacher.pictures, self._teacher.seed)
        except MediaError as error:
            return error

    def _rows(self, clips: Sequence[Row], read: Sequence[list[Image.Image] | MediaError]) -> list[Row]:
        seen = [(clip, own) for clip, own in zip(clips, read) if not isinstance(own, MediaError)]
        captions = self._captions(seen) if seen else {}
        return [{"id": clip["id"], "failed": own.reason} if isinstance(own, MediaError) else
                {"id": clip["id"], "captions": captions[clip["id"]]} if captions[clip["id"]] else {"id": clip["id"], "failed": "no words"}
                for clip, own in zip(clips, read)]

    @torch.inference_mode()
    def _captions(self, seen: Sequence[tuple[Row, list[Image.Image]]]) -> dict[str, list[Row]]:
        teacher, template = self._teacher, None
        if self._chats:
            text, template = self._known.prompt(seen[0][0], teacher.pictures == 1)
            content = [*({"type": "image", "image": picture} for picture in seen[0][1]), {"type": "text", "text": text}]
            inputs = self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True,
                                                         return_dict=True, return_tensors="pt")
        else:
            inputs = {"pixel_values": self._images(images=[own[0] for _, own in seen], return_tensors="pt")["pixel_values"]}
        inputs = {name: value.to(self._model.device) for name, value in inputs.items()}
        drawn = teacher.number > 1
        how: dict[str, Any] = {"do_sample": False, "num_beams": BEAMS}
        if drawn:
            how = {"do_sample": True, "top_k": TOP_K, "num_return_sequences": teacher.number}
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(stable_seed(teacher.seed, "captions", teacher.name, seen[0][0]["id"]))
            told = self._model.generate(**inputs, **how, max_new_tokens=teacher.tokens, return_dict_in_generate=True, output_scores=True)
        scores = self._scores(told, drawn)
        start = inputs["input_ids"].shape[1] if self._chats else 0
        texts = self._tokenizer.batch_decode(told.sequences[:, start:], skip_special_tokens=True)
        found: dict[str, list[Row]] = {clip["id"]: [] for clip, _ in seen}
        for place, (text, score) in enumerate(zip(texts, scores)):
            if words := " ".join(text.split()):
                found[seen[place // teacher.number][0]["id"]].append(
                    {"kind": "vision", "text": words, "by": teacher.name, "model": Path(teacher.folder or "").name,
                     "prompt": template and prompt_hash(template), "seed": teacher.seed, "score": round(score, 4)})
        return found

    def _scores(self, told: Any, drawn: bool) -> list[float]:
        """The log-probability of each text; of a beam search over its length, which is what it orders by."""
        if not drawn:
            return told.sequences_scores.tolist()
        each = self._model.compute_transition_scores(told.sequences, told.scores, normalize_logits=True)
        return each.masked_fill(each.isinf(), 0).sum(1).tolist()
