"""Clips with captions → one caption each, by writers that say what a test wants; as a stage that is killed, and by an endpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from omnivast.corpus.engine.results import read_rows
from omnivast.corpus.engine.workers import StageError, work
from omnivast.corpus.fusion import cli, stage
from omnivast.corpus.fusion import fuse as module
from omnivast.corpus.fusion.alarm import LEAST, Alarm
from omnivast.corpus.fusion.fuse import fuse, settings_of, summary_of
from omnivast.corpus.fusion.prompt import prompt_of
from omnivast.corpus.fusion.writers import writer_of
from omnivast.data.spec import DataError
from omnivast.utils import endpoint
from omnivast.utils.endpoint import Reply
from tests.utils.chat_server import chat_server, said

THINGS = ["cow", "pig", "otter", "frog", "owl", "zebra", "tiger", "camel", "goat", "lark"]


def item(number=0, **more):
    thing = THINGS[number % len(THINGS)]
    return {"id": f"clip{number}", "vision_cap": [f"a {thing} on a {place}" for place in ("hill", "road", "bridge", "field", "rock")],
            "audio_cap": ["the sound of a bell", "a bell is heard", "we hear a bell"], "subtitle": f"number {number} likes a mango", **more}


def right(number=0):
    return f"A {THINGS[number % len(THINGS)]} is shown while a bell is heard and a voice talks about a mango of number {number}."


class Said:
    """A writer that gives replies in turn, the same ones to each clip; ``{n}`` in one is the clip's right caption."""

    name = "test"

    def __init__(self, *replies):
        self.replies, self.asked, self.forgotten = replies, [], None

    def write(self, prompts, number):
        self.asked.append(len(prompts))
        own = [int(prompt[-1]["content"].split("number ")[1].split()[0]) if "number " in prompt[-1]["content"] else 0 for prompt in prompts]
        return [[Reply(self.replies[number].replace("{n}", right(clip)), "test", "stop", 5)] for clip in own]

    def forget(self, texts):
        self.forgotten = texts


SETTINGS = settings_of(llm="somewhere/test", tries=3)


def test_what_passes_is_taken_and_the_rest_is_tried_again():
    writer = Said("A dog.", "{n}", "never")
    [row] = fuse([item()], SETTINGS, writer, Alarm())
    assert (row["omni"], row["how"], row["tries"], row["model"], row["prompt"]) == (right(), "llm", 2, "test", SETTINGS["prompt"])
    assert row["reasons"] == ["length: 2 words"] and writer.asked == [1, 1]
    assert list(row) == ["id", "omni", "how", "tries", "inputs", "model", "prompt", "reasons"]
    assert len(row["inputs"]["vision"]) == len(row["inputs"]["audio"]) == 3 and set(row["inputs"]["vision"]) < set(item()["vision_cap"])
    assert fuse([item()], SETTINGS, Said("{n}"), Alarm())[0]["inputs"] == row["inputs"]  # drawn by the clip's id
    assert fuse([item()], {**SETTINGS, "seed": 1}, Said("{n}"), Alarm())[0]["inputs"] != row["inputs"]


def test_after_some_tries_a_sentence_or_none():
    [row] = fuse([item()], SETTINGS, Said("A dog.", "A cat.", "A dog barks at a cow and a bell."), Alarm())
    assert (row["how"], row["tries"]) == ("sentence", 3) and row["omni"].endswith("someone says: number 0 likes a mango.")
    assert row["reasons"] == ["length: 2 words", "lacks subtitle", "no source: dog", "no source: barks"]
    [row] = fuse([item()], {**SETTINGS, "fallback": "leave"}, Said("A dog.", "A dog.", "A dog."), Alarm())
    assert (row["how"], row["omni"], row["reasons"][-1]) == ("left out", None, "nothing that was written could be taken")


@pytest.mark.parametrize("more, reason", [
    ({"vision_cap": [], "audio_cap": []}, "no caption"), ({"subtitle": "he is naked"}, "unsafe: a source"),
    ({"vision_cap": ["a cow", "a frog", "a pig"]}, "vision captions disagree")])
def test_some_clips_are_left_out_unasked(more, reason):
    writer = Said()
    [row] = fuse([item(**more)], SETTINGS, writer, Alarm())
    assert (row["how"], row["omni"], row["tries"], row["reasons"], writer.asked) == ("left out", None, 0, [reason], [])


def test_captions_are_drawn_again_where_they_do_not_agree():
    captions = ["a cow runs", "the cow runs", "a pig", "a frog"]
    drawn = [fuse([item(number, vision_cap=captions)], SETTINGS, Said(*["{n}"] * 3), Alarm())[0] for number in range(20)]
    assert sum(row["how"] == "left out" for row in drawn) < 5


