import os
import unicodedata

import pytest

from omnivast.data.media.containers import EXTENSIONS
from omnivast.data.media.errors import MediaError
from omnivast.data.media.folders import MediaFolder


@pytest.mark.parametrize("ending", EXTENSIONS)
def test_every_ending_that_is_read_is_looked_for(tmp_path, ending):
    (tmp_path / f"x{ending}").touch()
    (tmp_path / "y.mp4").touch()
    assert MediaFolder(tmp_path).find("x") == str(tmp_path / f"x{ending}")
    assert MediaFolder(tmp_path).find(f"y{ending}") == str(tmp_path / "y.mp4")


@pytest.mark.parametrize(
    ("clip_id", "file"),
    [("abc", "v_abc.mp4"), ("v_abc", "abc.mp4"), ("abc", "abc.npy"), ("abc ", "abc.mp4"), ("abc\n", "abc.mp4"), ("abc", "ABC.mp4"),
     ("sub\\abc", "sub/abc.mp4"), ("clips\\sub\\abc", "sub/abc.mp4"), ("clips\\abc.mp4", "abc.mp4"), ("C:\\clips\\abc", "abc.mp4"),
     ("clips/abc", "abc.mp4"), ("caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9.mp4")), ("clip_0012", "clip_0013.mp4")],
)
def test_a_missing_file_is_answered_with_the_nearest(tmp_path, clip_id, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    (tmp_path / "._abc.mp4").touch()
    (tmp_path / "other.mp4").touch()
    with pytest.raises(MediaError, match="no such file") as caught:
        MediaFolder(tmp_path).find(clip_id)
    assert f"nearest is {file!r}" in caught.value.reason


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path):
    with pytest.raises(MediaError, match="the folder .*clips is empty or missing"):
        MediaFolder(tmp_path / "clips").find("sub/x")
    (tmp_path / "other.mp4").touch()
    with pytest.raises(MediaError, match="there is no folder 'sub' in it"):
        MediaFolder(tmp_path).find("sub/x")


def test_a_folder_of_frames_a_video_and_a_pipe_are_told_apart(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "video.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    for clip_id, directories, reason in (("frames", False, "video_frame"), ("video", True, "video_rawvideo"), ("pipe", False, "regular")):
        with pytest.raises(MediaError, match=reason):
            MediaFolder(tmp_path, directories=directories).find(clip_id)


def test_a_folder_is_listed_once_however_many_clips_are_missing(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").touch()
    listed = []
    real = os.listdir
    monkeypatch.setattr("os.listdir", lambda path: listed.append(path) or real(path))
    folder = MediaFolder(tmp_path)
    for number in range(5):
        with pytest.raises(MediaError):
            folder.find(f"z{number}")
    assert len(listed) == 2  # by stem, and by plain name
