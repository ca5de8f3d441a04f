"""Damaged, missing and odd tar shards are named and counted; their indexes are made once."""

import json
import os
import pickle
import random
import re
import tarfile
from dataclasses import replace

import pytest

from omnivast.data import derived
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.batch import Sample
from omnivast.data.dataset import IndexedDataset
from omnivast.data.loader import EvalLoader, TrainLoader
from omnivast.data.shards.pack import pack, verify
from omnivast.data.shards.shard_index import ShardError, keys_of, load_index, scan, split_name
from omnivast.data.shards.shard_set import Shards, expand, open_shards
from omnivast.data.spec import DataError
from tests.data.sharding import loader, packing, read_all, sharded, write_tar


def test_a_truncated_shard(corpus, own, spec, caplog, tokenizer):
    """Cut within the video of its second sample."""
    shard = own / "clips-000001.tar"
    start, size = scan(str(shard)).samples["clip4"][".mp4"]
    cut = start + size // 2
    os.truncate(shard, cut)
    assert_same = ["clip0", "clip1", "clip2", "clip3", "clip6", "clip7"]
    read, faults = read_all(sharded(corpus, own), spec)
    assert read == assert_same and not faults  # the texts of clip4 and all of clip5 are lost
    assert "1 of its 3 shards are damaged" in caplog.text
    assert f"{shard}: unexpected end of data at byte {cut}; 2 sample(s) found of 3" in caplog.text
    assert "1 clips have no texts, since their shards are cut, and are left out" in caplog.text
    read, faults = read_all(sharded(corpus, own, txt=str(corpus.root / "train.json")), spec)  # all rows, from a file of their own
    assert read == assert_same and re.search("clip4.mp4: truncated: its shard has", faults["clip4"]) is not None
    assert "clip5: no such clip in the shards" in faults["clip5"]
    batches = list(loader(corpus, own, spec, tokenizer))
    assert all(len(batch) == 6 for batch in batches)
    with pytest.raises(ShardError, match="1 of its 3 shards are damaged(.|\n)*A test needs all of its clips"):
        IndexedDataset(sharded(corpus, own), spec, seed=0, training=False)
    assert len(verify(sorted(map(str, own.glob("*.tar"))))) == 1


def test_cut_where_a_member_ends_and_overwritten_headers(own):
    shard = own / "clips-000000.tar"
    index = scan(str(shard))
    start, size = index.samples["clip1"][".mp4"]
    end = start + -(-size // 512) * 512
    content = shard.read_bytes()
    shard.write_bytes(content[:end])
    assert scan(str(shard)).fault == f"cut at byte {end}" and list(scan(str(shard)).samples) == ["clip0", "clip1"]
    shard.write_bytes(content[:end] + b"x" * 512 + content[end + 512 :])
    assert scan(str(shard)).fault == f"no header at byte {end}"
    shard.write_bytes(content[: end + 100])
    assert scan(str(shard)).fault == f"cut at byte {end + 100}"


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\0" * 10240, b"\x1f\x8b" + b"\0" * 1000,
                                     random.Random(4).randbytes(2000)], ids=["empty", "text", "zeros", "gzip", "noise"])
def test_what_is_no_shard(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ShardError, match=r"1 of 1 shards cannot be used(.|\n)*a\.tar: (not a tar archive|no sample in it)"):
        open_shards("x", [str(tmp_path)], training=True)


def test_bytes_changed_anywhere_are_told_or_harmless(own):
    """Headers too: sizes of terabytes, other types, names of nothing."""
    content, draw = (own / "clips-000002.tar").read_bytes(), random.Random(0)
    headers = [place for place in range(0, len(content), 512) if content[place + 257 : place + 262] == b"ustar"]
    told = 0
    for number in range(400):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.choice(headers) + draw.randrange(512) if number % 2 else draw.randrange(len(content))] = draw.randrange(256)
        path = own / "damaged.tar"
        path.write_bytes(damaged[: draw.randrange(len(damaged))] if number % 5 == 0 else damaged)
        try:
            index = scan(str(path))
            told += bool(index.fault) or set(index.samples) != {"clip6", "clip7"}
        except ShardError as error:
            assert str(error).startswith(str(path))
            told += 1
    assert told > 100


