"""Speech → words with times: by a command of the user's, by Whisper of transformers, or by faster-whisper."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import wave
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from omnivast.config.extras import import_extra
from omnivast.config.paths import as_path
from omnivast.corpus.plan import BuildError
from omnivast.corpus.subtitles.cues import Cue, Subtitles, clean, language_of
from omnivast.corpus.subtitles.files import cues_of_json
from omnivast.corpus.subtitles.voice import RATE, Stretch, Voice

WHISPER, FASTER = "whisper:", "faster-whisper:"
BATCH = 8
"""Stretches that Whisper is given at once."""
GAP = 0.5
"""Seconds of silence between the stretches that a command is given."""
LOOPS = 2.4
"""A text that zlib packs by more than this repeats itself, as Whisper does where it understands nothing (its own threshold)."""
PATIENCE = 600.0
"""Seconds that a command may take, and ten for each that it is given."""


class SpeechError(RuntimeError):
    """Speech that could not be recognised; the message is the reason, without names, so that equal ones can be counted."""


class SpeechSetupError(BuildError):
    """A recogniser that there is not; the message says what was expected."""


class Recogniser(Protocol):
    """Gives words for stretches of one source, with times in seconds of each stretch."""

    def words(self, stretches: Sequence[Stretch], language: str | None) -> tuple[list[list[Cue]], str | None]:
        """(cues of each stretch, the language: the one asked for or what was heard). Raises SpeechError."""


def recogniser(asr: str, device: str = "auto") -> Recogniser:
    """``whisper:FOLDER``, ``faster-whisper:FOLDER``, or a command. Raises SpeechSetupError, ImportError."""
    for start, kind in ((FASTER, FasterWhisper), (WHISPER, Whisper)):
        if asr.startswith(start):
            folder = as_path(asr.removeprefix(start))
            if not folder.is_dir():
                raise SpeechSetupError(f"--asr {asr}: there is no folder {folder}")
            return kind(folder, device)
    return Command(asr)


def runs_a_model(asr: str | None) -> bool:
    """Whether the recogniser computes in our process, which then is one of a machine; commands are started by many at once."""
    return asr is not None and asr.startswith((WHISPER, FASTER))


def recognise(path: Path, voice: Voice, by: Recogniser, language: str | None, name: str) -> Subtitles | None:
    """What is said in a file, as far as somebody speaks; None where nobody does. Raises MediaError, SpeechError."""
    stretches = list(voice.stretches(path))
    if not stretches:
        return None
    found, heard = by.words(stretches, language)
    cues = []
    for stretch, own in zip(stretches, found, strict=True):
        placed = (Cue(stretch.start + cue.start, min(stretch.start + cue.end, stretch.end), cue.text, cue.confidence) for cue in own)
        cues += [cue for cue in placed if any(cue.start < end and cue.end > start for start, end in stretch.spans)]
    cues = [cue for cue in clean(cues) if not repeats_itself(cue.text) and any(letter.isalnum() for letter in cue.text)]
    return Subtitles(cues, language_of(heard), "speech", name) if cues else None


def repeats_itself(text: str) -> bool:
    """Whether a text is one that recognisers loop in."""
    content = text.encode()
    return len(content) > 40 and len(content) / len(zlib.compress(content)) > LOOPS


# --------------------------------------------------------------------------------------------------------------- a command


class Command:
    """A program that is given a WAV file (16 kHz, mono, 16 bits), the last of its words or in place of ``{wav}``, and prints JSON segments:
    ``[{"start": 0.0, "end": 1.2, "text": "…", "confidence": 0.9}]``, or any of the shapes of :func:`cues_of_json`. The file holds the
    stretches in which somebody speaks, one after the other."""

    def __init__(self, command: str) -> None:
        self._words = shlex.split(command)
        if not self._words or shutil.which(self._words[0]) is None:
            raise SpeechSetupError(f"--asr {command!r}: expected whisper:FOLDER, faster-whisper:FOLDER or a command that can be run")

    def words(self, stretches: Sequence[Stretch], language: str | None) -> tuple[list[list[Cue]], str | None]:
        places, samples, at = [], [], 0.0
        for stretch in stretches:
            places.append(at)
            samples += [stretch.wave, torch.zeros(round(GAP * RATE))]
            at += len(stretch.wave) / RATE + GAP
        with tempfile.TemporaryDirectory(prefix="omnivast_") as folder:
            path = Path(folder, "speech.wav")
            write_wav(path, torch.cat(samples))
            told = self._run(path, PATIENCE + 10 * at)
        cues: list[list[Cue]] = [[] for _ in stretches]
        for cue in told.cues:  # each belongs to the stretch in which its middle lies
            number = int(np.searchsorted(places, (cue.start + cue.end) / 2, side="right")) - 1
            length = len(stretches[number].wave) / RATE
            start, end = (min(max(time - places[number], 0.0), length) for time in (cue.start, cue.end))
            cues[number].append(Cue(start, end, cue.text, cue.confidence))
        return cues, told.language or language

    def _run(self, path: Path, patience: float) -> Subtitles:
        words = [word.replace("{wav}", str(path)) for word in self._words]
        words += [] if any("{wav}" in word for word in self._words) else [str(path)]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              start_new_session=True) as process:
            try:
                out, errors = process.communicate(timeout=patience)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise SpeechError("the command for speech took too long") from None
                raise
        if process.returncode:
            last = (errors.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
            raise SpeechError(f"the command for speech ended with {process.returncode}: {last.replace(str(path), 'the file')[:200]}")
        try:
            told = cues_of_json(json.loads(out))
        except ValueError:
            told = None
        if told is None:
            raise SpeechError("the command for speech printed no JSON segments")
        return told


def write_wav(path: Path, samples: Tensor) -> None:
    """(samples,) float32 at 16 kHz as 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.clamp(-1, 1) * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes())


