"""What share of the time since the first start was training that counted."""

import pytest

from omnivast.utils.goodput import goodput, in_words, process_age


def row(event, time, step=0, **values):
    return {"event": event, "time": float(time), "step": step, **values}


UNBROKEN = [row("start", 1000), row("ready", 1020), row("save", 1080, 10, seconds=10.0, trained=50.0),
            row("evaluation", 1100, 10, seconds=20.0, trained=50.0), row("end", 1150, 20, trained=100.0)]
KILLED = [row("start", 0), row("ready", 10), row("save", 60, 10, seconds=10.0, trained=40.0),  # then 30 s of training, lost, and a pause
          row("start", 200), row("ready", 210), row("save", 260, 20, seconds=10.0, trained=80.0), row("end", 260, 20, trained=80.0)]


def test_an_unbroken_run():
    found = goodput(UNBROKEN)
    assert found == {"trained": 100.0, "starting": 20.0, "saving": 10.0, "evaluating": 20.0, "lost": 0.0, "wall": 150.0, "starts": 1,
                     "goodput": pytest.approx(100 / 150)}
    assert in_words(found) == ("goodput 66.7 %: of 2:30 since the start 1:40 were training; 0:20 starting, 0:10 saving, 0:20 evaluating")


def test_steps_done_again_and_the_time_until_the_next_start_are_lost():
    found = goodput(KILLED)
    assert found["trained"] == 80.0 and found["starting"] == 20.0 and found["saving"] == 20.0 and found["starts"] == 2
    assert found["lost"] == 260 - 80 - 20 - 20 and found["goodput"] == pytest.approx(80 / 260)
    assert "since the first of 2 starts" in in_words(found) and "2:20 lost to interruptions" in in_words(found)


def test_nothing_to_tell():
    assert goodput([]) is None and goodput([row("start", 5)]) is None and goodput([{"event": "start", "time": None}]) is None


def test_how_long_this_program_has_run():
    assert 0 <= process_age() < 1e6