def test_missing_shards_are_named_before_training(corpus, own, spec):
    (own / "clips-000001.tar").unlink()
    for patterns in ([str(own)], [str(own / "clips-{000000..000002}.tar")]):
        with pytest.raises(DataError, match="dataset 'clips': 1 of its 3 shards are missing: .*clips-000001.tar"):
            IndexedDataset(sharded(corpus, own, shards=patterns), spec, seed=0, training=True)
    read, _ = read_all(sharded(corpus, own, shards=[str(own / "*.tar")]), spec)
    assert read == ["clip0", "clip1", "clip2", "clip6", "clip7"]


def test_which_files_are_meant(own, tmp_path):
    a, b, c = (str(own / f"clips-00000{i}.tar") for i in range(3))
    for patterns, expected in (([str(own)], [a, b, c]), ([c, a], [c, a]), ([str(own / "clips-{000001..000002}.tar")], [b, c]),
                               ([str(own / "clips-00000{2,0}.tar")], [c, a]), ([str(own / "*[01].tar")], [a, b])):
        assert expand("x", patterns) == expected
    for patterns, message in (([a, str(own)], "is named twice"), ([str(own / "x*.tar")], "no shard is named like"),
                              ([str(tmp_path / "none.tar")], "1 of its 1 shards are missing"),
                              ([str(tmp_path)], "no shard .* in the folder")):
        with pytest.raises(ShardError, match=message):
            expand("x", patterns)
    manifest = json.loads((own / "shards.json").read_text())
    (own / "shards.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(ShardError, match="was not finished; repeat the same"):
        expand("x", [str(own)])
    (own / "shards.json").write_text("[1]")
    with pytest.raises(ShardError, match="shards.json: cannot be read"):
        expand("x", [str(own)])


def test_missing_and_corrupt_members_are_counted(corpus, spec, tmp_path, tokenizer):
    video = (corpus.root / "videos" / "clip1.mp4").read_bytes()
    text = json.dumps({"desc": "a clip"}).encode()
    members = []
    for i in range(12):
        members += [(f"k{i}.json", text)]
        if i != 3:
            members += [(f"k{i}.mp4", b"junk" * 500 if i == 5 else b"" if i == 7 else video[: len(video) // 2] if i == 9 else video)]
    write_tar(tmp_path / "out" / "a.tar", members)
    config = sharded(corpus, tmp_path / "out", task="ret%tv", batch_size=6, epoch=1)
    read, faults = read_all(config, spec)
    assert len(read) == 8 and list(faults) == ["k3", "k5", "k7", "k9"]
    assert "k3: no video member (.mp4," in faults["k3"] and "it has .json" in faults["k3"]
    assert "a.tar:k5.mp4: not a video" in faults["k5"] and "the file is empty" in faults["k7"] and "truncated" in faults["k9"]
    for world in (1, 2, 3):
        batches = [b for rank in range(world) for b in TrainLoader([config], spec, tokenizer, seed=1, rank=rank, world_size=world)]
        assert sum(map(len, batches)) == 12 and {k for b in batches for k, _ in b.unreadable} == {"k3", "k5", "k7", "k9"}


def test_a_shard_cut_while_it_is_read(corpus, own, spec):
    dataset = IndexedDataset(sharded(corpus, own), spec, seed=0, training=True)
    os.truncate(own / "clips-000000.tar", 5000)
    for row, what in ((0, "its shard has 5000 bytes"), (3, None)):
        found = dataset.read(0, row)
        assert isinstance(found, Sample) if what is None else what in found[1]
    (own / "clips-000001.tar").unlink()
    assert "no such file" in dataset.read(0, 3)[1]


def test_texts_that_cannot_be_used(corpus, spec, tmp_path):
    cases = [
        ([("a.mp4", b"x")], "sample 'a' has no text; expected a member 'a.json' or 'a.txt'"),
        ([("a.mp4", b"x"), ("a.json", b"{")], "a.tar:a.json: not JSON"),
        ([("a.mp4", b"x"), ("a.json", b"[1]")], "a.tar:a.json: expected an object, found a list"),
        ([("a.mp4", b"x"), ("a.txt", b"\xff\xfe\xff")], "a.tar:a.txt: not UTF-8"),
        ([("a.mp4", b"x"), ("a.json", b'{"clip_id": "b", "desc": "x"}')], "its 'clip_id' is 'b', and its key 'a'"),
        ([("a.mp4", b"x"), ("a.json", b'{"desk": "x"}')], r"\(id 'a'\): unknown field 'desk'; did you mean 'desc'"),
        ([("a.mp4", b"x"), ("a.txt", b"  \n")], r"\(id 'a'\) has no caption"),
    ]
    for number, (members, message) in enumerate(cases):
        write_tar(tmp_path / str(number) / "a.tar", members)
        with pytest.raises(AnnotationError, match=message):
            IndexedDataset(sharded(corpus, tmp_path / str(number), task="cap%tv"), spec, seed=0, training=True)
    ignoring = sharded(corpus, tmp_path / "4", task="cap%tv", ignore_fields=["clip_id"])
    assert IndexedDataset(ignoring, spec, seed=0, training=True).annotations.ids() == ["a"]


def test_clips_to_be_labelled_need_no_texts(corpus, packed, spec, tokenizer, tmp_path):
    pack(packing(corpus, tmp_path / "out", texts=False))
    settings = {"task": "cap%tv", "batch_size": 4}
    labelling = replace(spec, captioner_mode=True)
    loader = EvalLoader(sharded(corpus, tmp_path / "out", **settings), labelling, tokenizer)
    assert [clip_id for batch in loader for clip_id in batch.clip_ids] == [f"clip{i}" for i in range(8)]
    with pytest.raises(AnnotationError, match="sample 'clip0' has no text"):
        EvalLoader(sharded(corpus, tmp_path / "out", **settings), spec, tokenizer)


def test_refused_members(tmp_path):
    link, hard, device = (tarfile.TarInfo("x.mp4") for _ in range(3))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "a.mp4"
    device.type = tarfile.CHRTYPE
    for member, message in ((link, "'x.mp4' is a symbolic link"), (hard, "is a hard link"), (device, "is no plain file"),
                            (("../x.mp4", b""), "leads out of a folder"), (("/x.mp4", b""), "leads out of a folder"),
                            (("a/../../x.mp4", b""), "leads out of a folder"), (("a.mp4", b"2"), "two members 'a.mp4'")):
        path = write_tar(tmp_path / "a.tar", [("a.mp4", b"1"), ("a.json", b"{}"), member])
        with pytest.raises(ShardError, match=re.escape(f"{path}: ") + ".*" + message):
            scan(path)


def test_a_key_in_two_shards(corpus, spec, tmp_path):
    for name in "abc":
        write_tar(tmp_path / f"{name}.tar", [(f"k{name}.mp4", b"x"), *([("same.mp4", b"x")] if name != "b" else [])])
    with pytest.raises(ShardError, match="a.tar and .*c.tar: both have a sample 'same'; a key names one"):
        open_shards("x", [str(tmp_path)], training=True)


def test_names_and_keys(tmp_path, caplog):
    assert split_name("./a/b.c/key.seg.PNG") == ("a/b.c/key", ".seg.png")
    assert [split_name(name) for name in ("README", ".hidden", "a/.x", "a.")] == [("", "")] * 4
    assert keys_of("a.b.mp4") == ("a.b.mp4", "a.b", "a%2Eb")
    write_tar(tmp_path / "a.tar", [("README", b"x"), ("k.mp4", b"x"), ("k.cls", b"3"), ("k.seg.png", b"x")])
    shards = open_shards("x", [str(tmp_path)], training=True)
    assert set(shards.members("k")) == {".mp4"} and "1 members of its shards belong to no sample, 'README' first" in caplog.text


# ------------------------------------------------------------------------------------------------------------- the indexes


def test_indexes_are_made_once_and_again_when_a_shard_changes(own, monkeypatch):
    made = []
    monkeypatch.setattr("omnivast.data.shards.shard_index.scan", lambda path, real=scan: made.append(os.path.basename(path)) or real(path))
    first = open_shards("x", [str(own)], training=True)
    assert len(made) in (0, 3)  # copied with their times, the shards may have brought their indexes along
    made.clear()
    assert open_shards("x", [str(own)], training=True).members("clip4") == first.members("clip4") and not made
    write_tar(own / "clips-000001.tar", [("new.mp4", b"12345"), ("clip4.mp4", b"123")])
    assert open_shards("x", [str(own)], training=True).members("clip4")[".mp4"].size == 3 and made == ["clips-000001.tar"]
    index = own / "clips-000001.tar.index.json"
    [joined, _] = sorted(own.glob("corpus.*.index"), key=lambda file: -file.stat().st_mtime_ns)
    whole = joined.read_bytes()
    for damage in (b"", b"{", whole[:-100]):
        joined.write_bytes(damage)
        with pytest.raises(ShardError, match="index: cannot be read .*; delete it, and it is made again"):
            open_shards("x", [str(own)], training=True)
    joined.unlink()
    for damage in ("{", '{"format": 0}', json.dumps({**json.loads(index.read_text()), "samples": {"a": {".mp4": 3}}})):
        made.clear()
        index.write_text(damage)
        assert set(load_index(str(own / "clips-000001.tar")).samples) == {"new", "clip4"} and made == ["clips-000001.tar"]


def test_a_folder_that_cannot_be_written(corpus, own, spec, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for file in {*own.glob("*.json"), *own.glob("corpus.*")}:
        if file.name != "shards.json":
            file.unlink()
    before = sorted(own.iterdir())
    for module in ("omnivast.data.derived", "omnivast.data.shards.shard_index"):
        monkeypatch.setattr(f"{module}.writable", lambda folder: folder != own and (folder.mkdir(parents=True, exist_ok=True) or True))
    for _ in range(2):
        assert len(read_all(sharded(corpus, own), spec)[0]) == 8
    assert sorted(own.iterdir()) == before and len(list((tmp_path / "cache").rglob("*.index.json"))) == 3
    monkeypatch.setattr(derived, "writable", lambda folder: False)
    assert len(read_all(sharded(corpus, own), spec)[0]) == 8  # what is there needs no writing
    os.utime(own / "clips-000000.tar", (1, 1))
    with pytest.raises(ShardError, match="neither .* nor .* can be written"):
        open_shards("x", [str(own)], training=True)


def test_a_worker_of_its_own_maps_the_index(corpus, tmp_path):
    write_tar(tmp_path / "a.tar", [(f"key{i:05}.txt", b"") for i in range(3_000)])
    shards = open_shards("x", [str(tmp_path)], training=True)
    sent = pickle.dumps(shards)
    again: Shards = pickle.loads(sent)
    assert len(sent) < 500 and len(again) == 3_000 and again.members("key02345") == shards.members("key02345")
    assert again.shards_of(["key00001", "none", "key02999.mp4"]).tolist() == [0, -1, 0] and again.members("key03000") is None
    assert all(again.members(f"key{i:05}") for i in random.Random(0).sample(range(3_000), 300))
