"""What a packet of a video needs and what it leaves to later ones, from its first bytes alone; one function or class per codec.

Every codec is seen as one with up to 16 slots in which pictures are kept. A picture reads slots and fills slots. Where a standard names
the slots (AV1) they are those; where it only says that a picture is referred to by others, all such pictures share a slot that each of
them reads and fills: then all of them are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from omnivast.data.media.av1 import Av1Pictures

INSIDE, OPEN, CLOSED = range(3)
"""Decoding cannot begin here; it can for what is shown later; it can for all that follows."""
ALL = 0xFFFF
ALL_INTRA = 0b10001000
"""The first byte of an H.264 slice: from the first macroblock on, type 7, "all slices of this picture are intra"."""
LAYER, USER_DATA, VOP = b"\0\0\1\x20", b"\0\0\1\xb2", b"\0\0\1\xb6"
"""Start codes of MPEG-4."""
SMALLEST_VOP = 12
HEAD = 256
"""Bytes of a packet in which a VOP begins."""


class Picture(NamedTuple):
    """What one packet holds: one shown picture, perhaps with hidden ones."""

    entry: int
    reads: int
    """Slots, a bit for each."""
    fills: int


CLOSED_PICTURE, OPEN_PICTURE = Picture(CLOSED, 0, ALL), Picture(OPEN, 0, ALL)
REFERENCE, NON_REFERENCE = Picture(INSIDE, 1, 1), Picture(INSIDE, 1, 0)

PictureReader = Callable[[Any], Picture | None]
"""The bytes of a packet → its picture; None where it is not one shown picture as this file understands it."""


def picture_reader(codec: str, extradata: bytes | None) -> PictureReader | None:
    """The reader for a codec by FFmpeg's name, of a stream with these parameters; None where there is none."""
    extradata = extradata or b""
    configured = len(extradata) > 22 and extradata[0] == 1
    if codec == "h264" and len(extradata) > 6 and extradata[0] == 1:
        return lambda data: h264_picture(data, (extradata[4] & 3) + 1)
    if codec == "hevc" and configured:
        return lambda data: hevc_picture(data, (extradata[21] & 3) + 1)
    if codec == "vp9":
        return vp9_picture
    if codec in ("av1", "libdav1d"):
        return _av1_reader(extradata)
    if codec == "mpeg4" and LAYER in extradata and b"DivX" not in extradata:  # which packs two pictures into one packet
        return mpeg4_picture
    return None


# ------------------------------------------------------------------------------------------------- H.264 and HEVC, with lengths


def h264_picture(data: Any, length: int) -> Picture | None:
    """ITU-T H.264, 7.4.1: a picture with ``nal_ref_idc`` 0 is no reference, nothing after an IDR picture refers to what is before it.
    Units stand behind their lengths of ``length`` bytes, as ISO/IEC 14496-15 stores them (mp4, mov, mkv, flv)."""
    start, recovers, parameters = 0, False, False
    while start + length < len(data):
        size = int.from_bytes(data[start : start + length], "big")
        header = data[start + length]
        kind = header & 31
        if kind == 5:
            return CLOSED_PICTURE
        if kind in (1, 2):
            if recovers and data[start + length + 1] == ALL_INTRA:
                return OPEN_PICTURE
            return None if parameters else REFERENCE if header >> 5 & 3 else NON_REFERENCE
        parameters |= kind in (7, 8)
        recovers |= kind == 6 and _recovers(bytes(data[start + length + 1 : start + length + size]))
        start += length + size
    return None


def _recovers(message: bytes) -> bool:
    """Whether supplemental information says that all from here on is exact when decoding begins here (H.264, D.2.8): a recovery point of
    no frames, an exact match, no broken link. Only the first message of a unit is read, as encoders write it."""
    return len(message) > 2 and message[0] == 6 and message[2] & 0b11100000 == 0b11000000


def hevc_picture(data: Any, length: int) -> Picture | None:
    """ITU-T H.265, 7.4.2.2: a picture reads those of its own sub-layer and lower ones, but of its own no non-references. Even slots hold
    the references of a sub-layer, odd ones the rest. What is shown before a CRA or IDR picture and follows it may need what is before."""
    start, found, parameters = 0, None, False
    while start + length + 1 < len(data):
        size = int.from_bytes(data[start : start + length], "big")
        kind, extension, layer = data[start + length] >> 1 & 63, data[start + length] & 1, (data[start + length + 1] & 7) - 1
        if layer < 0 or kind in (36, 37) or 10 <= kind < 19 or 22 <= kind < 32:  # damaged, ends of sequences, broken links, reserved
            return None
        parameters |= kind in (32, 33, 34)
        if found is None and kind < 22 and not extension:
            if kind >= 19:
                found = CLOSED_PICTURE if kind == 20 else OPEN_PICTURE
            else:
                found = Picture(INSIDE, (2 << 2 * layer) - 1, (1 if kind % 2 else 2) << 2 * layer)
        start += length + size
    return None if found is not None and parameters and found.entry == INSIDE else found


# ---------------------------------------------------------------------------------------------------------------- the others


def vp9_picture(data: Any) -> Picture | None:
    """VP9 bitstream, 6.2 and annex B: probabilities travel from frame to frame, so all since a key frame are needed."""
    marker, size = data[-1], len(data)
    frames = [0]
    if marker & 0b11100000 == 0b11000000:  # a superframe: hidden frames, then a shown one
        width, count = (marker >> 3 & 3) + 1, (marker & 7) + 1
        index = size - 2 - width * count
        if index < 0 or data[index] != marker:
            return None
        for i in range(count - 1):
            frames.append(frames[-1] + int.from_bytes(data[index + 1 + i * width : index + 1 + (i + 1) * width], "little"))
    headers = [data[start] >> (0 if data[start] >> 4 & 3 == 3 else 1) for start in frames if start < size]
    if any(data[start] >> 6 != 2 for start in frames if start < size) or sum(h >> 2 & 1 or h & 1 for h in headers) != 1:
        return None
    return CLOSED_PICTURE if headers[0] & 0b110 == 0 else REFERENCE


def mpeg4_picture(data: Any) -> Picture | None:
    """ISO/IEC 14496-2, 6.2.5: nothing refers to a B-VOP. Not understood are user data before the VOP, which FFmpeg's decoder heeds ever
    after, and packets so small that the VOP may be one that is not coded."""
    head = bytes(data[:HEAD])
    start = head.find(VOP)
    if start < 0 or start + 4 == len(head) or len(data) - start < SMALLEST_VOP or USER_DATA in head[:start]:
        return None
    return (OPEN_PICTURE, REFERENCE, NON_REFERENCE, REFERENCE)[head[start + 4] >> 6]


def _av1_reader(extradata: bytes) -> PictureReader:
    pictures = Av1Pictures(extradata[4:] if extradata[:1] == b"\x81" else b"")

    def read(data: Any) -> Picture | None:
        found = pictures.read(bytes(data))
        if found is None:
            return None
        enters, reads, fills = found
        return Picture(CLOSED if enters else INSIDE, reads, fills)

    return read
