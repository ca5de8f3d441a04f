"""Captions by teachers: what each writes, what is kept of it, and that nobody is asked twice."""

from __future__ import annotations

import base64
import io
import json
import shutil
import threading

import pytest
from PIL import Image

from omnivast.corpus import cli_captions
from omnivast.corpus.captions import vast
from omnivast.corpus.captions.chat import problem_of
from omnivast.corpus.captions.frames import jpeg, pictures
from omnivast.corpus.captions.prompts import Knowledge, info_of, prompt_hash, template
from omnivast.corpus.captions.stage import caption
from omnivast.corpus.captions.teachers import Teacher, TeacherError, read_teachers
from omnivast.corpus.clip_stages import clip_results
from omnivast.corpus.engine.workers import StageError
from omnivast.data.media.errors import MediaError
from omnivast.utils import endpoint
from tests.corpus.captions.small_corpus import make_corpus, make_run
from tests.corpus.captions.tiny_blip import make_blip
from tests.utils.chat_server import chat_server, said


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "cap")


def rows(output):
    return [json.loads(line) for line in (output / "captions.jsonl").read_text().splitlines()]


def everything(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------------- models of ours


def test_five_of_what_is_seen_and_five_of_what_is_heard(corpus, run):
    output, videos = corpus
    stage, told = caption(output, videos, read_teachers([str(run)]))
    found = clip_results(stage)
    assert list(found) == ["a_0", "a_20", "silent_0", "silent_20"] and rows(output) == list(found.values())
    for clip, row in found.items():
        assert set(row) == {"id", "captions"}
        kinds = [one["kind"] for one in row["captions"]]
        assert kinds == ["vision"] * 5 + ["audio"] * (0 if "silent" in clip else 5)
        for one in row["captions"]:
            assert set(one) == {"kind", "text", "by", "model", "prompt", "seed", "score"} and one["text"].strip()
            assert (one["by"], one["prompt"], one["seed"]) == ("cap", None, 0) and one["score"] < 0 and len(one["model"]) == 16
    assert len({one["text"] for one in found["a_0"]["captions"]}) > 1
    assert told["teachers"]["cap"]["most_often"]["clips"] >= 1
    assert told["teachers"]["cap"]["captions"] == {"audio": 10, "vision": 20} and told["teachers"]["cap"]["failed"] == {}


def test_where_it_was_stopped_and_who_did_what_changes_no_byte(tmp_path, corpus, run, monkeypatch):
    """Killed after the first row of a batch: the batch is made whole again, and no other."""
    monkeypatch.setattr(vast, "BATCH", 2)
    output, videos = corpus
    shutil.copytree(output, tmp_path / "other")
    teachers = read_teachers([str(run)])
    caption(output, videos, teachers)
    encoded = []
    real = vast.OurCaptioner._captions

    def counted(self, clips, read):
        encoded.append([clip["id"] for clip in clips])
        return real(self, clips, read)

    class Killed(BaseException):
        pass

    def killed(self, clips, read):
        if clips[0]["id"] == "silent_0":
            raise Killed
        return real(self, clips, read)

    monkeypatch.setattr(vast.OurCaptioner, "_captions", killed)
    with pytest.raises(Killed):
        caption(tmp_path / "other", videos, teachers)
    part = next((tmp_path / "other" / "work").glob("captions_cap_*/parts/*.jsonl"))
    part.write_bytes(part.read_bytes().splitlines(keepends=True)[0] + b'{"id": "a_')
    monkeypatch.setattr(vast.OurCaptioner, "_captions", counted)
    caption(tmp_path / "other", videos, teachers)
    assert encoded == [["a_0", "a_20"], ["silent_0", "silent_20"]]
    assert everything(output) == everything(tmp_path / "other")
    caption(output, videos, teachers)
    assert len(encoded) == 2


def test_what_cannot_be_read_is_counted_and_tried_again_when_asked(tmp_path, run):
    output, videos = make_corpus(tmp_path, ("a.mp4", "b.mp4"))
    content = (videos / "b.mp4").read_bytes()
    (videos / "b.mp4").write_bytes(content[:200])
    teachers = read_teachers([str(run)])
    _, told = caption(output, videos, teachers)
    assert sum(told["teachers"]["cap"]["failed"].values()) == 2 and told["teachers"]["cap"]["clips"] == 2
    assert rows(output)[2]["captions"] == [] and list(rows(output)[2]["lacking"]) == ["cap"]
    (videos / "b.mp4").write_bytes(content)
    caption(output, videos, teachers)
    assert rows(output)[2]["captions"] == []
    _, told = caption(output, videos, teachers, retry=True)
    assert told["teachers"]["cap"]["clips"] == 4 and len(rows(output)[2]["captions"]) == 10


def test_a_model_that_captions_by_both_alone_is_refused(tmp_path, corpus):
    with pytest.raises(TeacherError, match="was trained to caption by tva; expected by tv"):
        caption(*corpus, read_teachers([str(make_run(tmp_path / "joint", "cap%tva"))]))


# ------------------------------------------------------------------------------------------------------ models of transformers


def test_a_model_that_turns_pictures_into_text(tmp_path, corpus):
    folder = make_blip(tmp_path / "blip")
    stage, told = caption(*corpus, [Teacher("blip", str(folder), tokens=8), Teacher("drawn", str(folder), captions=3, tokens=8)])
    for row in clip_results(stage).values():
        assert [one["by"] for one in row["captions"]] == ["blip"] + ["drawn"] * 3
        for one in row["captions"]:
            assert one["kind"] == "vision" and one["text"] and one["score"] < 0 and one["model"] == "blip" and one["prompt"] is None
    again, _ = caption(*make_corpus(tmp_path / "again"), [Teacher("drawn", str(folder), captions=3, tokens=8)])
    assert [row["captions"] for row in clip_results(again).values()] == [row["captions"][1:] for row in clip_results(stage).values()]
    with pytest.raises(TeacherError, match="takes neither inputs nor more pictures"):
        caption(*corpus, [Teacher("blip", str(folder), pictures=3)])


# ------------------------------------------------------------------------------------------------------------------ endpoints


def teacher(url, **more):
    return Teacher("qwen", endpoint=url, model="small", **more)


def test_an_endpoint_is_sent_pictures_and_what_is_known(corpus):
    output, videos = corpus
    (videos / "a.info.json").write_text(json.dumps({"title": "Stones {subtitle}", "description": "A film.\n\nSubscribe!", "tags": []}))
    with chat_server(lambda number, body: (200, said('"A red wall."'), {})) as (url, asked):
        stage, told = caption(output, videos, [teacher(url, pictures=3, inputs=("subtitle", "title", "description"), side=48, tokens=50)])
    found = clip_results(stage)
    bodies = [body for body in asked if isinstance(body["messages"][0]["content"], list)]
    assert len(bodies) == 4 and len(asked) == 5
    assert found["a_20"]["captions"] == [{"kind": "vision", "text": "A red wall.", "by": "qwen", "model": "small-2026",
                                          "prompt": prompt_hash(template(("subtitle", "title", "description"), False)),
                                          "seed": found["a_20"]["captions"][0]["seed"], "score": None}]
    *images, text = next(body["messages"][0]["content"] for body in bodies if "hello there" in str(body) and "Stones" in str(body))
    assert 'spoken: "hello there"' in text["text"] and "Title: Stones {subtitle}\nDescription: A film. Subscribe!" in text["text"]
    sizes = [Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].split(",")[1]))).size for image in images]
    assert sizes == [(48, 32)] * 3
    assert all(body["max_tokens"] == 50 and 0 <= body["seed"] < 2**31 and body["temperature"] == 0 for body in bodies)
    assert len({body["seed"] for body in bodies}) == 4
    assert found["silent_0"]["captions"][0]["prompt"] == prompt_hash(template((), False))
    assert told["prompts"][found["a_20"]["captions"][0]["prompt"]] == template(("subtitle", "title", "description"), False)


