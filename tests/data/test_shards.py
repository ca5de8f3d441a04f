"""Tar shards: what is packed is read as from the folders, whatever the number of processes; what is damaged is named and counted."""

import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import tarfile
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from config.tasks import Modality
from data import derived
from data.annotations import AnnotationError
from data.batch import Sample
from data.dataset import IndexedDataset
from data.loader import EvalLoader, TrainLoader
from data.media import MediaError, read_clip, read_sound
from data.parts import Part, identity
from data.shard_index import ShardError, key_of, keys_of, load_index, scan, split_name
from data.shard_set import Shards, expand, open_shards
from data.shards import Packing, main, pack, verify
from data.spec import DataError
from tests.data.conftest import vast_rows
from tests.data.hostile import cases
from tests.data.test_loader import same
from tests.media_factory import write_image, write_json, write_video, write_wav


def write_tar(path, members) -> str:
    """A tar file of (name, content) or ready TarInfos."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, BytesIO(member[1]))
    return str(path)


def sharded(corpus, folder, **changes):
    """The dataset of ``corpus.config`` in the shards of a folder."""
    return corpus.config(**{"type": "srcindexed", "shards": [str(folder)], "vision": None, "audio": None, "txt": "", **changes})


def packing(corpus, output, **changes) -> Packing:
    settings = {"txt": str(corpus.root / "train.json"), "vision": str(corpus.root / "videos"), "shard_size": 20_000}
    return Packing(**{**settings, "output": str(output), **changes})


def three_clips(corpus) -> int:
    """A size that the third clip passes, also where one of the three is the silent one."""
    loud, silent = (os.path.getsize(corpus.root / "videos" / f"clip{i}.mp4") for i in (0, 3))
    return 2 * (loud + 2048) + silent // 2


@pytest.fixture(scope="module")
def packed(corpus, tmp_path_factory) -> Path:
    """The eight clips of the corpus, three to a shard."""
    output = tmp_path_factory.mktemp("packed")
    manifest = pack(packing(corpus, output, shard_size=three_clips(corpus)))
    assert [shard["samples"] for shard in manifest["shards"]] == [3, 3, 2] and manifest["complete"]
    return output


@pytest.fixture
def own(packed, tmp_path) -> Path:
    """A copy of the shards to be damaged."""
    shutil.copytree(packed, tmp_path / "own")
    return tmp_path / "own"


# ------------------------------------------------------------------------------------------------------ as from the folders


def assert_same_samples(one, other, spec):
    """Every row of two datasets, in training and in evaluation."""
    for training in (True, False):
        here, there = (IndexedDataset(config, spec, seed=3, training=training) for config in (one, other))
        assert here.annotations.ids() == there.annotations.ids() and len(here)
        for row in range(len(here)):
            first, second = here.read(row + 5, row), there.read(row + 5, row)
            assert isinstance(first, Sample) and same(first, second), row


def test_shards_give_the_samples_of_the_folders(corpus, packed, spec):
    for task in ("ret%tvas%tv%ta_cap%tvas", "ret%ta", "ret%ts", "cap%tv"):
        assert_same_samples(corpus.config(task=task, name="x"), sharded(corpus, packed, task=task, name="x"), spec)
    rows = corpus.annotate("other.json", vast_rows()[2:6])  # texts from an annotation file, of some of the clips
    assert_same_samples(corpus.config(txt=rows), sharded(corpus, packed, txt=rows), spec)


def test_names_of_every_kind(corpus, spec, tmp_path):
    names = ["a b", "ü 🎬", "v1.5", "100%", "sub/dir/x", "q'u\"o,te", "end.mp4", "sub.dir/y.z", "x" * 150, "new\nline"]
    for i, name in enumerate(names):
        write_video(tmp_path / "videos" / f"{name.removesuffix('.mp4')}.mp4", frames=4, size=32, hertz=200 + 30 * i)
    rows = [{"video_id": name, "desc": f"this is {i}"} for i, name in enumerate(names)]
    txt = str(write_json(tmp_path / "rows.json", rows))
    pack(Packing(txt, str(tmp_path / "out"), str(tmp_path / "videos"), shard_size=9000))
    settings = {"task": "ret%tva", "txt": txt}
    assert_same_samples(corpus.config(**settings, vision=str(tmp_path / "videos")), sharded(corpus, tmp_path / "out", **settings), spec)
    assert_same_samples(corpus.config(**settings, vision=str(tmp_path / "videos")), sharded(corpus, tmp_path / "out", task="ret%tva"), spec)
    assert all("." not in Path(key_of(name)).name for name in names) and len({key_of(name) for name in names}) == len(names)


def test_sound_files_beside_videos_and_alone(corpus, spec, tmp_path):
    """A clip without a sound file is silent where there are sound files, though its video has a track."""
    for i in range(5):
        if i != 2:
            write_wav(tmp_path / "sounds" / f"clip{i}.wav", hertz=100 + 70 * i)
    txt, sounds = corpus.annotate("five.json", vast_rows(5)), str(tmp_path / "sounds")
    pack(packing(corpus, tmp_path / "both", txt=txt, audio=sounds))
    folders = corpus.config(txt=txt, audio=sounds)
    assert_same_samples(folders, sharded(corpus, tmp_path / "both"), spec)
    silent = IndexedDataset(sharded(corpus, tmp_path / "both"), spec, seed=3, training=True).read(0, 2)
    assert silent.present == {Modality.VISION: True, Modality.AUDIO: False, Modality.SUBTITLE: True}
    with pytest.raises(DataError, match="1 of 5 clips have no file, such as clip2; --skip_missing"):
        pack(packing(corpus, tmp_path / "alone", txt=txt, audio=sounds, vision=None))
    manifest = pack(packing(corpus, tmp_path / "alone", txt=txt, audio=sounds, vision=None, skip_missing=True))
    assert (manifest["samples"], manifest["left_out"]) == (4, 1)
    rows = corpus.annotate("heard.json", [row for row in vast_rows(5) if row["clip_id"] != "clip2"])
    assert_same_samples(corpus.config(txt=rows, audio=sounds, task="ret%ta"), sharded(corpus, tmp_path / "alone", task="ret%ta"), spec)


def test_images_and_captions_a_line(corpus, spec, tmp_path):
    pictures = [(f"p{i}.png", write_image(tmp_path / f"p{i}.png", 40, 30 * i).read_bytes()) for i in range(4)]
    texts = [(f"p{i}.txt", f"one of {i}\n\n two of {i} \n".encode()) for i in range(4)]
    write_tar(tmp_path / "out" / "a.tar", [m for pair in zip(pictures, texts) for m in pair])
    txt = corpus.annotate("pictures.json", [{"image": f"p{i}.png", "caption": [f"one of {i}", f"two of {i}"]} for i in range(4)])
    settings = {"task": "ret%tv", "vision_format": "image_rawimage", "vision_sample_num": 1}
    by_key = IndexedDataset(sharded(corpus, tmp_path / "out", **settings), spec, seed=3, training=False)
    assert by_key.annotations.ids() == ["p0", "p1", "p2", "p3"] and by_key.annotations.caption_count == 8
    folders = corpus.config(txt=txt, vision=str(tmp_path), **settings)
    assert_same_samples(folders, sharded(corpus, tmp_path / "out", txt=txt, **settings), spec)
    pack(Packing(txt, str(tmp_path / "packed"), str(tmp_path), images=True))
    assert_same_samples(folders, sharded(corpus, tmp_path / "packed", **settings), spec)


def test_the_cache_keeps_what_shards_hold(corpus, packed, spec, tmp_path):
    cached = sharded(corpus, packed, cache_dir=str(tmp_path / "cache"))
    assert_same_samples(sharded(corpus, packed), cached, spec)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert len(kept) == 16
    shard = str(packed / "clips-000000.tar")
    assert identity(Part(shard, 512, 100, "a.mp4")) != identity(Part(shard, 1024, 100, "a.mp4"))  # clips of one size in one shard
    assert_same_samples(sharded(corpus, packed), cached, spec)
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}


def test_hostile_files_are_in_shards_what_they_are_in_folders(tmp_path):
    """Every damaged file, in the middle of a shard whose next bytes are media too."""
    (tmp_path / "media").mkdir()
    filler = write_video(tmp_path / "filler.mp4", frames=4, size=32).read_bytes()
    for case in cases(tmp_path):
        path = tmp_path / "media" / "case"
        path.write_bytes(case.content)
        (tmp_path / "shard").write_bytes(filler + case.content + filler)
        part = Part(str(tmp_path / "shard"), len(filler), len(case.content), case.name)
        outcomes = []
        for source in (path, part):
            try:
                if case.name.endswith((".wav", ".mp3", ".flac", ".ogg", ".m4a")):
                    outcomes.append((None, read_sound(source)))
                else:
                    clip = read_clip(source, lambda count: list(range(0, count, max(1, count // 8))), sound=True)
                    outcomes.append((clip.frames, clip.waveform))
            except MediaError as error:
                outcomes.append(error.reason)
        told = [re.sub(r"'[^']*'", "", outcome) if isinstance(outcome, str) else outcome for outcome in outcomes]
        assert all(same(a, b) for a, b in zip(*told)) if isinstance(told[0], tuple) else told[0] == told[1], (case.name, outcomes)


# ---------------------------------------------------------------------------------------------------------- once per epoch


def loader(corpus, packed, spec, tokenizer, workers=0, **options):
    config = sharded(corpus, packed, name="c", n_workers=workers, batch_size=6, epoch=6, task="ret%tv",
                     **{key: options.pop(key) for key in ("shuffle_shards",) if key in options})
    return TrainLoader([config], spec, tokenizer, seed=7, **options)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_every_sample_once_per_epoch_over_processes_and_workers(corpus, packed, spec, tokenizer, block):
    reads = []
    for world, workers in ((1, 0), (1, 2), (2, 0), (3, 1)):
        ranks = [list(loader(corpus, packed, spec, tokenizer, workers, rank=rank, world_size=world, shuffle_shards=block))
                 for rank in range(world)]
        reads.append([clip_id for step in zip(*ranks) for batch in step for clip_id in batch.clip_ids])
    assert all(read == reads[0] for read in reads) and len(reads[0]) == 48
    epochs = [reads[0][start : start + 8] for start in range(0, 48, 8)]
    assert all(sorted(epoch) == [f"clip{i}" for i in range(8)] for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) == 6
    shard = {f"clip{i}": i // 3 for i in range(8)}
    changes = [sum(shard[a] != shard[b] for a, b in zip(epoch, epoch[1:])) for epoch in epochs]
    if block == 1:  # one shard after the other, in another order each time
        assert changes == [2] * 6 and len({tuple(dict.fromkeys(map(shard.get, epoch))) for epoch in epochs}) > 1
        assert len({tuple(clip for clip in epoch if shard[clip] == 0) for epoch in epochs}) > 1
    else:
        assert max(changes) > 2


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_at_any_step(corpus, packed, spec, tokenizer, workers):
    whole = list(loader(corpus, packed, spec, tokenizer, shuffle_shards=1))
    assert len(whole) == 8
    for start in (1, 5):
        tail = list(loader(corpus, packed, spec, tokenizer, workers, shuffle_shards=1).batches(start))
        assert len(tail) == 8 - start and all(same(one, other) for one, other in zip(whole[start:], tail))


# ------------------------------------------------------------------------------------------------------------ what is damaged


def read_all(config, spec):
    """(ids that were read, id → reason of those that were not)."""
    dataset = IndexedDataset(config, spec, seed=3, training=True)
    results = [dataset.read(row, row) for row in range(len(dataset))]
    return [r.clip_id for r in results if isinstance(r, Sample)], dict(r for r in results if not isinstance(r, Sample))


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


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"\0" * 10240, b"\x1f\x8b" + b"\0" * 1000, os.urandom(2000)])
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
    monkeypatch.setattr("data.shard_index.scan", lambda path, real=scan: made.append(os.path.basename(path)) or real(path))
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
    for module in ("data.derived", "data.shard_index"):
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


# ----------------------------------------------------------------------------------------------------------------- packing


def digests(folder) -> dict[str, str]:
    return {shard["name"]: shard["sha256"] for shard in json.loads((folder / "shards.json").read_text())["shards"]}


def test_killed_at_any_moment_it_goes_on(corpus, tmp_path, packed):
    for i in range(40):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / f"c{i}.mp4").write_bytes(random.Random(i).randbytes(200_000))
    write_json(tmp_path / "rows.json", [{"id": f"c{i}", "desc": str(i)} for i in range(40)])
    out, settings = tmp_path / "out", Packing(str(tmp_path / "rows.json"), "", str(tmp_path / "videos"), shard_size=500 * 1024)
    assert len(pack(replace(settings, output=str(tmp_path / "whole")))["shards"]) == 14
    stops, context = 0, multiprocessing.get_context("fork")
    for moment in (".*.tmp", "*0.tar", "*4.tar", ".*8.tar*.tmp", "*9.tar"):
        child = context.Process(target=pack, args=(replace(settings, output=str(out)),))
        child.start()
        while child.is_alive() and not list(out.glob(moment)):
            time.sleep(0.0005)
        child.kill()
        child.join(60)
        stops += child.exitcode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in sorted(out.glob("*.tar"))[:-1]}  # the last may be in no list yet
    assert stops and pack(replace(settings, output=str(out)))["complete"]
    assert digests(out) == digests(tmp_path / "whole") and not list(out.glob(".*tmp"))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())


def test_packing_repeats_what_is_gone_and_refuses_another_order(own, corpus):
    before = digests(own)
    settings = packing(corpus, own, shard_size=three_clips(corpus))
    stamp = (own / "clips-000000.tar").stat().st_mtime_ns
    (own / "clips-000001.tar").unlink()
    assert pack(settings)["complete"] and digests(own) == before and (own / "clips-000000.tar").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="packed with other settings .shard_size differ"):
        pack(packing(corpus, own, shard_size=1))
    content = bytearray((own / "clips-000001.tar").read_bytes())
    content[3000] ^= 1
    (own / "clips-000001.tar").write_bytes(content)
    with pytest.raises(DataError, match="1 of the shards do not hold what was packed"):
        pack(settings)


def test_what_cannot_be_packed(corpus, tmp_path):
    twice = corpus.annotate("twice.json", [{"id": "clip1", "desc": "x"}, {"id": "clip2", "desc": "z"}, {"id": "clip1", "desc": "y"}])
    with pytest.raises(DataError, match="1 of 3 rows repeat the id of another.*--texts none"):
        pack(packing(corpus, tmp_path / "a", txt=twice))
    assert pack(packing(corpus, tmp_path / "a", txt=twice, texts=False))["samples"] == 2
    (tmp_path / "foreign").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "x.mpg").write_bytes(b"x")
    write_tar(tmp_path / "foreign" / "x.tar", [("a.mp4", b"x")])
    for changes, error, message in (
        ({"vision": None}, DataError, "nothing to pack"),
        ({"vision": str(tmp_path / "odd"), "txt": corpus.annotate("odd.json", [{"id": "x.mpg", "desc": "x"}])}, DataError,
         "x.mpg: a shard tells what its members are by their extensions; expected one of .mp4,"),
        ({"vision": str(tmp_path / "none")}, DataError, "does not exist"),
        ({"txt": str(tmp_path / "none.json")}, AnnotationError, "none.json: cannot be read: No such file"),
        ({"txt": corpus.annotate("bad.json", [{"id": "clip0", "desk": "x"}])}, AnnotationError, "row 0 .* unknown field 'desk'"),
        ({"txt": corpus.annotate("no.json", [])}, DataError, "no clip to pack"),
        ({"output": str(tmp_path / "foreign")}, DataError, "shards of another origin, such as x.tar"),
    ):
        with pytest.raises(error, match=message):
            pack(packing(corpus, **{"output": tmp_path / "out", **changes}))
    assert not list(tmp_path.glob("out/*.tar"))


def test_command_line(corpus, packed, tmp_path, caplog, capsys, monkeypatch):
    assert main(["verify", str(packed)]) == 0
    assert main(["verify", str(tmp_path)]) == 2
    command = ["pack", "--txt", str(corpus.root / "train.json"), "--vision", str(corpus.root / "videos"), "--output", str(tmp_path / "o")]
    assert main([*command, "--name", "a/b"]) == 2
    for size in ("0", "x", "-1"):
        with pytest.raises(SystemExit):
            main([*command, "--shard_size", size])
    assert main([*command, "--shard_size", "1.5M", "--texts", "none", "--name", "x"]) == 0
    assert [path.name for path in (tmp_path / "o").glob("*.tar")] == ["x-000000.tar"]
    shutil.copy(packed / "clips-000002.tar", tmp_path / "o" / "y.tar")
    os.truncate(tmp_path / "o" / "y.tar", 4000)
    assert main(["verify", str(tmp_path / "o" / "*.tar")]) == 1
    monkeypatch.setattr("data.shards.verify", lambda paths: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["verify", str(packed)]) == 130
