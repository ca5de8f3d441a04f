"""A loaded model is shown clips and texts as its family says."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from omnivast.config.tasks import CaptionKind
from omnivast.inference.loading import load_parts
from omnivast.inference.pipeline import load
from tests.model import tiny


@pytest.fixture(scope="module")
def valor_run(tmp_path_factory):
    """The output folder of a run of VALOR, whose omni captions are no longer than others."""
    folder = tmp_path_factory.mktemp("valor")
    cfg = dataclasses.asdict(dataclasses.replace(tiny.VALOR, max_omni_caption_len=30))
    train = {"name": "own", "task": "ret%tva_cap%tva_qa%tva", "txt": "", "vision_sample_num": 2, "audio_sample_num": 1}
    (folder / "log").mkdir()
    (folder / "ckpt").mkdir()
    (folder / "log" / "hps.json").write_text(json.dumps({"run_cfg": {"precision": "float32", "beam_size": 2}, "model_cfg": cfg,
                                                         "data_cfg": {"train": [train], "val": []}}))
    torch.save(tiny.valor().state_dict(), folder / "ckpt" / "model_step_1.pt")
    return folder


def test_texts_are_as_long_as_the_family_says(valor_run, run):
    """VALOR's scores depend on how many tokens a text may have: those of omni captions are never the long ones of VAST-27M."""
    spec = load_parts(valor_run).sampling.spec
    assert spec.one_caption_length
    assert spec.lengths(several_kinds=True).caption[CaptionKind.OMNI] == tiny.VALOR.max_caption_len
    assert not load_parts(run).sampling.spec.one_caption_length


def test_a_loaded_valor_writes_answers_and_says_how_likely_they_are(valor_run, media):
    model = load(valor_run)
    long = "two dogs running near the water and a man " * 4
    assert model.score([long], [media / "said.mp4"]).shape == (1, 1)  # cut, and not refused
    caption = model.caption(media / "said.mp4", n=2)
    assert len(caption.scores) == 2 and caption.scores[0] >= caption.scores[1] - 1e-4
    answer = model.answer(media / "said.mp4", "what is the man doing?", evidence=True)
    assert answer.score < 0 and isinstance(answer.evidence, tuple)


def test_a_model_may_be_shown_more_frames_than_it_was_tested_with(run, valor_run, media):
    model = load(run, frames=4, slices=3)
    with pytest.raises(ValueError, match=r"has \('seen', 0\), .*\('seen', 3\), \('heard', 0\), \('heard', 1\), \('heard', 2\)"):
        model.answer(media / "said.mp4", "who is running?", without=[("seen", 4)])
    for asked, words in (({"frames": 0}, "frames 0: this model takes 1 or more"), ({"slices": 33}, "slices 33")):
        with pytest.raises(ValueError, match=words):
            load(valor_run if "slices" in asked else run, **asked)