def test_unsafe_replies_cut_ones_and_names():
    [row] = fuse([item(subtitle="Maria has naked_ a mango")], SETTINGS, Said("{n}", "A cow is naked.", "x"), Alarm())
    assert row["inputs"]["subtitle"] == "A person has naked_ a mango" and "unsafe: a reply" in row["reasons"]
    clip = module.Fusing(item(), SETTINGS)
    clip.take(right(), whole=False)
    assert clip.how == "" and clip.reasons == ["cut off"]
    clip.take(f' "{right()}" ', whole=True)
    assert clip.omni == right()


def test_captions_may_come_from_the_stage_before():
    captions = [{"kind": "vision", "text": "a cow on a hill", "by": "x"}, {"kind": "audio", "text": "a bell is heard", "by": "y"},
                {"kind": "audio", "text": " ", "by": "y"}]
    [row] = fuse([{"id": "a", "captions": captions, "subtitle": "number 0 likes a mango"}], SETTINGS, Said("{n}"), Alarm())
    assert row["how"] == "llm" and row["inputs"]["audio"] == ["a bell is heard"]


def test_prompts():
    facts = module.Fusing(item(vision_cap=["a cow runs", "the cow runs", "a pig"]), SETTINGS).facts
    system, asked = prompt_of(facts, "long")
    assert "a pig" not in asked["content"] and asked["content"].count("- ") == 6 and system["role"] == "system"
    short = prompt_of(facts, "short")
    assert [message["role"] for message in short] == ["system", *["user", "assistant"] * 3, "user"]
    assert short[-1]["content"].startswith("Seen: ") and short != prompt_of(facts, "short", 1)


@pytest.mark.parametrize("text, kind", [("", "empty"), ("I'm sorry, I cannot.", "refusals"), ("A dog runs and runs.", "the same")])
def test_an_alarm_stops_the_run(text, kind):
    writer, items = Said("{n}", text, text), [item(number) for number in range(2 * LEAST)]
    with pytest.raises(StageError, match=f"of the last {LEAST} replies of the language model {LEAST} are {kind}"):
        fuse(items, SETTINGS, Said(text), Alarm())
    rows = fuse(items, SETTINGS, writer, Alarm())  # not where most are right
    assert {row["how"] for row in rows} == {"llm"} and writer.forgotten is None
    failing = Said(text)
    with pytest.raises(StageError):
        fuse(items, SETTINGS, failing, Alarm())
    assert failing.forgotten == {text}


def test_the_summary_counts_everything():
    rows = fuse([item(), item(1), item(2, subtitle="naked")], SETTINGS, Said("A dog.", "{n}"), Alarm())
    told = summary_of(rows)
    assert (told["clips"], told["llm"], told["sentence"], told["left_out"], told["tries"]) == (3, 2, 0, 1, 4)
    assert told["left_out_by_reason"] == {"unsafe: a source": 1} and told["clips_with_a_rejected_reply_by_reason"] == {"length": 2}
    assert told["mean_words"] == len(right().split())


@pytest.fixture
def here(monkeypatch):
    """Stages run in this process."""
    def run(one, workers):
        one.leases.open(list(one.sizes))
        one.leases.put_back_the_dead()
        module._of_this_process.cache_clear()  # as in a new one
        work(one)

    monkeypatch.setattr(stage, "run", run)
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)


def remote(url, **more):
    return settings_of(endpoint=url, model="small", concurrency=2, tries=3, **more)


def answer(number, body):
    clip = int(body["messages"][-1]["content"].split("number ")[1].split()[0])
    return 200, said(right(clip) if body["temperature"] or clip % 2 else f"A dog {clip}."), {}


def test_a_file_is_fused_by_an_endpoint_and_a_run_that_ended_goes_on(tmp_path, here):
    rows = [{**item(number), "id": number, "video": "kept"} for number in range(40)]
    rows[5]["vision_cap"] = ["a cow", "a frog", "a pig"]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    with chat_server(answer) as (url, asked):
        whole = stage.fuse_file(tmp_path / "in.json", tmp_path / "whole.json", remote(url))
        calls = len(asked)
        asked.clear()
        for budget in (7, 19, 20, None):  # each run is ended by its budget, but the last
            try:
                again = stage.fuse_file(tmp_path / "in.json", tmp_path / "out.json", remote(url, requests=budget))
            except StageError as error:
                assert f"the budget of {budget} requests is spent. What was answered is kept" in str(error)
        assert len(asked) == calls == 39 + 20  # nothing was asked twice
    assert again == whole and (whole["llm"], whole["left_out"], whole["clips"]) == (39, 1, 40)
    assert [(tmp_path / f"whole{end}").read_bytes() == (tmp_path / f"out{end}").read_bytes()
            for end in (".json", ".fused.jsonl", ".summary.json")] == [True] * 3
    made = json.loads((tmp_path / "out.json").read_text())
    assert made[0] == {**rows[0], "vast_cap": right(0)} and 5 not in {row["id"] for row in made}
    history = list(read_rows(tmp_path / "out.fused.jsonl"))
    assert [row["tries"] for row in history[:6]] == [2, 1, 2, 1, 2, 0]


