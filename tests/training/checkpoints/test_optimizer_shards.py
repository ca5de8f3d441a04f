"""Descriptions of an optimiser's shards: what may stand in their pickles."""

from __future__ import annotations

import io
import pickle

import pytest
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from omnivast.training.checkpoints.optimizer_shards import _Describing


class Asking:
    """Pickled as ``getattr(kind, name)``, as Python 3.11.0 to 3.11.3 write the member of an enum."""

    def __init__(self, kind, name):
        self.asked = kind, name

    def __reduce__(self):
        return getattr, self.asked


def read(value):
    return _Describing(io.BytesIO(pickle.dumps(value))).load()


def test_members_of_the_enum_are_read_as_every_python_writes_them():
    for member in _MEM_FORMAT_ENCODING:
        assert read(member) is member and read(Asking(_MEM_FORMAT_ENCODING, member.name)) is member


def test_nothing_else_is_looked_up():
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        read(Asking("text", "join"))
    with pytest.raises(KeyError):
        read(Asking(_MEM_FORMAT_ENCODING, "__class__"))