# ---------------------------------------------------------------------------------------------------------------- Whisper


class Whisper:
    """Whisper, or a model like it, from a folder of transformers. Greedy, so that the same sound gives the same words."""

    def __init__(self, folder: Path, device: str) -> None:
        from transformers import AutoProcessor, WhisperForConditionalGeneration

        try:
            self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
            self._model: Any = WhisperForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            raise SpeechSetupError(f"--asr {WHISPER}{folder}: holds no Whisper of transformers: {str(error).splitlines()[0]}") from None
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._model.to(chosen)
        self._languages: dict[int, str] = {token: name.strip("<|>")
                                           for name, token in (getattr(self._model.generation_config, "lang_to_id", None) or {}).items()}

    @torch.inference_mode()
    def words(self, stretches: Sequence[Stretch], language: str | None) -> tuple[list[list[Cue]], str | None]:
        cues: list[list[Cue]] = []
        spoken = language
        for start in range(0, len(stretches), BATCH):
            batch = stretches[start : start + BATCH]
            features = self._processor.feature_extractor([stretch.wave.numpy() for stretch in batch], sampling_rate=RATE,
                                                         return_tensors="pt").input_features.to(self._model.device)
            if spoken is None and self._languages:
                tokens = self._model.detect_language(features).tolist()
                spoken = Counter(self._languages.get(token) for token in tokens).most_common(1)[0][0]
            cues += self._recognised(features, batch, spoken)
        return cues, spoken or "en"

    def _recognised(self, features: Tensor, batch: Sequence[Stretch], language: str | None) -> list[list[Cue]]:
        asked = {"language": language, "task": "transcribe"} if self._languages else {}
        told = self._model.generate(features, return_timestamps=True, return_segments=True, do_sample=False, num_beams=1, **asked)
        found = []
        for row, (stretch, segments) in enumerate(zip(batch, told["segments"])):
            length = len(stretch.wave) / RATE
            confidences = self._confidences(features[row : row + 1], language, [segment["tokens"].tolist() for segment in segments])
            texts = [self._processor.tokenizer.decode(segment["tokens"], skip_special_tokens=True) for segment in segments]
            found.append([Cue(min(float(segment["start"]), length), min(float(segment["end"]), length), text, confidence)
                          for segment, text, confidence in zip(segments, texts, confidences)])
        return found

    def _prefix(self, language: str | None) -> list[int]:
        """What stands before the words: the start, and of a model of several languages which and what to do."""
        config = self._model.generation_config
        if not self._languages:
            return [config.decoder_start_token_id]
        return [config.decoder_start_token_id, config.lang_to_id[f"<|{language}|>"], config.task_to_id["transcribe"]]

    def _confidences(self, features: Tensor, language: str | None, segments: list[list[int]]) -> list[float | None]:
        """Of each segment the geometric mean of the probabilities of its words' tokens, each behind all those before it."""
        prefix = self._prefix(language)
        ids = torch.tensor([prefix + [token for own in segments for token in own]], device=features.device)
        if ids.shape[1] == len(prefix):
            return [None for _ in segments]
        logits = self._model(features, decoder_input_ids=ids[:, :-1]).logits[0, len(prefix) - 1 :].float().log_softmax(-1)
        each = iter(logits.gather(-1, ids[0, len(prefix) :, None])[:, 0].tolist())
        end = self._processor.tokenizer.eos_token_id  # times and marks lie behind it
        likely = [[value for token, value in zip(own, each) if token < end] for own in segments]
        return [math.exp(sum(own) / len(own)) if own else None for own in likely]


class FasterWhisper:
    """Whisper by CTranslate2."""

    def __init__(self, folder: Path, device: str) -> None:
        module = import_extra("faster_whisper")
        self._model = module.WhisperModel(str(folder), device=device, local_files_only=True)

    def words(self, stretches: Sequence[Stretch], language: str | None) -> tuple[list[list[Cue]], str | None]:
        cues, spoken = [], language
        for stretch in stretches:
            segments, told = self._model.transcribe(stretch.wave.numpy(), language=spoken, temperature=0.0, vad_filter=False,
                                                    condition_on_previous_text=False)
            spoken = spoken or told.language
            cues.append([Cue(one.start, one.end, one.text, math.exp(min(one.avg_logprob, 0.0))) for one in segments])
        return cues, spoken
