import struct
import sys
import types
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from omnivast.data.media.containers import IMAGE_EXTENSIONS, SOUND_EXTENSIONS
from omnivast.data.media.decode import read_clip, read_frame_folder, read_sound
from omnivast.data.media.decoders import load_decoder
from omnivast.data.media.errors import MediaError
from omnivast.data.media.folders import MediaFolder
from omnivast.data.media.images import read_image
from omnivast.data.vision import frame_indices
from tests.media_factory import frame_of, grey, write_frames, write_image, write_sound, write_video, write_wav

SHARED = Path(__file__).parents[3].parent / "shared" / "media"


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/media is absent")
def test_real_clips():
    clip = read_clip(SHARED / "video1.mp4", lambda n: frame_indices(n, 2, False), sound=True)
    assert clip.frame_count == 131 and clip.frames.shape == (2, 3, 640, 360) and abs(len(clip.waveform) / 16000 - 4.39) < 0.1
    assert abs(len(read_sound(SHARED / "audio1.mp3")) / 16000 - 4.43) < 0.1  # AAC in MP4, whatever its name says


def test_odd_names(tmp_path):
    for name in ("a b", "it's", 'say "x"', "new\nline", "🎬", "100%", "a:b", "q?x=1#y"):
        write_video(tmp_path / "plain.mp4", frames=1, size=32).rename(tmp_path / f"{name}.mp4")
        assert read_clip(MediaFolder(tmp_path).find(name), every).frame_count == 1


def every(count):
    return list(range(count))


def levels(frames, count):
    return [frame_of(frame.float().mean().item(), count) for frame in frames]


@pytest.mark.parametrize(
    ("ending", "codecs"), [("mp4", {}), ("mov", {}), ("mkv", {}), ("webm", {}), ("avi", {"codec": "mpeg4", "sound_codec": "mp3"})]
)
def test_every_container_gives_its_frames_in_order_and_its_sound(tmp_path, ending, codecs):
    path = write_video(tmp_path / f"a.{ending}", frames=12, size=(48, 32), **codecs)
    clip = read_clip(path, every, sound=True)
    assert clip.frames.shape == (12, 3, 32, 48) and clip.frames.dtype == torch.uint8 and clip.frame_count == 12
    assert levels(clip.frames, 12) == list(range(12))
    assert abs(len(clip.waveform) / 16000 - 1.5) < 0.15 and 0.2 < clip.waveform.abs().max() < 0.45


def test_chosen_frames_are_those_of_the_whole_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=16)
    clip = read_clip(path, lambda n: frame_indices(n, 3, training=False))
    assert levels(clip.frames, 16) == [2, 8, 13] and clip.waveform is None


def test_fewer_frames_than_asked_repeats_the_last(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=2)
    assert levels(read_clip(path, lambda n: frame_indices(n, 4, False)).frames, 2) == [0, 1, 1, 1]


def test_a_wrong_number_of_frames_in_the_header_is_found_out(tmp_path):
    path = write_video(tmp_path / "a.avi", frames=16, codec="mpeg4", sound_codec="mp3")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames != 16  # B-frame delay: the index counts one more
    asked = []
    clip = read_clip(path, lambda n: asked.append(n) or [n - 1])
    assert asked[-1] == 16 and levels(clip.frames, 16) == [15]


