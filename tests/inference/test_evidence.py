"""What an answer depends on."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from omnivast.config.tasks import Group
from omnivast.data.batch import Batch
from omnivast.inference.clips import Clip
from omnivast.inference.evidence import evidence_of
from omnivast.inference.results import Evidence, as_json


def parts(sampling=None):
    """A model that sees a batch as it is."""
    return SimpleNamespace(model=SimpleNamespace(encode=lambda batch, modalities: batch, device="cpu"), sampling=sampling)


def batch(frames=None, slices=None):
    count = len(frames if frames is not None else slices)
    return Batch("clips", [f"c{n}" for n in range(count)], torch.arange(count), frames=frames, spectrograms=slices)


def test_the_frame_that_decides_is_named(monkeypatch):
    """Of two clips one shows a 7 in its third frame of four, the other in its first and its last: no one of these decides."""
    monkeypatch.setattr("omnivast.inference.evidence.seconds_of", lambda clip: 8.0)
    frames = torch.zeros(2, 4, 3, 2, 2, dtype=torch.uint8)
    frames[0, 2] = frames[1, 0] = frames[1, 3] = 7
    given = batch(frames)

    def ask(seen):
        return ["seven" if (own == 7).any() else "none" for own in seen.frames]

    found = evidence_of(parts(), given, Group.parse("v"), [Clip("one"), Clip("two")], ask(given), ask)
    assert found == [(Evidence("seen", 2, "none", 4.0, 6.0),), ()]


def test_of_slices_likewise_and_a_single_one_becomes_silent(model):
    sampling = model.sampling
    slices = torch.full((1, 1, sampling.spec.target_length, sampling.spec.mel_bins), 3.0)
    given = batch(slices=slices)

    def ask(heard):
        return ["loud" if (heard.spectrograms == 3).all() else "quiet"]

    assert evidence_of(parts(sampling), given, Group.parse("a"), [Clip("one")], ["loud"], ask) == [(Evidence("heard", 0, "quiet"),)]
    several = batch(slices=torch.cat([slices, slices + 1], 1))
    first = evidence_of(parts(sampling), several, Group.parse("a"), [Clip("one")], ["quiet"], ask)
    assert first == [(Evidence("heard", 1, "loud"),)]
    assert evidence_of(parts(sampling), given, Group.parse("v"), [Clip("one")], ["loud"], ask) == [()]  # the answer is not by its sound


def test_an_answer_says_what_it_depends_on_when_asked(model, media):
    questions = ["what is the man doing?", "who is running?"]
    plain = model.answer([media / "said.mp4", media / "picture.png"], questions)
    found = model.answer([media / "said.mp4", media / "picture.png"], questions, evidence=True)
    assert [[one.text for one in own] for own in found] == [[one.text for one in own] for own in plain]
    assert all(one.evidence is None for own in plain for one in own)
    for one in found[0]:
        assert all(reason.without != one.text and reason.track in ("seen", "heard") for reason in one.evidence)
        assert isinstance(as_json(one)["evidence"], list)
    assert [one.evidence for one in found[1]] == [(), ()]  # a single frame
