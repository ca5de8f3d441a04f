"""One's own clips: what is found in folders, patterns and lists, and what the files are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from omnivast.data.annotations.own_clips import find_files, look_into
from omnivast.data.annotations.sidecars import Sidecars, joined, read_cues, read_sidecar
from omnivast.data.spec import DataError
from tests.media_factory import write_image, write_json, write_sound, write_video, write_wav


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Videos, pictures and sounds whose names tell little, in subfolders, among other files."""
    root = tmp_path_factory.mktemp("own")
    write_video(root / "talk.mp4", frames=4, size=32)
    shutil.copy(root / "talk.mp4", root / "talk.M4V")
    write_video(root / "deep" / "er" / "silent.mkv", frames=4, size=32, sound=False)
    write_sound(root / "deep" / "only_sound.mp4", seconds=0.2, codec="aac")
    write_wav(root / "noise.wav", seconds=0.2)
    write_image(root / "picture.png", 32)
    shutil.copy(root / "picture.png", root / "picture.jfif")
    grey = [Image.new("L", (32, 32), level) for level in (0, 90, 200)]
    grey[0].save(root / "moving.gif", save_all=True, append_images=grey[1:])
    grey[0].save(root / "still.gif")
    (root / "broken.mp4").write_bytes(b"no video")
    (root / "notes.xyz").write_bytes(b"nothing that plays")
    (root / "._talk.mp4").write_bytes(b"\0" * 9)
    (root / "README.md").write_text("clips")
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "talk.en.vtt").write_text("WEBVTT\n\nNOTE no words\n\n00:01.000 --> 00:02.000\n<c>good &amp; well</c>\n")
    (root / "picture.txt").write_text("a caption, not a subtitle")
    return root


def test_files_are_told_apart_by_what_they_hold(folder):
    found = find_files([str(folder)])
    assert found.root == folder and not found.missing
    clips, others = look_into(found, found.subtitles, with_subtitles=True)
    assert {clip.clip_id: (clip.kind, "".join(sorted(clip.present))) for clip in clips} == {
        "talk.mp4": ("video", "asv"), "talk.M4V": ("video", "asv"), "deep/er/silent.mkv": ("video", "v"),
        "deep/only_sound.mp4": ("sound", "a"), "noise.wav": ("sound", "a"), "picture.png": ("image", "v"), "picture.jfif": ("image", "v"),
        "moving.gif": ("video", "v"), "still.gif": ("image", "v"), "broken.mp4": ("video", "v")}
    assert others == ["notes.xyz"]
    assert next(clip.subtitle for clip in clips if clip.clip_id == "talk.mp4") == "good & well"
    assert not any(clip.subtitle for clip in look_into(found, found.subtitles, with_subtitles=False)[0])


