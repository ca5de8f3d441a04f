"""What users give as a clip → :class:`Clip`: what there is to see, to hear and to read of it.

A clip is given as

- a path of a video, picture or sound file; subtitles are looked up beside it (``clip.srt``, ``clip.vtt``, ``clip.txt``);
- the bytes of such a file;
- a PIL picture;
- frames, an array (F, H, W, 3) or (H, W, 3), uint8, or floating point from 0 to 1;
- a dict of tracks: ``{"video": …, "image": …, "audio": …, "subtitle": "…"}``, each as above; sound also as
  ``{"audio": samples, "rate": 16000}``, samples (N,) or (channels, N), floating point from -1 to 1 or int16.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omnivast.config.paths import PathError, expanded, looked_up
from omnivast.config.tasks import Modality
from omnivast.config.words import did_you_mean
from omnivast.data.annotations.own_clips import probe
from omnivast.data.annotations.sidecars import Cue, Sidecars, read_cues, read_sidecar

TRACKS = ("video", "image", "audio", "subtitle")
ENDINGS = {b"RIFF": ".riff", b"OggS": ".ogg", b"\x1aE\xdf\xa3": ".mkv", b"fLaC": ".flac"}


class ClipError(ValueError):
    """Something that is no clip; the message names it and says what was expected."""


@dataclass(frozen=True)
class Clip:
    """Where the tracks of a clip are."""

    name: str
    """A path, or what the caller's input is called in messages and results."""
    seen: str | Tensor | None = None
    """The video or picture file, or frames (F, 3, H, W) uint8."""
    heard: str | None = None
    """The file with its sound; a video's own."""
    said: str = ""
    """Its subtitle; "" for none."""
    cues: tuple[Cue, ...] | None = None
    """The lines of its subtitle with their times, where it has times."""
    picture: bool = False
    """``seen`` is a picture file: one frame, however many are asked for."""

    @property
    def present(self) -> frozenset[Modality]:
        """The modalities that it has."""
        tracks = ((Modality.VISION, self.seen is not None), (Modality.AUDIO, self.heard is not None),
                  (Modality.SUBTITLE, bool(self.said.strip())))
        return frozenset(modality for modality, there in tracks if there)


