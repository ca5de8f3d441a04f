"""Signals that come while nothing else does."""

import multiprocessing
import os
import signal
import sys
import time

import pytest

from omnivast.training import stop
from omnivast.training.stop import StopSignals


@pytest.mark.parametrize("first", ["the signal", "the wait"])
def test_a_batch_that_never_comes_does_not_keep_a_run_from_ending(monkeypatch, caplog, first):
    monkeypatch.setattr(stop, "PATIENCE", 0.05)
    monkeypatch.setattr(stop.os, "_exit", sys.exit)
    before = signal.getsignal(signal.SIGCHLD)
    reader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(300,))
    reader.start()
    os.kill(reader.pid, signal.SIGSTOP)  # which then heeds no other signal than SIGKILL
    with StopSignals() as signals, pytest.raises(SystemExit) as ended:
        if first == "the signal":
            signal.raise_signal(signal.SIGTERM)
        with signals.waiting():
            if first == "the wait":
                signal.raise_signal(signal.SIGTERM)
            time.sleep(300)
    signal.signal(signal.SIGCHLD, before)
    reader.join()
    assert reader.exitcode == -signal.SIGKILL
    assert ended.value.code == 143 and "while no batch came" in caplog.text


def test_a_step_that_goes_on_is_finished_however_long_it_takes(monkeypatch):
    monkeypatch.setattr(stop, "PATIENCE", 0.01)
    before = signal.getsignal(signal.SIGALRM)
    rung = []
    lose = StopSignals._lose_patience
    monkeypatch.setattr(StopSignals, "_lose_patience", lambda *given: (rung.append(1), lose(*given)))
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
        while len(rung) < 3:
            time.sleep(0.01)
        assert signals.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGALRM) == before and signal.getitimer(signal.ITIMER_REAL)[0] == 0