def test_patterns_and_single_files(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert list(find_files(["*.mp4"]).subtitles) == ["broken.mp4", "talk.mp4"]
    # A link back to the folder leads to the same file again and again.
    assert list(find_files(["**/*.mkv"]).subtitles) == ["silent.mkv"] and find_files(["**/*.mkv"]).root == folder / "deep" / "er"
    found = find_files(["deep", "talk.mp4", str(folder / "talk.mp4")])
    assert found.root == folder and list(found.subtitles) == ["deep/only_sound.mp4", "deep/er/silent.mkv", "talk.mp4"]
    for wrong in ("absent", "*.mov"):
        with pytest.raises(DataError, match="no such file or folder, and as a pattern it fits none"):
            find_files([wrong])
    (folder / "empty").mkdir(exist_ok=True)
    with pytest.raises(DataError, match="holds no video, picture or sound"):
        find_files(["empty"])


LISTS = {
    "ids.txt": "\ufefftalk\n\n  noise  \nabsent\n",
    "paths.txt": "{folder}/talk.mp4\n../own/noise.wav\nabsent.mp4\n",
    "table.csv": "title,video_id,subtitle\nx,talk,\"said, so\"\ny,noise,\nz,absent,w\n",
    "semicolons.csv": "nr;file\n1;deep\\..\\talk.mp4\n2;noise.wav\n3;absent\n",
    "bare.csv": "talk.mp4\nnoise.wav\nabsent\n",
    "tabs.tsv": "subtitle\tfile\nsaid, so\ttalk.mp4\n\tnoise.wav\nw\tabsent\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_ids_and_paths(folder, tmp_path, name):
    (tmp_path / "own").symlink_to(folder, target_is_directory=True)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / name).write_text(LISTS[name].format(folder=tmp_path / "own"))
    media = None if name == "paths.txt" else str(tmp_path / "own")
    found = find_files([str(tmp_path / "lists" / name)], media)
    assert found.root == tmp_path / "own" and [Path(clip).name for clip in found.subtitles] == ["talk.mp4", "noise.wav"]
    assert [Path(entry).stem for entry in found.missing] == ["absent"] and "looked for in" in next(iter(found.missing.values()))
    given = ["said, so", ""] if name in ("table.csv", "tabs.tsv") else [None, None]
    assert list(found.subtitles.values()) == given
    # What the list says of words counts, also that there are none; else a file beside the clip.
    assert look_into(found, found.subtitles, True)[0][0].subtitle == (given[0] or "good & well")


def test_json_lists_and_lists_that_are_none(folder, tmp_path):
    rows = ["talk", {"video_id": "noise", "subtitle": "hum"}, {"image_id": 7}]
    found = find_files([str(write_json(tmp_path / "list.json", rows))], str(folder))
    assert found.subtitles == {"talk.mp4": None, "noise.wav": "hum"} and list(found.missing) == ["7"]
    for name, content, words in (("a.json", '{"a": 1}', "expected a JSON list"), ("a.json", "[[1]]", "entry 0: expected an id"),
                                 ("a.json", "[", "not JSON"), ("a.csv", "x,y\n1,2\n", "names no column of ids or paths"),
                                 ("a.csv", "\n", "the list is empty"), ("a.txt", "absent\n", "the first entry, 'absent': no such file")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=words):
            find_files([str(tmp_path / name)])
    (tmp_path / "wide.txt").write_bytes("talk\n".encode("utf-16"))
    with pytest.raises(DataError, match="a list is UTF-8 text"):
        find_files([str(tmp_path / "wide.txt")])


def test_the_words_of_subtitle_files(tmp_path):
    srt = ("1\r\n00:00:01,000 --> 00:00:02,000\r\n<i>Hello</i> {\\an8}you\r\nthere\r\n\r\n"
           "2\r\n00:00:02,000 --> 00:00:03,000\r\nthere\r\nagain\r\n")
    rolling = "WEBVTT\nKind: captions\n\nSTYLE\n::cue {}\n\n00:01.0 --> 00:02.0 align:start\none\n\n00:02.0 --> 00:03.0\none\ntwo\n"
    said = "Hello you there again"
    for name, content, words in (("a.srt", srt.encode(), said), ("b.vtt", rolling.encode(), "one two"),
                                 ("c.txt", b"\xef\xbb\xbf two\n lines ", "two lines"), ("d.srt", srt.encode("utf-16"), said),
                                 ("e.txt", "café".encode("cp1252"), "café"), ("f.srt", b"", "")):
        (tmp_path / name).write_bytes(content)
        assert read_sidecar(tmp_path / name) == words


def test_captions_that_roll_up_count_once_when_they_are_new(tmp_path):
    """As YouTube's automatic recognition writes them, by way of yt-dlp: each line twice, with a cue of 10 ms between."""
    place = "align:start position:0%"
    (tmp_path / "a.en.vtt").write_text("\n".join([
        "WEBVTT", "Kind: captions", "Language: en", "",
        f"00:00:00.080 --> 00:00:02.470 {place}", " ", "hello<00:00:00.320><c> and</c><00:00:00.480><c> welcome</c>", "",
        f"00:00:02.470 --> 00:00:02.480 {place}", "hello and welcome", " ", "",
        f"00:00:02.480 --> 00:00:05.000 {place}", "hello and welcome", "to<00:00:02.800><c> the</c><00:00:03.000><c> show</c>", "",
        f"00:00:05.000 --> 00:00:05.010 {place}", "to the show", " ", "",
        f"00:00:05.010 --> 00:00:07.000 {place}", "to the show", "to the show", ""]))
    cues = read_cues(tmp_path / "a.en.vtt")
    assert [(cue.start, cue.end, joined(cue.lines)) for cue in cues] == [
        (0.08, 2.47, "hello and welcome"), (2.48, 5.0, "to the show"), (5.01, 7.0, "to the show")]
    (tmp_path / "b.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nNo.\n\n2\n00:00:02,000 --> 00:00:03,000\nNo.\n \n"
                                    "3\n00:00:09,000 --> 00:00:10,000\nNo.\nI mean it.\n")
    assert [cue.lines for cue in read_cues(tmp_path / "b.srt")] == [("No.",), ("No.",), ("No.", "I mean it.")]


def test_which_of_several_subtitle_files(tmp_path):
    clip = tmp_path / "clip.v2.mp4"
    expected = ["clip.v2.txt", "clip.v2.de.vtt", "clip.v2.en-GB.vtt", "clip.v2.vtt", "clip.v2.srt"]
    (tmp_path / "clip.txt").write_text("of another")
    assert Sidecars().find(clip) is None
    for name in expected:
        (tmp_path / name).write_text("x")
        assert Sidecars().find(clip) == tmp_path / name
    assert Sidecars().find(tmp_path / "clip.mp4", transcripts=False) is None
    assert Sidecars(language="de").all(clip)[:3] == [tmp_path / f"clip.v2.{ending}" for ending in ("srt", "vtt", "de.vtt")]
    (tmp_path / "clip.v2.json").write_text("x")
    assert Sidecars(more=(".json",)).all(clip)[-2:] == [tmp_path / "clip.v2.json", tmp_path / "clip.v2.txt"]