def test_what_is_no_caption_is_a_reason(corpus):
    answers = {"a_0": (200, said(""), {}), "a_20": (200, said("I'm sorry, but I cannot help with that."), {}),
               "silent_0": (400, {"error": {"message": "at most 4096 tokens"}}, {}), "silent_20": (200, said("a blue wall"), {})}
    order = iter([(200, said("yes"), {}), *answers.values()])
    with chat_server(lambda number, body: next(order)) as (url, _):
        stage, told = caption(*corpus, [teacher(url, concurrency=1)])
    assert told["teachers"]["qwen"]["failed"] == {"HTTP N Bad Request: at most N tokens": 1, "an empty reply": 1, "the model refused": 1}
    assert [len(row["captions"]) for row in clip_results(stage).values()] == [0, 0, 0, 1]
    assert clip_results(stage)["a_0"]["lacking"] == {"qwen": "an empty reply"}


def test_a_server_that_dies_loses_nothing_and_is_asked_again_for_what_was_in_flight(corpus, monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)
    asked_for, dead, lock = [], threading.Event(), threading.Lock()

    def answer(number, body):
        content = body["messages"][0]["content"]
        if isinstance(content, str):
            return 200, said("yes"), {}
        with lock:
            asked_for.append(body["seed"])
            if len(set(asked_for)) > 2:
                dead.set()
        return (503, {}, {}) if dead.is_set() and not alive.is_set() else (200, said(f"caption {body['seed']}"), {})

    alive = threading.Event()
    with chat_server(answer) as (url, _):
        with pytest.raises(StageError, match="the captioner 'qwen': the endpoint .*503.*; the same command goes on"):
            caption(*corpus, [teacher(url, concurrency=1)])
        first = set(asked_for)
        alive.set()
        asked_for.clear()
        stage, _ = caption(*corpus, [teacher(url, concurrency=1)])
        assert len(first & set(asked_for)) == 1 and len(first | set(asked_for)) == 4 and len(asked_for) == 2
        asked_for.clear()
        caption(*corpus, [teacher(url, concurrency=1)])
        assert asked_for == [] and all(row["captions"] for row in clip_results(stage).values())


