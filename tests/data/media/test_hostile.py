"""Whatever a media folder or an annotation file holds ends in the right tensor or in a named error: no crash, no hang, no flood."""

import json
import re
import resource
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnivast.config.load import ConfigError, load_config
from omnivast.config.tasks import Task
from omnivast.data.annotations.load import load_annotations, load_references
from omnivast.data.annotations.rows import AnnotationError
from omnivast.data.loader import EvalLoader
from omnivast.data.media.containers import SOUND_EXTENSIONS
from omnivast.data.media.deadline import DeadlineError, within
from omnivast.data.media.decode import read_clip, read_sound
from omnivast.data.media.errors import MediaError
from omnivast.data.media.folders import MediaFolder
from omnivast.data.media.images import read_image
from tests.data.media.hostile import CLIMBING, Case, cases, images, loops
from tests.media_factory import frame_of
from tests.processes import together

SECONDS, GROWTH = 20.0, 600 * 2**10
"""Most that one file may take of all cores, s, and that all of them may add to the peak of resident memory, KiB."""
FUZZ = settings(max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[str, list[Case]]:
    """A folder of hostile clips and what they are."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "media").mkdir()
    made = list(cases(folder))
    for case in made:
        (folder / "media" / case.name).write_bytes(case.content)
    return str(folder / "media"), made


def some(count):
    """At most 64 of so many, which a header may have declared."""
    return list(range(0, count, max(1, count // 64)))


def check(case: Case, path: str) -> str:
    """What is wrong with the outcome of reading a case; "" for nothing."""
    try:
        if case.name.endswith(SOUND_EXTENSIONS):
            frames, waveform = None, read_sound(path)
        else:
            clip = read_clip(path, some, sound=True)
            frames, waveform = clip.frames, clip.waveform
            if frames.dtype != torch.uint8 or frames.shape[:2] != (len(some(clip.frame_count)), 3):
                return f"frames {frames.dtype} {tuple(frames.shape)} of {clip.frame_count}"
        if waveform is not None and not (waveform.dtype == torch.float32 and waveform.ndim == 1 and waveform.abs().max() <= 1):
            return "a waveform outside [-1, 1]"
    except MediaError as error:
        if not case.either and (case.frames is not None or case.sound is not None):
            return f"refused: {error}"
        named = error.path == path and error.reason and re.search(case.error, error.reason)
        return "" if named else f"error '{error}' instead of '{case.error}'"
    if case.either:
        return ""
    if case.frames is None and case.sound is None:
        return "read without an error"
    if case.frames is not None and [frame_of(frame.float().mean().item(), case.frames) for frame in frames] != list(range(case.frames)):
        return f"{len(frames)} frames instead of {case.frames}, or others"
    seconds = 0.0 if waveform is None else len(waveform) / 16_000
    if case.sound is not None and abs(seconds - case.sound) > 0.1:
        return f"{seconds} s of sound instead of {case.sound}"
    return ""


def read_each(rank: int, folder: str, made: list[Case]) -> tuple[dict[str, str], int]:
    """What is wrong with each, and the growth of the peak, KiB; in a process of its own, whose memory no other test has used."""
    before, faults = peak(), {}
    for case in made:
        start = time.process_time()
        faults[case.name] = check(case, f"{folder}/{case.name}")
        if time.process_time() - start > SECONDS:
            faults[case.name] += " and slow"
    return faults, peak() - before


def peak() -> int:
    """Most resident memory of this process so far, KiB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.read_text().split("VmHWM:")[1].split()[0])  # ru_maxrss would include the peak of the process forked from


def test_every_hostile_file_is_read_rightly_or_named(hostile):
    folder, made = hostile
    assert len(made) >= 100 and len({case.name for case in made}) == len(made)
    [(faults, growth)] = together(read_each, 1, folder, made)
    assert {name: fault for name, fault in faults.items() if fault} == {}
    assert growth < GROWTH


@pytest.mark.parametrize("case", list(images()), ids=lambda case: case.name)
def test_hostile_images(tmp_path, case):
    (tmp_path / case.name).write_bytes(case.content)
    if case.frames:
        assert read_image(tmp_path / case.name).shape[0] == 3
    else:
        with pytest.raises(MediaError, match=case.error) as caught:
            read_image(tmp_path / case.name)
        assert case.name in str(caught.value)


def test_links_in_loops_pipes_and_devices_are_no_clips(tmp_path):
    for clip_id in loops(tmp_path):
        with pytest.raises(MediaError):
            MediaFolder(tmp_path).find(clip_id)


@pytest.mark.parametrize("clip_id", CLIMBING)
def test_an_id_cannot_leave_its_folder(tmp_path, clip_id):
    (tmp_path / "x.mp4").touch()
    (tmp_path / "media" / "sub").mkdir(parents=True)
    with pytest.raises(MediaError, match="inside the media folder"):
        MediaFolder(tmp_path / "media").find(clip_id)
    with pytest.raises(AnnotationError, match="inside the media folder"):
        load_rows(tmp_path, [{"video_id": clip_id, "desc": "x"}])


def load_rows(folder, rows, task="cap%tv"):
    (folder / "rows.json").write_text(json.dumps(rows))
    return load_annotations(folder / "rows.json", Task.parse(task), training=False)