def test_a_missing_number_of_frames_is_counted(tmp_path):
    path = write_video(tmp_path / "a.webm", frames=9, sound=False)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    assert levels(read_clip(path, lambda n: [0, n // 2, n - 1]).frames, 9) == [0, 4, 8]


def test_transform_is_applied_to_each_frame(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=4)
    assert read_clip(path, every, transform=lambda frame: frame[:, :8, :8]).frames.shape == (4, 3, 8, 8)


def test_a_rotated_video_is_turned_upright(tmp_path):
    images = np.zeros((2, 32, 64, 3), np.uint8)
    images[:, :, 32:] = 250  # bright on the right, which a clockwise quarter turn brings to the bottom
    path = write_video(tmp_path / "a.mp4", images=images, sound=False)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)
    path.write_bytes(content)
    frame = read_clip(path, every).frames[0].float()
    assert frame.shape == (3, 64, 32) and frame[:, 40:].mean() > 200 and frame[:, :24].mean() < 50


def test_a_video_shorter_than_its_sound_is_whole(tmp_path):
    for ending in ("mp4", "mkv", "webm"):
        path = write_video(tmp_path / f"a.{ending}", frames=8, seconds=6)
        assert read_clip(path, every).frame_count == read_clip(path, every, sound=True).frame_count == 8


def test_silent_video_has_no_waveform(tmp_path):
    path = write_video(tmp_path / "a.mp4", sound=False)
    assert read_clip(path, every, sound=True).waveform is None
    assert read_sound(path) is None


def damaged(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", frames=16, size=64).read_bytes()
    avi = write_video(tmp_path / "whole.avi", codec="mpeg4", sound_codec="mp3").read_bytes()
    front = write_video(tmp_path / "front.mp4", frames=16, size=64, faststart=True).read_bytes()
    webm = write_video(tmp_path / "whole.webm", frames=24).read_bytes()
    return {
        "empty": (b"", "empty"),
        "truncated before its index": (whole[: len(whole) // 2], "not a video or sound file, or truncated"),
        "truncated after its index": (front[: len(front) // 2], "truncated"),
        "truncated webm": (webm[: len(webm) // 3], "truncated|no frame"),
        "truncated avi": (avi[: len(avi) // 2], "truncated"),
        "text": (b"hello, this is a text and not a video\n" * 20, "not a video"),
        "noise": (np.random.default_rng(0).bytes(5000), "not a video|no video|cannot|damaged"),
        "a playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n/etc/passwd\n", "not a video"),
    }


@pytest.mark.parametrize(
    "case",
    ["empty", "truncated before its index", "truncated after its index", "truncated webm", "truncated avi", "text", "noise", "a playlist"],
)
def test_damaged_files_are_named_errors(tmp_path, case):
    content, reason = damaged(tmp_path)[case]
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=reason) as caught:
        read_clip(path, every, sound=True)
    assert caught.value.path == str(path) and "bad.mp4" in str(caught.value)


def test_a_sound_file_is_no_video(tmp_path):
    with pytest.raises(MediaError, match="no video stream"):
        read_clip(write_wav(tmp_path / "a.wav"), every)
    with pytest.raises(MediaError, match="no such file"):
        read_clip(tmp_path / "absent.mp4", every)


@pytest.mark.parametrize(("name", "codec"), [("a.flac", "flac"), ("a.mp3", "mp3"), ("a.ogg", "libopus"), ("a.m4a", "aac")])
def test_sound_files(tmp_path, name, codec):
    waveform = read_sound(write_sound(tmp_path / name, codec=codec))
    assert abs(len(waveform) / 16000 - 2) < 0.15 and waveform.dtype == torch.float32
    assert abs(waveform.abs().max() - 0.3) < 0.1


def test_content_counts_and_not_the_name(tmp_path):
    path = write_sound(tmp_path / "really_aac.mp3", codec="aac", container_format="mp4")
    assert abs(len(read_sound(path)) / 16000 - 2) < 0.15


def test_stereo_at_another_rate_becomes_mono_16_khz_at_the_same_level(tmp_path):
    waveform = read_sound(write_wav(tmp_path / "a.wav", rate=44100, channels=2))
    assert len(waveform) == 32000 and abs(waveform.abs().max() - 0.3) < 0.01


def test_frame_folders_are_read_in_natural_order(tmp_path):
    clip = read_frame_folder(write_frames(tmp_path / "a", frames=12), every)
    assert levels(clip.frames, 12) == list(range(12))
    for name, level in (("frame_9999.jpg", 50), ("frame_10000.jpg", 100), ("frame_0001.jpg", 0), ("frame_10001.jpg", 150)):
        write_image(tmp_path / "long" / name, 8, level)  # four digits, and then five
    long = read_frame_folder(tmp_path / "long", every).frames
    assert [round(frame.float().mean().item() / 50) for frame in long] == [0, 1, 2, 3]
    (tmp_path / "none").mkdir()
    with pytest.raises(MediaError, match="no frame"):
        read_frame_folder(tmp_path / "none", every)
    with pytest.raises(MediaError, match="no such"):
        read_frame_folder(tmp_path / "absent", every)


def test_images(tmp_path):
    assert read_image(write_image(tmp_path / "a.png", (40, 30), 77)).shape == (3, 30, 40)
    Image.new("L", (8, 8), 9).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").eq(9).all()
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 40, 30)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(MediaError, match="not an image"):
        read_image(tmp_path / "bad.jpg")
    cut = write_image(tmp_path / "cut.png", 256, 10).read_bytes()
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(MediaError):
        read_image(tmp_path / "cut.png")


def test_lookup_with_and_without_extension(tmp_path):
    for name in ("a.mp4", "b.webm", "c.MP4", "d.jpg", "d.wav", "sub/e.mp4"):
        write_wav(tmp_path / name) if name.endswith("wav") else (tmp_path / name).parent.mkdir(exist_ok=True) or (tmp_path / name).touch()
    folder = MediaFolder(tmp_path)
    assert [folder.find(i)[len(str(tmp_path)) + 1 :] for i in ("a", "a.mp4", "b", "c", "sub/e")] == [
        "a.mp4",
        "a.mp4",
        "b.webm",
        "c.MP4",
        "sub/e.mp4",
    ]
    assert MediaFolder(tmp_path, SOUND_EXTENSIONS).find("d").endswith("d.wav")
    assert MediaFolder(tmp_path, SOUND_EXTENSIONS).find("d.mp4").endswith("d.wav")
    assert MediaFolder(tmp_path, IMAGE_EXTENSIONS).find("d").endswith("d.jpg")
    assert MediaFolder(tmp_path, directories=True).find("sub").endswith("sub")
    with pytest.raises(MediaError, match="no such file"):
        folder.find("zzz")


@pytest.mark.parametrize("clip_id", ["../x", "/etc/passwd", "a/../../x", "..", "", ".", "a\0b", "..\\x"])
def test_ids_that_leave_the_folder_are_refused(tmp_path, clip_id):
    with pytest.raises(MediaError, match="inside the media folder"):
        MediaFolder(tmp_path / "media").find(clip_id)


def test_other_decoders_are_selectable_and_their_absence_names_the_package(monkeypatch):
    assert load_decoder("av") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "omnivast\[decord\]"'):
        load_decoder("decord")


def test_frames_of_another_decoder_and_sound_of_pyav(tmp_path, monkeypatch):
    class Reader:
        def __init__(self, path, num_threads):
            assert num_threads == 1

        def __len__(self):
            return 6

        def get_batch(self, indices):
            pixels = np.stack([np.full((4, 4, 3), grey(i, 6), np.uint8) for i in indices])
            return types.SimpleNamespace(asnumpy=lambda: pixels)

    monkeypatch.setitem(sys.modules, "decord", types.SimpleNamespace(VideoReader=Reader, __spec__=object()))
    path = write_video(tmp_path / "a.mp4", frames=6)
    clip = read_clip(path, lambda n: [0, n - 1], sound=True, decoder=load_decoder("decord"))
    assert levels(clip.frames, 6) == [0, 5] and clip.frame_count == 6 and clip.waveform is not None


@pytest.mark.parametrize("name", ["decord", "torchcodec"])
@pytest.mark.parametrize("file", ["a.mp4", "a.webm", "a.mkv"])
def test_other_decoders_give_the_frames_that_ours_gives(name, file, tmp_path):
    """Moving pictures in H.264 and VP9, the first and the last frame among those chosen."""
    try:
        decoder = load_decoder(name)
    except ValueError as error:
        pytest.skip(str(error))
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    path = write_video(tmp_path / file, images=images, fps=10)

    def choose(count):
        return [0, 1, count // 2, count - 2, count - 1]

    ours, theirs = read_clip(path, choose), read_clip(path, choose, decoder=decoder)
    assert theirs.frame_count == ours.frame_count == 20 and theirs.decoded == 0
    assert theirs.frames.shape == ours.frames.shape
    assert (theirs.frames.int() - ours.frames.int()).abs().max() <= 2


def test_empty_chunks_of_an_avi_are_no_missing_frames(tmp_path):
    path = tmp_path / "gaps.avi"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuvj420p"
        for index, time in enumerate((0, 7, 9, 19)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), grey(index, 4), np.uint8), format="rgb24")
            frame.pts = time
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 20
    assert levels(read_clip(path, every).frames, 4) == [0, 1, 2, 3]


def test_a_cut_wav_is_truncated_and_one_of_unknown_length_is_not(tmp_path):
    path = write_wav(tmp_path / "a.wav")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="truncated: 50 % of its sound"):
        read_sound(path)
    path.write_bytes(whole[:4] + b"\xff" * 4 + whole[8:40] + b"\xff" * 4 + whole[44:])
    assert len(read_sound(path)) == 32000


def test_a_codec_without_decoder_and_a_format_that_is_not_read_are_said_in_words(tmp_path):
    path = write_video(tmp_path / "a.mp4", sound=False)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(MediaError, match="no decoder for the codec of its video"):
        read_clip(path, every)
    with av.open(str(tmp_path / "b.mp4"), "w", format="nut") as container:
        container.add_stream("mpeg4", rate=8).width = 32
        container.start_encoding()
    Image.new("RGB", (8, 8)).save(tmp_path / "c.mp4", "JPEG")
    for name in ("b.mp4", "c.mp4"):
        with pytest.raises(MediaError, match="not a video or sound file of a format that is read"):
            read_clip(tmp_path / name, every)
