"""A model as one of sentence-transformers: the same vectors, from the same inputs, saved and loaded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sentence_transformers", reason='needs pip install "omnivast[sentence-transformers]"')

from sentence_transformers import SentenceTransformer  # noqa: E402

from omnivast.inference.clips import ClipError  # noqa: E402
from omnivast.inference.loading import LoadError  # noqa: E402
from omnivast.inference.sentence_transformers import MODULE_CLASSES, OmniVAST, sentence_transformer  # noqa: E402
from omnivast.model.gram.model import GRAM  # noqa: E402

TEXTS = ["a red car", "two dogs running near the water", "x"]
CLIPS = {"said.mp4": "vas", "silent.mp4": "v", "picture.png": "v", "sound.wav": "a"}
"""File → the largest group that it has the tracks of."""


@pytest.fixture(scope="module")
def library_model(model):
    return sentence_transformer(model)


def check(library_model, model, media):
    np.testing.assert_allclose(library_model.encode(TEXTS), model.embed_texts(TEXTS)["vector"].numpy(), atol=1e-6)
    for name, group in CLIPS.items():
        np.testing.assert_allclose(library_model.encode(str(media / name)), model.embed(media / name).vectors[group], atol=1e-6)
    tracks = {"video": str(media / "silent.mp4"), "audio": str(media / "sound.wav"), "text": "hello today"}
    own = model.embed({"video": media / "silent.mp4", "audio": media / "sound.wav", "subtitle": "hello today"}).vectors
    np.testing.assert_allclose(library_model.encode([tracks, tracks]), np.stack([own["vas"]] * 2), atol=1e-6)


def test_the_same_vectors(library_model, model, media):
    check(library_model, model, media)
    assert library_model.get_embedding_dimension() == 16
    assert library_model.supports("video") and library_model.supports(("audio", "text", "video"))
    assert not library_model.supports(("image", "video"))


def test_similarity_is_the_models(library_model, model, media):
    paths = [media / "said.mp4", media / "silent.mp4"]
    by_v = sentence_transformer(model, group="v")
    found = by_v.similarity(by_v.encode(TEXTS), by_v.encode([str(path) for path in paths]))
    np.testing.assert_allclose(found.numpy(), model.score(TEXTS, paths, group="v"), atol=1e-6)
    with pytest.raises(ClipError, match="sound.wav: has no vision"):
        by_v.encode(str(media / "sound.wav"))


def test_arrays_as_that_library_gives_them(library_model, model):
    frames = np.random.default_rng(0).integers(0, 256, (4, 24, 32, 3), np.uint8)
    wanted = model.embed(frames).vectors["v"]
    pictures = [Image.fromarray(frame) for frame in frames]
    for given in (frames, frames.transpose(0, 3, 1, 2), {"video": pictures}, {"array": frames, "video_metadata": None}):
        np.testing.assert_allclose(library_model.encode(given), wanted, atol=1e-6)
    np.testing.assert_allclose(library_model.encode(pictures[0]), model.embed(pictures[0]).vectors["v"], atol=1e-6)
    samples = np.sin(np.arange(16000) / 20).astype(np.float32)
    np.testing.assert_allclose(library_model.encode({"array": samples, "sampling_rate": 16000}),
                               model.embed({"audio": samples, "rate": 16000}).vectors["a"], atol=1e-6)
    with pytest.raises(ClipError, match="need their rate"):
        library_model.encode(samples)


def test_a_prompt_stands_before_texts_alone(library_model, model, media):
    np.testing.assert_array_equal(library_model.encode(["car"], prompt="a red ")[0], library_model.encode("a red car"))
    path = str(media / "silent.mp4")
    np.testing.assert_array_equal(library_model.encode([path], prompt="a red ")[0], library_model.encode(path))


def loaded_with_classes(folder):
    if not hasattr(SentenceTransformer, "_load_with_module_classes"):
        pytest.skip("this sentence-transformers loads no classes that it is given")
    return SentenceTransformer._load_with_module_classes(str(folder), MODULE_CLASSES, device="cpu")


def trusted(folder):
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")


@pytest.mark.parametrize("load", [loaded_with_classes, trusted])
def test_a_shared_folder_is_one_of_its_models(model, media, tmp_path, load):
    other = load(model.save_pretrained(tmp_path / "shared"))
    check(other, model, media)
    assert other.similarity_fn_name == "dot"


def test_saved_by_that_library_it_is_a_shared_folder(model, media, tmp_path):
    sentence_transformer(model, group="va").save_pretrained(str(tmp_path / "saved"))
    assert json.loads((tmp_path / "saved" / "omnivast_sentence.json").read_text()) == {"group": "va"}
    again = trusted(tmp_path / "saved")
    np.testing.assert_allclose(again.encode(str(media / "said.mp4")), model.embed(media / "said.mp4").vectors["va"], atol=1e-6)
    np.testing.assert_allclose(sentence_transformer(tmp_path / "saved").encode(TEXTS), again.encode(TEXTS), atol=1e-6)


def test_a_model_of_more_than_a_vector_is_refused(model, monkeypatch, tmp_path):
    with pytest.raises(LoadError, match="has no vectors of group 'as'; it has those of vas"):
        OmniVAST(model, "as")
    monkeypatch.setattr(type(model.model), "similarity", GRAM.similarity)
    with pytest.raises(LoadError, match="compares texts with clips by more than one vector"):
        sentence_transformer(model)
    assert not (model.save_pretrained(tmp_path / "shared") / "modules.json").exists()


def test_what_is_no_input_is_said(library_model, tmp_path):
    with pytest.raises((ClipError, ValueError), match="message"):
        library_model.encode([{"role": "user", "content": "hello"}])
    with pytest.raises(ClipError, match="no such file"):
        library_model.encode({"video": str(tmp_path / "none.mp4")})
