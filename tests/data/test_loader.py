import dataclasses
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from omnivast.config.tasks import CaptionKind, Modality
from omnivast.data import loader
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.limits import LimitError, LoaderError, check_start, workers_explained
from omnivast.data.loader import EvalLoader, TrainLoader
from omnivast.data.spec import DataError, UnreadableError
from tests.data.conftest import WordTokenizer, vast_rows
from tests.media_factory import write_json, write_video


def same(one, other):
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one) if field.compare)
    return one == other


def train_loader(corpus, spec, tokenizer, workers=0, changes=({},), **options):
    configs = [corpus.config(**{"name": f"c{i}", "n_workers": workers, **change}) for i, change in enumerate(changes)]
    return TrainLoader(configs, spec, tokenizer, **{"seed": 7, **options})


TWO = ({"task": "ret%tvas%tv", "batch_size": 4}, {"task": "cap%ts", "batch_size": 3, "epoch": 1.5})


def test_a_batch(corpus, spec, tokenizer):
    loader = train_loader(corpus, spec, tokenizer)
    assert loader.total_steps == 4 and loader.corpora[0].rows == 8 and str(loader.task("c0")) == "ret%tvas%tv%ta_cap%tvas"
    batches = list(loader)
    assert len(batches) == 4
    batch = batches[0]
    assert batch.frames.shape == (4, 2, 3, 32, 32) and batch.spectrograms.shape == (4, 1, 64, 16) and len(batch.subtitles) == 4
    assert set(batch.captions) == set(CaptionKind) and all(texts.clip.tolist() == [0, 1, 2, 3] for texts in batch.captions.values())
    assert batch.present[Modality.VISION].all() and batch.corpus == "c0"
    for epoch in (batches[:2], batches[2:]):
        assert sorted(row for batch in epoch for row in batch.index.tolist()) == list(range(8))
    assert all(batch.clip_ids == [f"clip{row}" for row in batch.index.tolist()] for batch in batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_later_equals_the_tail(corpus, spec, tokenizer, workers):
    whole = list(train_loader(corpus, spec, tokenizer, 0, TWO, accumulation=2).batches(0))
    loader = train_loader(corpus, spec, tokenizer, workers, TWO, accumulation=2)
    assert loader.total_steps == 2 + 2 and len(whole) == 8
    state = torch.get_rng_state()
    tail = list(loader.batches(start_step=1))
    assert torch.equal(state, torch.get_rng_state()), "reading data must not touch the model's random state"
    assert len(tail) == 6 and all(same(one, other) for one, other in zip(whole[2:], tail))


def test_ranks_partition_the_batch(corpus, spec, tokenizer):
    whole = list(train_loader(corpus, spec, tokenizer))
    halves = [list(train_loader(corpus, spec, tokenizer, rank=rank, world_size=2)) for rank in range(2)]
    for batch, *parts in zip(whole, *halves):
        assert batch.clip_ids == parts[0].clip_ids + parts[1].clip_ids
        assert torch.equal(batch.frames, torch.cat([part.frames for part in parts]))
        assert batch.captions[CaptionKind.VISION].raw == sum((part.captions[CaptionKind.VISION].raw for part in parts), [])


def test_references_of_the_training_captions(corpus, spec, tokenizer):
    """All captions of a clip, of the kind that its group is trained on, also where they stand in several rows."""
    rows = [{"clip_id": f"clip{i % 4}", "desc": [f"a {i}", f"b {i}"]} for i in range(8)]
    changes = ({"name": "one", "task": "cap%tv%tvas"}, {"name": "two", "task": "cap%ta", "txt": corpus.annotate("several.json", rows)},
               {"name": "three", "task": "ret%tv"})
    found = train_loader(corpus, spec, tokenizer, changes=changes).references()
    assert found.keys() == {("one", CaptionKind.VISION), ("one", CaptionKind.OMNI), ("two", CaptionKind.AUDIO)}
    assert found["one", CaptionKind.VISION]["clip3"] == [f"seen 3 wording {k}" for k in range(5)]
    assert found["one", CaptionKind.OMNI]["clip3"] == ["omni 3 says both of them"]
    assert found["two", CaptionKind.AUDIO]["clip1"] == ["a 1", "b 1", "a 5", "b 5"]


def test_steps_and_names_are_checked(corpus, spec, tokenizer):
    assert train_loader(corpus, spec, tokenizer, changes=TWO, num_train_steps=6).total_steps == 6
    for options, message in (
        ({"world_size": 3}, "batch_size 4 .*3 processes cannot share it evenly; take 3 or 6, or another multiple of 3"),
        ({"changes": ({"name": "x"}, {"name": "x"})}, "'x' occurs twice"),
        ({"changes": ({"name": ""},)}, "different names"),
        ({"changes": ()}, "data_cfg.train is empty"),
        ({"changes": ({"epoch": 0},)}, "no training step"),
    ):
        with pytest.raises(DataError, match=message):
            train_loader(corpus, spec, tokenizer, **options)
    with pytest.raises(DataError, match="step 9"):
        train_loader(corpus, spec, tokenizer).batches(9)


@pytest.mark.parametrize(("cores", "processes", "expected"), [(1, 1, 1), (8, 1, 7), (8, 2, 3), (64, 8, 7), (128, 2, 16), (4, 8, 1)])
def test_workers_sized_automatically(corpus, monkeypatch, cores, processes, expected):
    monkeypatch.setattr(loader, "cores", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loader.workers(corpus.config(n_workers=-1)) == expected
    assert loader.workers(corpus.config(n_workers=5)) == 5 and loader.workers(corpus.config(n_workers=0)) == 0


def test_with_the_workers_of_this_machine(corpus, spec, tokenizer):
    automatic, none = (list(train_loader(corpus, spec, tokenizer, workers)) for workers in (-1, 0))
    assert len(automatic) == len(none) and all(same(one, other) for one, other in zip(automatic, none))
    assert all(batch.read_seconds > 0 for batch in automatic)
    assert len(list(eval_loader(corpus, spec, tokenizer, n_workers=-1))) == 2


def test_waiting_time_is_counted(corpus, spec, tokenizer):
    stream = train_loader(corpus, spec, tokenizer).batches(2)
    next(stream)
    assert stream.wait_seconds > 0
    stream.wait_seconds = 0.0
    next(stream)
    assert stream.wait_seconds > 0
    stream.close()


def test_the_fetcher_can_be_sent_to_a_spawned_worker(corpus, spec, tokenizer):
    loader = train_loader(corpus, spec, tokenizer)
    fetcher = pickle.loads(pickle.dumps(loader._fetcher))
    assert same(fetcher.__getitems__(loader.keys(0, 0)), next(iter(loader)))


class DeadlyTokenizer(WordTokenizer):
    def encode(self, texts, max_length):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_dying_worker_is_explained(corpus, spec):
    with pytest.raises(LoaderError, match="n_workers"):
        list(train_loader(corpus, spec, DeadlyTokenizer(), workers=1))


def test_a_death_is_explained_wherever_torch_tells_of_it():
    with pytest.raises(LoaderError, match="killed by signal.*n_workers"), workers_explained():
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match="^another$"), workers_explained():
        raise RuntimeError("another")


def fewer_files(more):
    """At most so many files can be opened from now on; returns the limits before."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, limits[1]))
    return limits


def test_too_few_files_to_start_with(corpus, spec, tokenizer):
    limits = fewer_files(2)
    try:
        with pytest.raises(LimitError, match=r"may have only \d+ at once \(`ulimit -n`\).* lower n_workers"):
            list(train_loader(corpus, spec, tokenizer, workers=2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_clips_are_not_called_unreadable_when_files_run_out(corpus, spec, tokenizer, monkeypatch):
    monkeypatch.setattr(loader, "_start_worker", lambda _: fewer_files(1))  # in the worker alone
    with pytest.raises(LimitError, match="too many open files"):
        list(train_loader(corpus, spec, tokenizer, workers=1))


def test_what_a_worker_raises_is_told_without_its_frames(corpus, spec, tokenizer, broken):
    for i in range(8):
        Path(broken["vision"], f"clip{i}.mp4").write_bytes(b"")
    with pytest.raises(UnreadableError, match="^dataset 'c0': 8 unreadable clip"):
        list(train_loader(corpus, spec, tokenizer, workers=1, changes=(broken,)))


def test_no_room_for_the_locks_of_the_workers():
    for fault, words in ((28, r"/dev/shm, which .*--shm-size.*n_workers to 0"), (11, "ulimit -u"), (24, "ulimit -n"), (12, "no memory")):
        def refuse(fault=fault):
            raise OSError(fault, os.strerror(fault))

        with pytest.raises(LimitError, match=words), check_start(2, SimpleNamespace(Lock=refuse)):
            raise AssertionError("nothing is started")


@pytest.mark.parametrize("cuda", [False, True])
def test_signals_to_the_group_leave_the_workers_reading(corpus, spec, tokenizer, monkeypatch, cuda):
    """torchrun and schedulers send them to all; with CUDA a process between forks the workers, which would end with it."""
    between = forkserver.ForkServer()
    between.set_forkserver_preload(["omnivast.data.loader"])
    for name in ("ensure_running", "connect_to_new_process"):
        monkeypatch.setattr(forkserver, name, getattr(between, name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    whole = list(train_loader(corpus, spec, tokenizer))
    stream = train_loader(corpus, spec, tokenizer, workers=2).batches()
    read = [next(stream), next(stream)]  # one of each worker, so that both are well under way
    processes = stream._iterator._workers
    others = subprocess.Popen([sys.executable, "-c", "import os, sys\nfor pid in map(int, sys.argv[2:]): os.kill(pid, int(sys.argv[1]))",
                               str(int(signal.SIGTERM)), *(str(worker.pid) for worker in processes),
                               *([str(between._forkserver_pid)] if cuda else [])])
    assert others.wait() == 0
    for number in (signal.SIGINT, signal.SIGUSR1):
        for worker in processes:
            os.kill(worker.pid, number)
    read += list(stream)
    assert len(read) == len(whole) and all(same(one, other) for one, other in zip(read, whole))
    stream = train_loader(corpus, spec, tokenizer, workers=1).batches()
    next(stream)
    [worker] = stream._iterator._workers
    worker.terminate()  # the training's own word
    worker.join(300)
    assert worker.exitcode == 0
    between._stop()


# ---------------------------------------------------------------------------------------------------------- evaluation


def eval_loader(corpus, spec, tokenizer, **options):
    changes = {key: options.pop(key) for key in list(options) if key not in ("rank", "world_size", "skip_unreadable")}
    return EvalLoader(corpus.config(**changes), spec, tokenizer, **options)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (1, 2), (3, 0)])
def test_every_clip_once_over_all_processes(corpus, spec, tokenizer, world_size, workers):
    loaders = [eval_loader(corpus, spec, tokenizer, rank=r, world_size=world_size, n_workers=workers) for r in range(world_size)]
    read = [clip_id for loader in loaders for batch in loader for clip_id in batch.clip_ids]
    assert read == loaders[0].clip_ids == [f"clip{i}" for i in range(8)] and loaders[0].clips == 8
    assert set(loaders[0].references) == set(read) and loaders[0].references["clip1"] == ["omni 1 says both of them"]
    provenance = loaders[0].provenance
    assert (provenance["clips"], provenance["texts"], provenance["unreadable"]) == (8, 8, []) and len(provenance["split_sha256"]) == 64


def test_more_processes_than_clips(corpus, spec, tokenizer):
    txt = corpus.annotate("two.json", vast_rows(2))
    read = [c for r in range(3) for batch in eval_loader(corpus, spec, tokenizer, txt=txt, rank=r, world_size=3) for c in batch.clip_ids]
    assert read == ["clip0", "clip1"]


def test_evaluation_holds_all_captions(corpus, spec, tokenizer):
    batch = next(iter(eval_loader(corpus, spec, tokenizer, batch_size=2)))
    assert batch.captions[CaptionKind.VISION].clip.tolist() == [0] * 5 + [1] * 5 and len(batch.captions[CaptionKind.OMNI]) == 2


def test_questions_in_evaluation(corpus, spec, tokenizer):
    rows = [
        {"id": "clip0", "question": ["what a", "b"], "answer": ["x", "y z"], "question_type": ["k", "l"]},
        {"id": "clip1", "question": "c", "answer": "w"},
    ]
    loader = eval_loader(corpus, spec, tokenizer, txt=corpus.annotate("q.json", rows), task="qa%tva")
    batch = next(iter(loader))
    assert batch.questions.clip.tolist() == batch.answers.clip.tolist() == [0, 0, 1] and batch.answers.raw == ["x", "y z", "w"]
    assert batch.question_types == ["k", "l", ""] and batch.question_ids == [] and not batch.captions
    assert loader.provenance["texts"] == 3 and loader.references == {}


def test_references_from_a_file(corpus, spec, tokenizer, tmp_path):
    items = [{"video_id": f"clip{i}", "caption": f"reference {i} {k}"} for i in range(8) for k in range(2)]
    annfile = str(write_json(tmp_path / "references.json", {"annotations": items}))
    txt = corpus.annotate("bare.json", [{"id": f"clip{i}"} for i in range(8)])
    loader = eval_loader(corpus, spec, tokenizer, annfile=annfile, txt=txt, task="cap%tv")
    assert loader.references["clip3"] == ["reference 3 0", "reference 3 1"]
    assert not next(iter(loader)).captions
    write_json(tmp_path / "references.json", {"annotations": items[2:]})
    with pytest.raises(DataError, match="no reference caption for 1 of the 8 clips.*'clip0'"):
        eval_loader(corpus, spec, tokenizer, annfile=annfile, task="cap%tv")


def test_labelling_needs_no_captions(corpus, spec, tokenizer):
    txt = corpus.annotate("bare.json", [{"id": f"clip{i}"} for i in range(8)])
    with pytest.raises(AnnotationError, match="no caption"):
        eval_loader(corpus, spec, tokenizer, txt=txt, task="cap%tv")
    labelling = dataclasses.replace(spec, captioner_mode=True)
    assert eval_loader(corpus, labelling, tokenizer, txt=txt, task="cap%tv").references == {}
    ids = corpus.annotate("ids.json", [f"clip{i}" for i in range(8)])
    assert eval_loader(corpus, labelling, tokenizer, txt=ids, task="cap%tv").clip_ids == [f"clip{i}" for i in range(8)]
    with pytest.raises(AnnotationError, match="row 0: expected an object, found a string"):
        eval_loader(corpus, spec, tokenizer, txt=ids, task="ret%tv")


def test_some_clips_of_an_evaluation_set(corpus, spec, tokenizer):
    loader = eval_loader(corpus, spec, tokenizer, task="cap%tv", batch_size=2)
    batches = list(loader.batches([6, 1, 3]))
    assert [batch.clip_ids for batch in batches] == [["clip6", "clip1"], ["clip3"]]
    whole = {clip_id: frames for batch in loader for clip_id, frames in zip(batch.clip_ids, batch.frames)}
    assert all(torch.equal(frames, whole[clip_id]) for batch in batches for clip_id, frames in zip(batch.clip_ids, batch.frames))
    assert list(loader.batches([])) == []


@pytest.fixture
def broken(tmp_path):
    for i in range(8):
        write_video(tmp_path / f"clip{i}.mp4", frames=2, size=32)
    for i in (2, 3, 6):
        (tmp_path / f"clip{i}.mp4").write_bytes(b"")
    return {"vision": str(tmp_path), "batch_size": 2}


def test_unreadable_clips_end_a_test_with_their_list(corpus, spec, tokenizer, broken):
    given = []
    with pytest.raises(UnreadableError, match="3 unreadable clip") as caught:
        for batch in eval_loader(corpus, spec, tokenizer, **broken):
            given += batch.clip_ids
    assert given == ["clip0", "clip1", "clip4", "clip5", "clip7"]  # what can be tested is
    assert all(f"clip{i}: " in str(caught.value) for i in (2, 3, 6))


def test_unreadable_clips_are_skipped_when_told_to(corpus, spec, tokenizer, broken):
    loader = eval_loader(corpus, spec, tokenizer, skip_unreadable=True, **broken)
    given = [clip_id for batch in loader for clip_id in batch.clip_ids]
    assert given == ["clip0", "clip1", "clip4", "clip5", "clip7"]
    assert [clip_id for clip_id, _ in loader.provenance["unreadable"]] == ["clip2", "clip3", "clip6"]
    assert loader.clips == 8
    assert [(len(b), [clip_id for clip_id, _ in b.unreadable]) for b in loader.batches([2, 3, 4])] == [(0, ["clip2", "clip3"]), (1, [])]


def test_unreadable_clips_are_replaced_in_training(corpus, spec, tokenizer, broken):
    batches = list(train_loader(corpus, spec, tokenizer, changes=({**broken, "epoch": 1},)))
    assert all(len(batch) == 2 for batch in batches)
    assert {clip_id for batch in batches for clip_id, _ in batch.unreadable} == {"clip2", "clip3", "clip6"}


def test_a_batch_of_more_clips_than_there_are_is_told_of_once(corpus, spec, tokenizer, caplog):
    changes = ({"batch_size": 12}, {"batch_size": 9, "task": "cap%tv"}, {"batch_size": 8})
    train_loader(corpus, spec, tokenizer, changes=changes)
    told = [record.getMessage() for record in caplog.records if "more than once" in record.getMessage()]
    assert [text.split(",")[0] for text in told] == ["dataset 'c0': batch_size 12 is more than its 8 clips",
                                                    "dataset 'c1': batch_size 9 is more than its 8 clips"]
    assert "contrastive" in told[0] and "contrastive" not in told[1] and told[0].endswith("lower batch_size to 8 or less")
    caplog.clear()
    train_loader(corpus, spec, tokenizer, changes=changes, rank=1)
    assert not caplog.records


def test_a_glance_finds_what_is_absent_or_empty_anywhere_and_reads_some(corpus, spec, tokenizer, monkeypatch, tmp_path):
    folder = shutil.copytree(corpus.config().vision, tmp_path / "videos")
    clips = EvalLoader(corpus.config(n_workers=0, vision=str(folder)), spec, tokenizer)
    assert clips.glance() == []
    (folder / "clip1.mp4").unlink()
    (folder / "clip3.mp4").write_bytes(b"")
    for name in ("clip4.mp4", "clip5.mp4"):  # with room for two, the first and the middle one are read
        (folder / name).write_bytes((folder / name).read_bytes()[:500])
    monkeypatch.setattr(loader, "OPENED", 2)
    faults = dict(clips.glance())
    assert list(faults) == ["clip1", "clip3", "clip4"] and "empty" in faults["clip3"]
    monkeypatch.setattr(loader, "OPENED", 8)
    assert list(dict(clips.glance())) == ["clip1", "clip3", "clip4", "clip5"]
    monkeypatch.setattr(loader, "GLANCE_SECONDS", -1.0)
    assert clips.glance() == []  # not beyond the first
