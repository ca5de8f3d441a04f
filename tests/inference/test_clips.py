"""What users give as clips."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from omnivast.config.tasks import Modality
from omnivast.inference.clips import ClipError, Clips
from tests.media_factory import SOUND_RATE, tone

V, A, S = Modality


@pytest.fixture
def opened():
    with Clips() as clips:
        yield clips


@pytest.mark.parametrize(("name", "tracks"), [("said.mp4", {V, A, S}), ("silent.mp4", {V}), ("picture.png", {V}), ("sound.wav", {A})])
def test_a_file_has_the_tracks_that_it_holds(media, opened, name, tracks):
    clip = opened.open(media / name)
    assert clip.present == tracks
    assert clip.picture == (name == "picture.png")


def test_words_come_from_the_file_beside_it_with_their_times(media, opened):
    clip = opened.open(str(media / "said.mp4"))
    assert clip.said == "hello welcome today the car"
    assert [(cue.start, cue.end, cue.lines) for cue in clip.cues] == [(0, 1, ("hello welcome today",)), (1, 2, ("the car",))]


def test_bytes_are_read_like_their_file_and_their_copy_goes(media):
    with Clips() as opened:
        clip = opened.open((media / "said.mp4").read_bytes(), "mine")
        assert clip.name == "mine"
        assert clip.present == {V, A}  # no file lies beside bytes
        copy = clip.seen
    assert not Path(copy).exists()


def test_frames_and_pictures(opened):
    frames = np.zeros((3, 8, 6, 3), np.uint8)
    frames[1, 2, 4] = 9, 8, 7
    seen = opened.open(frames).seen
    assert seen.shape == (3, 3, 8, 6)
    assert seen[1, :, 2, 4].tolist() == [9, 8, 7]
    assert opened.open(torch.full((8, 6, 3), 0.5)).seen.unique().tolist() == [128]
    assert opened.open(Image.new("L", (6, 8), 5)).seen.shape == (1, 3, 8, 6)


def test_sound_in_an_array_is_the_sound_that_is_heard(opened):
    clip = opened.open({"audio": np.stack([tone(0.5), tone(0.5)]), "rate": SOUND_RATE})
    assert clip.present == {A}
    with av.open(clip.heard) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert container.streams.audio[0].rate == SOUND_RATE
    np.testing.assert_array_equal(heard, tone(0.5))


def test_tracks_given_apart_stand_in_place_of_the_videos_own(media, opened):
    clip = opened.open({"video": media / "said.mp4", "audio": media / "sound.wav", "subtitle": "other words"})
    assert (clip.seen, clip.heard, clip.said, clip.cues) == (str(media / "said.mp4"), str(media / "sound.wav"), "other words", None)
    bare = opened.open({"video": media / "said.mp4", "audio": None, "subtitle": ""})
    assert bare.present == {V}


@pytest.mark.parametrize(("given", "message"), [
    ("nowhere.mp4", "no such file: nowhere.mp4"),
    ("a dog barks", "is it a text?"),
    (5, "got int"),
    ({"vidio": "a"}, "no track 'vidio'.* Did you mean 'video'"),
    ({"subtitle": None}, "without any of video, image, audio, subtitle"),
    ({"audio": np.zeros(9, np.float32)}, "'rate' is needed"),
    ({"audio": np.zeros((900, 2), np.float32), "rate": 16000}, r"is it \(N, channels\)"),
    (np.zeros((4, 4), np.uint8), r"frames are an array \(F, H, W, 3\)"),
    (np.full((4, 4, 3), 255.0), "from 0 to 1; these go from 255 to 255"),
    (b"no media", "neither a video, nor a picture, nor a sound"),
])
def test_what_is_no_clip_is_named(opened, given, message):
    with pytest.raises(ClipError, match=message):
        opened.open(given)


def test_a_folder_and_a_silent_file_as_sound_are_refused(media, opened):
    with pytest.raises(ClipError, match="is a folder"):
        opened.open(media)
    with pytest.raises(ClipError, match="silent.mp4: given as 'audio', but it has no sound"):
        opened.open({"audio": media / "silent.mp4"})