def test_several_captions_have_seeds_of_their_own_and_clips_are_asked_about_at_once(corpus):
    gate = threading.Barrier(4, timeout=60)

    def answer(number, body):
        if isinstance(body["messages"][0]["content"], list) and number <= 4:
            gate.wait()
        return 200, said(f"caption {body.get('seed')}"), {}

    with chat_server(answer) as (url, asked):
        stage, _ = caption(*corpus, [teacher(url, concurrency=4, captions=2, temperature=0.7)])
        assert asked.most_at_once == 4
    texts = [one["text"] for row in clip_results(stage).values() for one in row["captions"]]
    assert len(texts) == 8 == len(set(texts))


def test_another_teacher_asks_the_others_nothing(corpus):
    with chat_server(lambda number, body: (200, said("a wall"), {})) as (url, asked):
        caption(*corpus, [teacher(url)])
        before = len(asked)
        stage, told = caption(*corpus, [teacher(url), Teacher("other", endpoint=url, model="large")])
        assert {body["model"] for body in asked[before:]} == {"large"}
    assert [one["by"] for one in clip_results(stage)["a_0"]["captions"]] == ["qwen", "other"] == list(told["teachers"])


def test_a_caption_that_is_written_again_and_again_is_told(caplog):
    own = {"clips": 60, "captions": {"vision": 60}, "words": 3.0, "most_often": {"text": "a service error", "clips": 7}, "failed": {}}
    cli_captions.say({"teachers": {"qwen": own}})
    assert "qwen wrote the same of 7 of 60 clips: a service error" in caplog.text
    caplog.clear()
    cli_captions.say({"teachers": {"qwen": {**own, "most_often": {"text": "a dog", "clips": 5}}}})
    assert "the same" not in caplog.text


