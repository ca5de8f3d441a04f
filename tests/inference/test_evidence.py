"""What an answer depends on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from omnivast.config.tasks import Group, Modality
from omnivast.data.batch import Sample
from omnivast.inference.clips import Clip
from omnivast.inference.evidence import evidence_of, leave_out, parts_of
from omnivast.inference.loading import in_float32
from omnivast.inference.results import as_json


def sample(sampling, frames=None, slices=None):
    """Frames and slices that are told apart by their number, from 1."""
    made = Sample("clip", 0)
    if frames:
        made.frames = torch.arange(1, frames + 1, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
        made.present[Modality.VISION] = True
    if slices:
        size = (-1, sampling.spec.target_length, sampling.spec.mel_bins)
        made.spectrogram = torch.arange(1.0, slices + 1)[:, None, None].expand(*size)
        made.present[Modality.AUDIO] = True
    return made


def explained(sampling, given, counts, answer="it", letters="va"):
    """The evidence of a model whose log-probability of "it" is what ``counts`` says of (numbers of frames, numbers of slices), and that
    gives another answer below -1."""
    def encode(groups, samples):
        assert loaded.model.precision is None  # small changes are told in float32
        return [(one.frames[:, 0, 0, 0].tolist() if one.frames is not None else [],
                 one.spectrogram[:, 0, 0].tolist() if one.present.get(Modality.AUDIO) else []) for one in samples]

    loaded = SimpleNamespace(sampling=sampling, encode=encode, model=SimpleNamespace(precision=torch.bfloat16))
    found = evidence_of(loaded, given, Group.parse(letters), Clip("clip"), answer,
                        lambda features, n: ["it" if counts(*one) > -1 else "other" for one in features],
                        lambda features, n: [counts(*one) for one in features])
    assert loaded.model.precision is torch.bfloat16
    return found


def test_frames_that_each_suffice_are_named_together(model, monkeypatch):
    """Frames 2, 3 and 4 of four say it, the third loudest; without any one of them the answer stays."""
    monkeypatch.setattr("omnivast.inference.evidence.seconds_of", lambda clip: 8.0)
    loud = {2: 3.0, 3: 4.0, 4: 2.0}
    found = explained(model.sampling, sample(model.sampling, 4, 1), lambda seen, heard: -4.0 / (1 + sum(loud.get(n, 0) for n in seen) ** 2))
    assert [(one.track, one.number) for one in found] == [("seen", 2), ("seen", 1), ("seen", 3)]
    assert [(one.start, one.end) for one in found] == [(4.0, 6.0), (2.0, 4.0), (6.0, 8.0)]
    assert [one.without for one in found] == ["it", "it", "other"]
    assert all(one.drop > 0 for one in found)


def test_those_that_only_shared_in_it_are_named_though_the_answer_has_changed_already(model):
    """Without the first of two frames the answer is another, but it is still likely; and what speaks against it is not named."""
    found = explained(model.sampling, sample(model.sampling, 3),
                      lambda seen, heard: -0.5 - (1 not in seen) * (1 + 3 * (2 not in seen)) + 0.1 * (3 not in seen))
    assert [one.number for one in found] == [0, 1]
    assert [one.without for one in found] == ["other", "other"]


def test_the_only_slice_becomes_silence_and_the_last_frame_stays(model):
    sampling = model.sampling
    found = explained(sampling, sample(sampling, 1, 1), lambda seen, heard: -0.1 if heard else -9.0)
    assert [(one.track, one.number, one.without, one.start) for one in found] == [("heard", 0, "other", None)]
    assert explained(sampling, sample(sampling, 1), lambda seen, heard: -0.1 if seen else -9.0) == ()
    found = explained(sampling, sample(sampling, 2, 2), lambda seen, heard: -0.1 if 2 in heard else -9.0)
    assert [(one.track, one.number) for one in found] == [("heard", 1)]


def test_nothing_is_named_where_no_part_speaks_for_the_answer(model):
    assert explained(model.sampling, sample(model.sampling, 3, 1), lambda seen, heard: -0.1) == ()  # it is said, or guessed
    assert explained(model.sampling, sample(model.sampling, 3), lambda seen, heard: -0.2 - 0.1 * (3 - len(seen))) == ()


def test_what_is_left_out_of_a_clip(model):
    sampling, given = model.sampling, sample(model.sampling, 3, 2)
    less = leave_out(sampling, given, [("seen", 1), ("heard", 0)])
    assert less.frames[:, 0, 0, 0].tolist() == [1, 3] and less.spectrogram[:, 0, 0].tolist() == [2.0] and less.present[Modality.AUDIO]
    silent = leave_out(sampling, given, [("heard", 0), ("heard", 1)])
    assert len(silent.spectrogram) == 1 and not silent.present[Modality.AUDIO] and given.present[Modality.AUDIO]
    assert parts_of(silent) == [("seen", 0), ("seen", 1), ("seen", 2)]
    with pytest.raises(ValueError, match=r"there is no \('seen', 3\)"):
        leave_out(sampling, given, [("seen", 3)])
    with pytest.raises(ValueError, match="one frame at least must stay"):
        leave_out(sampling, given, [("seen", n) for n in range(3)])


def test_an_answer_says_what_it_depends_on_when_asked(model, media):
    questions = ["what is the man doing?", "who is running?"]
    clips = [media / "said.mp4", media / "picture.png"]
    plain = model.answer(clips, questions)
    found = model.answer(clips, questions, evidence=True)
    assert [[one.text for one in own] for own in found] == [[one.text for one in own] for own in plain]
    assert all(one.evidence is None for own in plain for one in own)
    for own in found:
        for one in own:
            assert isinstance(as_json(one)["evidence"], list)
            if one.evidence:
                without = model.answer(one.name if len(own) == 1 else clips[found.index(own)], one.question,
                                       without=[(reason.track, reason.number) for reason in one.evidence])
                assert without.text == one.evidence[-1].without != one.text


def test_an_answer_without_a_frame_is_that_about_the_clip_with_the_other_alone(model, media):
    """The model is shown two frames; what is left is scored as a clip of one."""
    both = model.answer(media / "silent.mp4", "who is running?", group="v")
    first = model.answer(media / "silent.mp4", "who is running?", group="v", without=[("seen", 1)])
    with in_float32(model.model):
        assert first.score != both.score
    with pytest.raises(ValueError, match="one frame at least"):
        model.answer(media / "picture.png", "who is running?", without=[("seen", 0)])