def test_an_endpoint_that_went_wrong_is_asked_again_after_the_alarm(tmp_path, here):
    (tmp_path / "in.json").write_text(json.dumps([item(number) for number in range(30)]))
    broken = [True]
    with chat_server(lambda number, body: (200, said(""), {}) if broken[0] else answer(number, body)) as (url, asked):
        with pytest.raises(StageError, match="are empty"):
            stage.fuse_file(tmp_path / "in.json", tmp_path / "out.json", remote(url))
        broken[0] = False
        assert stage.fuse_file(tmp_path / "in.json", tmp_path / "out.json", remote(url))["llm"] == 30


def test_replies_of_an_endpoint_are_kept_and_a_request_may_be_refused(tmp_path):
    settings = {**remote("http://x"), "replies": str(tmp_path / "replies")}
    prompts = [prompt_of(module.Fusing(item(number), settings).facts, "long") for number in range(3)]
    with chat_server(lambda number, body: (400, {"error": "too long"}, {}) if number == 0 else answer(number, body)) as (url, asked):
        settings["endpoint"], settings["concurrency"] = url, 1
        assert [[reply.text for reply in own] for own in writer_of(settings).write(prompts, 0)] == [[""], [right(1)], ["A dog 2."]]
        assert [own[0].text for own in writer_of(settings).write(prompts, 0)] == ["", right(1), "A dog 2."] and len(asked) == 3
        writer_of(settings).forget({""})
        writer_of(settings).write(prompts, 0)
        assert len(asked) == 4
    with pytest.raises(StageError, match="Connection refused.*the same command goes on"):
        writer_of({**settings, "seed": 5}).write(prompts, 0)


@pytest.mark.parametrize("content, message", [
    ("{", "is not JSON"), ("[]", "expected a list of rows"), ('[{"id": "a", "vision_caps": []}]', "row 0 has id, vision_caps;.*vision_cap"),
    ('[{"vision_cap": "a"}]', "row 0 has vision_cap; expected an id"),
    ('[{"id": 1, "audio_cap": 3}]', "row 0: audio_cap is 3; expected a text"),
    ('[{"id": 1, "audio_cap": "a"}, {"id": "1", "audio_cap": "a"}]', "row 1 has the id 1, which another has too")])
def test_files_that_cannot_be_fused(tmp_path, content, message):
    (tmp_path / "in.json").write_text(content)
    with pytest.raises(DataError, match=message):
        stage.read_annotations(tmp_path / "in.json")


@pytest.mark.parametrize("arguments, message", [
    ([], "who writes"), (["--llm", "a", "--endpoint", "b"], "give one of them"), (["--endpoint", "http://x"], "give --model NAME"),
    (["--llm", "absent", "--tries", "0"], "--tries: expected more than 0"), (["--llm", "absent"], "--llm '.*absent': no such folder"),
    (["--endpoint", "http://127.0.0.1:9/v1", "--model", "m"], "does not answer")])
def test_a_writer_that_cannot_be_is_said_first(tmp_path, caplog, arguments, message, monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)
    assert cli.main([str(tmp_path / "absent.json"), "--output", str(tmp_path / "out.json"), *arguments]) == 2
    assert __import__("re").search(message, caplog.text)


def test_batches_are_the_same_after_a_kill(tmp_path):
    """A stage that takes several items together goes on with the batch in which it was killed."""
    (tmp_path / "in.json").write_text(json.dumps([item(number) for number in range(10)]))
    batches = []

    def function(items, settings):
        batches.append([row["id"] for row in items])
        return [{"id": row["id"], "with": batches[-1]} for row in items]

    one = stage._of_rows(stage.read_annotations(tmp_path / "in.json"), tmp_path / "work", SETTINGS)
    one = replace(one, function=function, at_once=4)
    part = one.folder / "parts" / "00000@elsewhere@1.jsonl"
    part.parent.mkdir(parents=True)
    part.write_text("".join(json.dumps({"id": f"clip{number}", "with": "before"}) + "\n" for number in range(6)))
    one.leases.open(list(one.sizes))
    work(one)
    assert batches == [[f"clip{number}" for number in range(4, 8)], ["clip8", "clip9"]]
    rows = list(read_rows(one.folder / "00000.jsonl"))
    assert [row["id"] for row in rows] == [f"clip{number}" for number in range(10)] and rows[5]["with"] == "before"
    assert rows[6]["with"] == batches[0]
