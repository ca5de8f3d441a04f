"""Files are whole or absent, whatever interrupts the writing."""

import hashlib
import os
import stat

import pytest

from omnivast.utils.files import sha256_file, write_atomically


@pytest.mark.parametrize("content, wanted", [(b"\x00\xff", b"\x00\xff"), ("für alle\n", "für alle\n".encode()),
                                             (lambda file: file.write(b"by hand"), b"by hand")])
def test_content_of_every_kind(tmp_path, content, wanted):
    path = tmp_path / "new" / "folder" / "file.bin"
    assert write_atomically(str(path), content) == path and path.read_bytes() == wanted
    assert write_atomically(path, b"shorter") and path.read_bytes() == b"shorter"
    assert os.listdir(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = write_atomically(tmp_path / "file", "old")

    def broken(file):
        file.write(b"half of the n")
        raise error

    with pytest.raises(error):
        write_atomically(path, broken)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    with pytest.raises(error):
        write_atomically(tmp_path / "other", broken)
    assert os.listdir(tmp_path) == ["file"]


def test_the_file_is_not_there_until_it_is_whole(tmp_path):
    seen = []
    write_atomically(tmp_path / "file", lambda file: seen.append((tmp_path / "file").exists()) or file.write(b"x"))
    assert seen == [False] and (tmp_path / "file").exists()


def test_the_content_is_on_disk_before_its_name(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, original=original: order.append(name) or original(*a))
    write_atomically(tmp_path / "file", "x")
    assert order == ["fsync", "replace", "fsync"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        path = write_atomically(tmp_path / "file", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("size", [0, 5, 3 << 20])
def test_sha256(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()
