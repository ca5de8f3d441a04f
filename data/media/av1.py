"""Which of AV1's eight slots the frames of a packet read and fill (AV1 bitstream, 5.5, 5.9 and 7.20). All that a frame takes over from
earlier ones, probabilities and motion too, it takes from the slots that its header names."""

from __future__ import annotations

from typing import NamedTuple

SEQUENCE, FRAME_HEADER, FRAME = 1, 3, 6
KEY, INTRA_ONLY, SWITCH = 0, 2, 3
ALL = 0xFF


class _UnknownError(Exception):
    """Something that is not read here."""


class _Bits:
    """Numbers from bits, the highest first."""

    def __init__(self, content: bytes) -> None:
        self._value, self._left = int.from_bytes(content, "big"), 8 * len(content)

    def __call__(self, count: int = 1) -> int:
        self._left -= count
        if self._left < 0:
            raise _UnknownError
        return self._value >> self._left & ((1 << count) - 1)


class _Sequence(NamedTuple):
    """What frame headers depend on."""

    screen_tools: int
    integer_motion: int
    id_bits: int
    order_bits: int


class Av1Pictures:
    """Reads the packets of a stream in their order."""

    def __init__(self, configuration: bytes) -> None:
        """``configuration``: the units that the container keeps beside the packets."""
        self._sequence: _Sequence | None = None
        self._key = [False] * 8
        self.read(configuration)

    def read(self, packet: bytes) -> tuple[bool, int, int] | None:
        """(whether decoding may begin here, slots read, slots filled); None where the packet is not one shown frame, or of a kind that is
        not read here."""
        shown, first, reads, fills = 0, None, 0, 0
        try:
            for kind, content in _units(packet):
                if kind == SEQUENCE:
                    sequence = _sequence(_Bits(content[:64]))
                    if self._sequence not in (None, sequence):
                        return None
                    self._sequence = sequence
                elif kind in (FRAME_HEADER, FRAME):
                    visible, is_key, frame_reads, frame_fills = self._frame(_Bits(content[:48]))
                    first = is_key and visible if first is None else first
                    reads |= frame_reads & ~fills
                    fills |= frame_fills
                    shown += visible
        except _UnknownError:
            return None
        return (bool(first), reads, fills) if shown == 1 else None

    def _frame(self, bits: _Bits) -> tuple[bool, bool, int, int]:
        """(shown, a key frame, slots read, slots filled)"""
        sequence = self._sequence
        if sequence is None:
            raise _UnknownError
        first = bits(4)
        if first & 8:  # shows a frame that is there already
            slot = first & 7
            if self._key[slot]:  # and would fill all slots with it
                raise _UnknownError
            return True, False, 1 << slot, 0
        kind, shown = first >> 1, bool(first & 1)
        if not shown:
            bits()
        resilient = kind == SWITCH or (kind == KEY and shown) or bool(bits())
        bits()
        screen_tools = bits() if sequence.screen_tools == 2 else sequence.screen_tools
        if screen_tools and sequence.integer_motion == 2:
            bits()
        bits(sequence.id_bits + (kind != SWITCH) + sequence.order_bits)  # its number, whether its size is another, its place in the order
        intra = kind in (KEY, INTRA_ONLY)
        if not intra and not resilient:
            bits(3)
        fills = ALL if kind == SWITCH or (kind == KEY and shown) else bits(8)
        reads = 0 if intra else ALL if resilient else _references(bits, sequence)
        if fills and (kind == KEY or any(self._key)):
            self._key = [kind == KEY if fills >> slot & 1 else was for slot, was in enumerate(self._key)]
        return shown, kind == KEY, reads, fills


def _references(bits: _Bits, sequence: _Sequence) -> int:
    if sequence.id_bits or (sequence.order_bits and bits()):  # in short form slots follow from the order of all of them
        return ALL
    slots = bits(21)  # seven numbers of three bits
    return (1 << (slots >> 18) | 1 << (slots >> 15 & 7) | 1 << (slots >> 12 & 7) | 1 << (slots >> 9 & 7) | 1 << (slots >> 6 & 7)
            | 1 << (slots >> 3 & 7) | 1 << (slots & 7))


def _units(packet: bytes) -> list[tuple[int, bytes]]:
    units, place = [], 0
    while place < len(packet):
        header = packet[place]
        if not header & 2 or header & 4:  # without a size; of a layer
            raise _UnknownError
        place += 1
        size = shift = 0
        while True:
            if place >= len(packet) or shift > 28:
                raise _UnknownError
            byte = packet[place]
            place += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        units.append((header >> 3 & 15, packet[place : place + min(size, 64)]))
        place += size
    return units


def _sequence(bits: _Bits) -> _Sequence:
    bits(3)
    if bits(2) & 1:  # a still picture with a reduced header
        raise _UnknownError
    if bits():  # timing, which frame headers repeat
        equal = (bits(64), bits())[1]
        if equal:
            _variable(bits)
        if bits():  # a model of the decoder
            raise _UnknownError
    delayed = bits()
    if bits(5):  # several operating points: layers
        raise _UnknownError
    bits(12)
    if bits(5) > 7:
        bits()
    if delayed and bits():
        bits(4)
    width, height = bits(4) + 1, bits(4) + 1
    bits(width + height)
    id_bits = 0
    if bits():
        id_bits = bits(4) + 2
        id_bits += bits(3) + 1
    bits(3 + 4)  # 128 pixel blocks, intra filter and edges; the inter tools that come before the order
    ordered = bits()
    if ordered:
        bits(2)
    screen_tools = 2 if bits() else bits()
    integer_motion = (2 if bits() else bits()) if screen_tools else 2
    return _Sequence(screen_tools, integer_motion, id_bits, bits(3) + 1 if ordered else 0)


def _variable(bits: _Bits) -> None:
    zeros = 0
    while not bits():
        zeros += 1
    bits(zeros)
