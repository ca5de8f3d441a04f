"""What packets say about pictures: whole videos of every codec, and headers written by hand."""

import pytest

from omnivast.data.media.av1 import Av1Pictures
from omnivast.data.media.decode import read_clip
from omnivast.data.media.pictures import (
    CLOSED_PICTURE,
    INSIDE,
    NON_REFERENCE,
    OPEN_PICTURE,
    REFERENCE,
    Picture,
    h264_picture,
    hevc_picture,
    mpeg4_picture,
    picture_reader,
    vp9_picture,
)
from tests.data.media.test_decoding import eight, is_plain, write

HEVC, AV1, VP9 = "libx265", "libsvtav1", "libvpx-vp9"
X265 = "log-level=none:keyint=16:min-keyint=16:scenecut=0:bframes=5"
CASES = {
    "HEVC closed": (HEVC, "mp4", {"x265-params": f"{X265}:open-gop=0"}, 50),
    "HEVC open": (HEVC, "mkv", {"x265-params": f"{X265}:open-gop=1"}, 50),
    "HEVC leading": (HEVC, "mp4", {"x265-params": f"{X265}:open-gop=0:radl=2"}, 50),
    "HEVC sub-layers": (HEVC, "mp4", {"x265-params": f"{X265}:open-gop=1:temporal-layers=3"}, 48),
    "VP9": (VP9, "webm", {"g": "16", "lag-in-frames": "12", "auto-alt-ref": "1", "deadline": "realtime"}, 75),
    "AV1": (AV1, "mp4", {"preset": "12", "svtav1-params": "keyint=31"}, 45),
    "AV1 one after the other": (AV1, "mkv", {"preset": "12", "svtav1-params": "keyint=31:pred-struct=1"}, 60),
    "MPEG-4": ("mpeg4", "mp4", {"g": "12", "bf": "2"}, 45),
    "MPEG-4 without B": ("mpeg4", "mkv", {"g": "12"}, 80),
    "H.264 open": ("libx264", "mp4", {"x264-params": "open-gop=1:keyint=16:scenecut=0:bframes=5:b-pyramid=normal:ref=4"}, 40),
}
CHOICES = (eight, lambda n: [0], lambda n: [n - 1], lambda n: [n // 2, n // 2 + 1], lambda n: list(range(n)),
           lambda n: list(range(3, n, 7)))


@pytest.mark.parametrize("codec, ending, options, most", CASES.values(), ids=CASES)
def test_little_is_decoded_and_frames_are_the_plain_ones(tmp_path, codec, ending, options, most):
    """``most``: of 100 frames decoded for the last of two."""
    path = write(tmp_path / f"a.{ending}", 100, size=128, options=options, codec=codec)
    for choose in CHOICES:
        is_plain(path, choose)
    assert is_plain(path).decoded <= most
    assert read_clip(path, lambda n: [n - 2]).decoded <= 20  # entered at the last key frame but one at the earliest


def test_h264_headers():
    delimiter, parameters = b"\0\0\0\2\x09\xf0", b"\0\0\0\2\x67\x64"
    exact, later = b"\0\0\0\4\x06\x06\x01\xc4", b"\0\0\0\4\x06\x06\x01\x5c"
    slices = {kind: b"\0\0\0\3" + bytes([kind, 0x88, 0x84]) for kind in (0x65, 0x41, 0x01)}
    inter = b"\0\0\0\3\x41\x9a\x84"
    assert [h264_picture(delimiter + data, 4) for data in slices.values()] == [CLOSED_PICTURE, REFERENCE, NON_REFERENCE]
    assert h264_picture(exact + slices[0x41], 4) == OPEN_PICTURE
    assert h264_picture(later + slices[0x41], 4) == REFERENCE and h264_picture(exact + inter, 4) == REFERENCE
    assert h264_picture(parameters + slices[0x65], 4) == CLOSED_PICTURE and h264_picture(parameters + slices[0x41], 4) is None
    assert h264_picture(delimiter, 4) is None and h264_picture(b"\0\0\xff\xff\x09", 4) is None


def hevc(kind, layer=0, before=b"", after=b""):
    return hevc_picture(before + b"\0\0\0\3" + bytes([kind << 1, layer + 1, 0x80]) + after, 4)


def test_hevc_headers():
    parameters, end = b"\0\0\0\3\x44\1\0", b"\0\0\0\2\x48\1"
    assert hevc(20) == CLOSED_PICTURE and hevc(19) == hevc(21) == OPEN_PICTURE
    assert hevc(1) == Picture(INSIDE, 1, 1) and hevc(0) == hevc(8) == Picture(INSIDE, 1, 2)
    assert hevc(1, layer=1) == Picture(INSIDE, 0b111, 0b100) and hevc(0, layer=1) == Picture(INSIDE, 0b111, 0b1000)
    assert hevc(20, before=parameters) == CLOSED_PICTURE and hevc(1, before=parameters) is None
    assert hevc(16) is None and hevc(1, after=end) is None and hevc_picture(parameters, 4) is None


def test_vp9_headers():
    key, shown, hidden, again = b"\x82", b"\x86", b"\x84", b"\x88"
    assert vp9_picture(key + b"\0") == CLOSED_PICTURE and vp9_picture(shown + b"\0") == REFERENCE == vp9_picture(again + b"\0")
    both = hidden + shown + b"\xc1\1\1\xc1"
    assert vp9_picture(both) == REFERENCE
    assert vp9_picture(hidden + b"\0") is None and vp9_picture(shown + shown + b"\xc1\1\1\xc1") is None and vp9_picture(b"\0\0") is None


def test_mpeg4_headers():
    pictures = [mpeg4_picture(b"\0\0\1\xb6" + bytes([kind << 6]) + bytes(40)) for kind in range(4)]
    assert pictures == [OPEN_PICTURE, REFERENCE, NON_REFERENCE, REFERENCE]
    assert mpeg4_picture(b"\0\0\1\xb6\x40\0\0") is None and mpeg4_picture(b"\0\0\1\xb2Lavc\0\0\1\xb6" + bytes(40)) is None
    assert picture_reader("mpeg4", b"\0\0\1\x20\0\0\1\xb2DivX503b1393p") is None and picture_reader("mpeg4", b"\0\0\1\x20") is mpeg4_picture


def test_av1_is_not_guessed_at():
    """Without the sequence header, and of bytes that end too early, nothing is known."""
    pictures = Av1Pictures(b"")
    assert pictures.read(b"\x32\2\x10\0") is None and pictures.read(b"\x32\x7f\x10") is None and pictures.read(b"\x30\0") is None


def test_a_codec_that_is_not_known_has_no_reader():
    assert picture_reader("theora", b"\1" * 40) is None
    assert picture_reader("h264", None) is None and picture_reader("hevc", b"\0\0\0\1") is None