def test_a_run_over_hostile_clips_counts_and_names_each_bad_one(hostile, corpus, spec, tokenizer):
    folder, made = hostile
    videos = [case for case in made if not case.name.endswith(SOUND_EXTENSIONS) and not case.either]
    txt = corpus.annotate("hostile.json", [{"video_id": case.name, "desc": "x", "subtitle": ""} for case in videos])
    loader = EvalLoader(corpus.config(name="hostile", txt=txt, vision=folder, task="cap%tva", batch_size=16, n_workers=1), spec,
                        tokenizer, skip_unreadable=True)
    read = [clip_id for batch in loader for clip_id in batch.clip_ids]
    bad = dict(loader.provenance["unreadable"])
    assert read == [case.name for case in videos if case.frames]
    assert list(bad) == [case.name for case in videos if not case.frames] and all(name in reason for name, reason in bad.items())


def test_a_stuck_decoder_is_left_behind(corpus, spec, tokenizer, monkeypatch):
    stuck, real = threading.Event(), read_clip
    monkeypatch.setattr("omnivast.data.dataset.within", lambda seconds, read, clip_id, key: within(
        0.5 if clip_id == "clip2" else seconds, read, clip_id, key))
    monkeypatch.setattr("omnivast.data.media.decode.read_clip",
                        lambda path, *a, **k: stuck.wait() if "clip2" in path else real(path, *a, **k))
    loader = EvalLoader(corpus.config(task="cap%tv"), spec, tokenizer, skip_unreadable=True)
    assert [clip_id for batch in loader for clip_id in batch.clip_ids] == [f"clip{i}" for i in (0, 1, 3, 4, 5, 6, 7)]
    [(clip_id, reason)] = loader.provenance["unreadable"]
    assert clip_id == "clip2" and "not done within 0.5 s" in reason and "stuck" in reason
    stuck.set()


def test_callers_in_several_threads_get_their_own_results():
    begun, found = threading.Barrier(2, timeout=60), {}

    def call(name):
        found[name] = within(300, lambda: (begun.wait(), name)[1])

    threads = [threading.Thread(target=call, args=(name,)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {"one": "one", "other": "other"}


def test_deadline():
    caller = threading.get_ident()
    assert within(300, threading.get_ident) == within(300, threading.get_ident) != caller
    with pytest.raises(ZeroDivisionError):
        within(300, lambda: 1 / 0)
    stuck = threading.Event()
    with pytest.raises(DeadlineError, match="not done within 0.05 s"):
        within(0.05, stuck.wait)
    stuck.set()
    assert within(300, lambda: "next") == "next"


# ---------------------------------------------------------------------------------------------------------------- fuzzing

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
                      max_leaves=4)
ROW_KEYS = st.sampled_from(["id", "video_id", "clip_id", "desc", "caption", "vision_cap", "subtitle", "question", "answer",
                            "question_id", "x"])
TASKS = st.sampled_from([Task.parse(text) for text in ("ret%tvas", "cap%tv%ta", "qa%tvs", "ret%tv_cap%tva_qa%tv")])


@FUZZ
@given(rows=st.lists(st.dictionaries(ROW_KEYS, VALUES, max_size=5) | VALUES, max_size=3) | VALUES, task=TASKS, training=st.booleans())
def test_any_json_is_annotations_or_a_clear_error(tmp_path_factory, rows, task, training):
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_text(json.dumps(rows))
    try:
        read = load_annotations(path, task, training=training)
    except AnnotationError as error:
        assert str(path) in str(error)
    else:
        assert len(read) == len(rows) and [row.clip_id for row in read] == read.ids()


@FUZZ
@given(content=st.binary(max_size=40) | st.text("[]{}\",:0 \\u", max_size=30).map(str.encode))
def test_any_bytes_are_annotations_or_a_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(content)
    for read in (lambda: load_annotations(path, Task.parse("cap%tv"), training=True), lambda: load_references(path)):
        with pytest.raises(AnnotationError, match=re.escape(str(path))):
            read()


def test_json_as_deep_as_a_well_is_a_clear_error(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(AnnotationError, match="not JSON"):
        load_annotations(tmp_path / "deep.json", Task.parse("cap%tv"), training=True)


RUN_KEYS = st.sampled_from(["learning_rate", "seed", "betas", "mode", "grad_norm", "checkpoint", "optim", "default", "x"])
MODEL_KEYS = st.sampled_from(["contra_dim", "vision_encoder_cfg", "inherit_keys", "max_caption_len", "beam_size", "default", "tokenizer"])
DATA_KEYS = st.sampled_from(["name", "task", "txt", "vision", "steps", "epoch", "batch_size", "type", "ignore_fields", "n_workers"])
CONFIGS = st.fixed_dictionaries({}, optional={
    "run_cfg": st.dictionaries(RUN_KEYS, VALUES, max_size=3) | VALUES,
    "model_cfg": st.dictionaries(MODEL_KEYS, VALUES, max_size=3) | VALUES,
    "data_cfg": st.fixed_dictionaries({}, optional={name: st.lists(st.dictionaries(DATA_KEYS, VALUES, max_size=3), max_size=2) | VALUES
                                                    for name in ("train", "val", "test")}) | VALUES,
    "extra": VALUES})


@FUZZ
@given(config=CONFIGS | VALUES,
       flag=st.sampled_from([[], ["--seed", "x"], ["--batch_size"], ["--data_cfg.train.0.steps", "3"], ["--zzz=1"]]))
def test_any_config_is_one_or_a_clear_error(tmp_path_factory, config, flag):
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_text(json.dumps(config))
    try:
        load_config(["--config", str(path), *flag])
    except ConfigError as error:
        assert len(str(error)) > 20
