"""Shards of other programs: names with dots, and members that nothing reads, are told and counted."""

import logging

import pytest

from omnivast.data.shards.pack import main, verify
from omnivast.data.shards.shard_index import load_index, scan
from omnivast.data.shards.shard_set import open_shards
from tests.data.sharding import write_tar


def keys(tmp_path, *names):
    return scan(write_tar(tmp_path / "s.tar", [(name, b"x") for name in names]))


def test_names_with_dots_are_samples_of_their_own(tmp_path):
    index = keys(tmp_path, "take 2.0 (a).mp4", "take 2.0 (a).json", "take 2.2 (b).MP4", "take 2.2 (b).json", "c.mp4", "c.json")
    assert {key: [*members] for key, members in index.samples.items()} == {
        "c": [".mp4", ".json"], "take 2.0 (a)": [".mp4", ".json"], "take 2.2 (b)": [".mp4", ".json"]}
    assert index.dotted == (2, "take 2.0 (a)") and not index.unknown
    assert load_index(str(tmp_path / "s.tar")) == index == load_index(str(tmp_path / "s.tar"))  # made, and read back


@pytest.mark.parametrize("names, samples", [
    (["v1.mp4", "v1.json", "v1.5.mp4", "v1.5.json"], ["v1", "v1.5"]),  # a clip of the same make as its neighbour
    (["a.1.mp4", "a.2.mp4"], ["a.1", "a.2"]),  # media alone: the texts are elsewhere
    (["x/v.1/a.b.mp4", "x/v.1/a.b.txt"], ["x/v.1/a.b"]),
])
def test_what_counts_as_a_dotted_sample(tmp_path, names, samples):
    index = keys(tmp_path, *names)
    assert sorted(index.samples) == samples and not index.unknown


@pytest.mark.parametrize("names, unknown", [
    (["k.jpg", "k.json", "k.mask.png", "k.meta.json"], {".png": (1, "k.mask.png"), ".json": (1, "k.meta.json")}),
    (["k.jpg", "k.json", "k.seg.png", "k.seg.json"], {".png": (1, "k.seg.png"), ".json": (1, "k.seg.json")}),
    (["k.mp4", "k.left.mp4", "k.cls", "j.cls"], {".mp4": (1, "k.left.mp4"), ".cls": (2, "k.cls")}),
    (["k.mp4", "j.rgb.mp4", "j.depth.mp4", "j.meta.json"],
     {".mp4": (2, "j.rgb.mp4"), ".json": (1, "j.meta.json")}),
])
def test_further_parts_of_a_sample_are_no_samples(tmp_path, names, unknown):
    """The convention gives a sample members of several parts, such as key.mask.png."""
    index = keys(tmp_path, *names)
    assert [*index.samples] == ["k"] and index.unknown == unknown and not index.dotted[0]


def test_a_run_and_verify_tell_both(tmp_path, caplog):
    for number in range(2):
        write_tar(tmp_path / f"a-{number}.tar", [(f"t 1.{number}.mp4", b"x"), (f"t 1.{number}.txt", b"y"), (f"k{number}.mp4", b"x"),
                                                 (f"k{number}.txt", b"y"), (f"k{number}.cls", b"0"), (f"k{number}.pyd", b"0")])
    both = ["4 member(s) that are not read: 2 .cls ('k0.cls' first), 2 .pyd ('k0.pyd' first)",
            "2 samples have dots in their names, such as 't 1.0'"]
    with caplog.at_level(logging.INFO, "omnivast"):
        assert verify([str(tmp_path / "a-0.tar"), str(tmp_path / "a-1.tar")]) == []
    assert all(words in caplog.text for words in both) and "4 samples" in caplog.text
    for _ in range(2):  # the second time from the index
        caplog.clear()
        assert len(open_shards("d", [str(tmp_path)], training=True)) == 4
        assert all(words in caplog.text for words in both)
    assert main(["verify", str(tmp_path)]) == 0


def test_the_mark_stands_for_names_order_and_content(tmp_path):
    first = [("a.mp4", b"1" * 700), ("b.mp4", b"2" * 700)]
    mark = scan(write_tar(tmp_path / "s.tar", first)).mark
    assert mark == scan(write_tar(tmp_path / "other.tar", first)).mark and len(mark) == 16
    for other in (first[::-1], [("a.mp4", b"1" * 700), ("c.mp4", b"2" * 700)], [("a.mp4", b"1" * 699 + b"3"), first[1]], first[:1]):
        assert scan(write_tar(tmp_path / "s.tar", other)).mark != mark
