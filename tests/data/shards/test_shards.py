"""Tar shards: what is packed is read as from the folders, whatever the number of processes; packing goes on after a kill."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from omnivast.config.tasks import Modality
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.batch import Sample
from omnivast.data.dataset import IndexedDataset
from omnivast.data.media.decode import read_clip, read_sound
from omnivast.data.media.errors import MediaError
from omnivast.data.media.parts import Part, identity
from omnivast.data.shards.pack import Packing, _Hashed, main, pack
from omnivast.data.shards.shard_index import key_of
from omnivast.data.spec import DataError
from tests.data.conftest import vast_rows
from tests.data.media.hostile import cases
from tests.data.sharding import loader, packing, sharded, three_clips, write_tar
from tests.data.test_loader import same
from tests.media_factory import write_image, write_json, write_video, write_wav

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


@pytest.mark.parametrize("block", [0, 1, 2])
def test_every_sample_once_per_epoch_over_processes_and_workers(corpus, packed, spec, tokenizer, block):
    reads = []
    more = [(1, 3), (2, 1), (3, 3)] if block == 1 else []  # nine readers of three shards
    for world, workers in [(1, 0), (1, 2), (2, 0), (3, 1), *more]:
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


# ----------------------------------------------------------------------------------------------------------------- packing


def digests(folder) -> dict[str, str]:
    return {shard["name"]: shard["sha256"] for shard in json.loads((folder / "shards.json").read_text())["shards"]}


def pack_until(settings, owner, place, number):
    """Pack, and die just before the ``number``-th call of ``place``."""
    original, calls = getattr(owner, place), iter(range(1, number))

    def trap(*given, **named):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)

    setattr(owner, place, trap)
    pack(settings)


def test_killed_at_any_moment_it_goes_on(corpus, tmp_path, packed):
    for i in range(40):
        (tmp_path / "videos").mkdir(exist_ok=True)
        (tmp_path / "videos" / f"c{i}.mp4").write_bytes(random.Random(i).randbytes(200_000))
    write_json(tmp_path / "rows.json", [{"id": f"c{i}", "desc": str(i)} for i in range(40)])
    out, settings = tmp_path / "out", Packing(str(tmp_path / "rows.json"), "", str(tmp_path / "videos"), shard_size=500 * 1024)
    assert len(pack(replace(settings, output=str(tmp_path / "whole")))["shards"]) == 14
    for owner, place, number in ((_Hashed, "write", 5), (os, "replace", 2), (os, "replace", 3), (os, "fsync", 8), (_Hashed, "write", 40),
                                 (os, "replace", 6)):
        arguments = (replace(settings, output=str(out)), owner, place, number)
        child = multiprocessing.get_context("fork").Process(target=pack_until, args=arguments)
        child.start()
        child.join(300)
        assert child.exitcode == -signal.SIGKILL, (place, number)
    kept = {path: path.stat().st_mtime_ns for path in sorted(out.glob("*.tar"))[:-1]}  # the last may be in no list yet
    assert pack(replace(settings, output=str(out)))["complete"]
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
    (tmp_path / "odd" / "x.xyz").write_bytes(b"x")
    write_tar(tmp_path / "foreign" / "x.tar", [("a.mp4", b"x")])
    for changes, error, message in (
        ({"vision": None}, DataError, "nothing to pack"),
        ({"vision": str(tmp_path / "odd"), "txt": corpus.annotate("odd.json", [{"id": "x.xyz", "desc": "x"}])}, DataError,
         "x.xyz: a shard tells what its members are by their extensions; expected one of .mp4,"),
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
    monkeypatch.setattr("omnivast.data.shards.pack.verify", lambda paths: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["verify", str(packed)]) == 130