class Clips:
    """Turns inputs into clips. What has no file of its own (bytes, sound in an array) is kept in a temporary folder while this context is
    open."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._sidecars = Sidecars()
        self._count = 0

    def __enter__(self) -> Clips:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def open(self, given: Any, name: str = "") -> Clip:
        """The clip that the module's docstring describes. Raises ClipError."""
        if isinstance(given, Clip):
            return given
        if isinstance(given, Mapping):
            return self._of_tracks(given, name)
        if isinstance(given, str | os.PathLike):
            return self._of_file(_path(given))
        if isinstance(given, bytes | bytearray | memoryview):
            return replace(self._of_file(self._kept(bytes(given)), sidecar=False), name=name or f"{len(given)} bytes")
        if isinstance(given, Image.Image):
            return Clip(name or "a picture", _frames(np.asarray(given.convert("RGB"))))
        if isinstance(given, np.ndarray | Tensor):
            return Clip(name or "frames", _frames(given))
        raise ClipError(f"a clip is a path, bytes, a picture, frames or a dict of {', '.join(TRACKS)}; got {type(given).__name__}")

    # -------------------------------------------------------------------------------------------------------------- kinds

    def _of_file(self, path: Path, sidecar: bool = True) -> Clip:
        kind, present = probe(path)
        if kind is None:
            raise ClipError(f"{path}: neither a video, nor a picture, nor a sound that can be read")
        name, words = str(path), self._sidecars.find(path, transcripts=kind != "image") if sidecar else None
        clip = Clip(name, None if kind == "sound" else name, name if Modality.AUDIO in present else None, picture=kind == "image")
        return clip if words is None else replace(clip, **_said(words))

    def _of_tracks(self, tracks: Mapping[str, Any], name: str) -> Clip:
        """A video's own sound and the words beside it count unless ``audio`` and ``subtitle`` are given; None or "" takes them away."""
        for key in tracks:
            if key not in (*TRACKS, "rate"):
                raise ClipError(f"a clip has no track '{key}'; its tracks are {', '.join(TRACKS)}.{did_you_mean(str(key), TRACKS)}")
        if not any(tracks.get(key) is not None for key in TRACKS):
            raise ClipError(f"a dict without any of {', '.join(TRACKS)} is no clip")
        if tracks.get("video") is not None and tracks.get("image") is not None:
            raise ClipError("a clip is seen either as a video or as an image, not both")
        seen = next((self.open(tracks[key], name) for key in ("video", "image") if tracks.get(key) is not None), None)
        if seen is not None and seen.seen is None:
            raise ClipError(f"{seen.name}: a sound, given as what is to be seen; give it as 'audio'")
        clip = seen or Clip(name)
        if "audio" in tracks:
            heard = None if tracks["audio"] is None else self._sound(tracks["audio"], tracks.get("rate"))
            clip = replace(clip, heard=heard, name=clip.name or str(heard))
        elif "rate" in tracks:
            raise ClipError("'rate' is of the samples in 'audio', which is not given")
        if "subtitle" in tracks:
            clip = replace(clip, **_words(tracks["subtitle"]))
        return replace(clip, name=name or clip.name or "a subtitle")

    def _sound(self, given: Any, rate: Any) -> str:
        """A file that holds the sound."""
        if isinstance(given, np.ndarray | Tensor):
            return str(self._written(given, rate))
        if isinstance(given, bytes | bytearray | memoryview):
            given = self._kept(bytes(given))
        path = _path(given)
        kind, present = probe(path)
        if kind is None or Modality.AUDIO not in present:
            raise ClipError(f"{path}: given as 'audio', but it has no sound")
        return str(path)

    # -------------------------------------------------------------------------------------------------------------- files

    def _place(self, ending: str) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="omnivast_")
        self._count += 1
        return Path(self._folder.name, f"{self._count}{ending}")

    def _kept(self, content: bytes) -> Path:
        path = self._place(next((ending for start, ending in ENDINGS.items() if content.startswith(start)), ".bin"))
        path.write_bytes(content)
        return path

    def _written(self, samples: Any, rate: Any) -> Path:
        """Samples as a WAV file of 32-bit floating point."""
        if not isinstance(rate, int) or rate < 1:
            raise ClipError(f"'rate' is needed beside samples of sound, in Hz, for example 16000; got {rate!r}")
        values = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
        if values.dtype == np.int16:
            values = values.astype(np.float32) / 2**15
        if not np.issubdtype(values.dtype, np.floating) or values.ndim not in (1, 2) or not values.size:
            raise ClipError("sound is samples (N,) or (channels, N), floating point from -1 to 1 or int16; got an array of "
                            f"{values.dtype} {values.shape}")
        if values.ndim == 2 and values.shape[0] > 8:
            raise ClipError(f"sound of {values.shape[0]} channels: expected (channels, N), at most 8; is it (N, channels)?")
        mono = values if values.ndim == 1 else values.mean(0)
        path = self._place(".wav")
        with av.open(str(path), "w", format="wav") as container:
            stream = container.add_stream("pcm_f32le", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono, np.float32)[None], format="flt", layout="mono")
            frame.sample_rate = rate
            container.mux([*stream.encode(frame), *stream.encode(None)])
        return path


def _path(given: str | os.PathLike[str]) -> Path:
    try:
        path = Path(expanded(os.fspath(given)))
    except PathError as error:
        raise ClipError(str(error)) from None
    if path.is_dir():
        raise ClipError(f"{path} is a folder: expected a file, or a list of them; omnivast.Index takes folders")
    if not path.exists():
        text = "" if path.suffix else "; is it a text? What is said is given as {'subtitle': …}"
        raise ClipError(f"no such file: {path}{looked_up(path)}{text}")
    return path


def _words(given: Any) -> dict[str, Any]:
    """A subtitle given as text, or as a .srt or .vtt file, as fields of a Clip."""
    if isinstance(given, os.PathLike) or (isinstance(given, str) and given.lower().endswith((".srt", ".vtt")) and "\n" not in given):
        return _said(_path(given))
    if given is None or isinstance(given, str):
        return {"said": given or "", "cues": None}
    raise ClipError(f"'subtitle' is a text, or the path of a .srt, .vtt or .txt file; got {type(given).__name__}")


def _said(file: Path) -> dict[str, Any]:
    cues = read_cues(file)
    return {"said": read_sidecar(file), "cues": None if cues is None else tuple(cues)}


def _frames(given: Any) -> Tensor:
    """(F, H, W, 3) or (H, W, 3) → (F, 3, H, W) uint8."""
    values = torch.as_tensor(np.array(given) if isinstance(given, np.ndarray) else given).detach().cpu()
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[-1] != 3 or not values.shape[0] or min(values.shape[1:3]) < 1:
        raise ClipError(f"frames are an array (F, H, W, 3) or (H, W, 3); got {tuple(given.shape)}")
    if values.is_floating_point():
        if not 0 <= float(values.min()) <= float(values.max()) <= 1:
            raise ClipError(f"frames in floating point go from 0 to 1; these go from {float(values.min()):g} to {float(values.max()):g}")
        values = (values * 255).round().to(torch.uint8)
    if values.dtype != torch.uint8:
        raise ClipError(f"frames are uint8, or floating point from 0 to 1; got {values.dtype}")
    return values.permute(0, 3, 1, 2)
