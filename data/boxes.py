"""Whether an MP4 or MOV file is cut inside its index. FFmpeg reads such a file as one of fewer tracks: a clip falls silent unseen."""

from __future__ import annotations

import struct

from data.parts import Source, span


def cut_in_index(source: Source) -> bool:
    """True where the ``moov`` box (ISO/IEC 14496-12, 4.2) declares more bytes than the file has. Reads only the heads of the outermost
    boxes. Raises OSError and CutError."""
    path, first, end = span(source)
    with open(path, "rb", buffering=0) as file:
        start = 0
        while start + 8 <= end:
            file.seek(first + start)
            size, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            size = large if size == 1 else size
            if kind == b"moov":
                return size > end - start
            if size < 8:
                return False
            start += size
    return False