@pytest.mark.parametrize("text, finish, problem", [
    ("a dog runs", "stop", None), ("", "stop", "an empty reply"), ("I can't see any picture.", "stop", "the model refused"),
    ("a dog runs and", "length", "cut off at the most tokens"), ("", "content_filter", "the endpoint filtered it"),
    ("I canoe down a river", "stop", None), ("Sorry Street is wet", "stop", None),
])
def test_problems_of_replies(text, finish, problem):
    assert problem_of(text, finish) == problem


# ------------------------------------------------------------------------------------------------------- pictures and prompts


def test_pictures_are_of_the_clip(corpus):
    output, videos = corpus
    clip = json.loads((output / "clips.jsonl").read_text().splitlines()[1])
    several = pictures(videos, clip, 3, 0)
    assert [picture.getpixel((5, 5))[1] > 120 for picture in several] == [True] * 3  # green, as its frames are
    one = pictures(videos, clip, 1, 0)
    assert len(one) == 1 and pictures(videos, clip, 1, 0)[0].tobytes() == one[0].tobytes()
    assert Image.open(io.BytesIO(jpeg(one[0], 32))).size == (32, 21) and one[0].size == (96, 64)
    with pytest.raises(MediaError):
        pictures(videos, {**clip, "source": "none.mp4"}, 1, 0)


def test_prompts_say_what_is_there_and_nothing_else(tmp_path):
    clip = {"source": "a.mp4", "subtitle": ""}
    assert Knowledge(tmp_path, ("subtitle", "title")).prompt(clip, True)[0] == template((), True)
    text, made = Knowledge(tmp_path, ("subtitle",)).prompt({**clip, "subtitle": "add {title} " + "salt " * 900}, True)
    assert made == template(("subtitle",), True) and "add {title} salt" in text and len(text) < 2400
    assert prompt_hash(made) != prompt_hash(template((), True))
    (tmp_path / "a.info.json").write_text("[]")
    assert info_of(tmp_path / "a.mp4") == {}


# ------------------------------------------------------------------------------------------------------------ lists of teachers


@pytest.mark.parametrize("content, message", [
    ("{", "no JSON"), ("{}", "expected a list of teachers"), ('[{"name": "a", "fodler": "x"}]', "'fodler'.*Did you mean 'folder'"),
    ('[{"folder": "x"}]', "teacher 1 has no name"), ('[{"name": "a"}]', "either a folder or an endpoint"),
    ('[{"name": "a", "endpoint": "http://x/v1"}]', "needs a model"), ('[{"name": "a b", "folder": "x"}]', "its name may have"),
    ('[{"name": "a", "endpoint": "u", "model": "m", "inputs": ["subtitles"]}]', "Did you mean 'subtitle'"),
    ('[{"name": "a", "endpoint": "u", "model": "m", "pictures": 0}]', "pictures is 0"),
    ('[{"name": "a", "endpoint": "u", "model": "m", "pictures": "2"}]', "'pictures' is \"2\"; expected int"),
    ('[{"name": "a", "endpoint": "u", "model": "m", "captions": 5}]', "5 captions at temperature 0 are the same"),
    ('[{"name": "a", "endpoint": "u", "model": "m"}, {"name": "a", "endpoint": "u", "model": "n"}]', "two are called a"),
    ('[{"name": "a", "folder": "no/where"}]', "neither the output folder of a training"),
])
def test_lists_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(TeacherError, match=message):
        read_teachers([str(tmp_path / "t.json")])


def test_a_checkpoint_or_a_folder_names_a_teacher(run):
    by_folder, by_file = read_teachers([str(run)])[0], read_teachers([str(run / "ckpt" / "model_step_7.pt")])[0]
    assert (by_folder.name, by_file.name, by_file.kind, by_file.number) == ("cap", "cap", "omnivast", 5)
    assert by_folder.decisive == by_file.decisive
