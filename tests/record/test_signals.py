"""Signals, sent to real processes."""

import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

from ckptlab.record.signals import Interrupts
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.forks import fork_server
from tests.record.loops import record, run, small
from tests.record.storages import SlowStorage

processes = fork_server()


def train_on(path, steps, ready):
    """Train until told to stop; as the command line does, exit with 130 after SIGINT."""
    model, optimizer = small()
    end = time.monotonic() + 120  # should nobody tell
    try:
        with record(path, model, optimizer, steps=steps) as recorder:
            while time.monotonic() < end:
                run(recorder, model, optimizer, recorder.step_number + 1)
                if recorder.step_number == 9:
                    ready.set()
    except KeyboardInterrupt:
        sys.exit(130)


def close_slowly(path, _, ready):
    model, optimizer = small()
    with record(SlowStorage(path, 1.0), model, optimizer) as recorder:
        run(recorder, model, optimizer, 9)
        ready.set()
    os._exit(7)  # not reached: the signal acts on leaving


def take_long(path, _, ready):
    model, optimizer = small()
    with record(path, model, optimizer) as recorder:
        run(recorder, model, optimizer, 5)
        ready.set()
        time.sleep(60)


def have_children(path, _, ready):
    model, optimizer = small()
    with record(path, model, optimizer) as recorder:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.write(writing, b"1")
            for _ in range(600):  # a signal just before a long sleep would wait for its end
                time.sleep(0.1)
            os._exit(0)
        os.read(reading, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGTERM, status
        run(recorder, model, optimizer, 5)
    ready.set()


def start(target, path, steps="0:"):
    """Start a process and wait until it wants to be signalled."""
    ready = processes.Event()
    process = processes.Process(target=target, args=(path, steps, ready))
    process.start()
    assert ready.wait(60)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("steps", ["0:", "0:100000:1000"])
def test_a_signal_commits_the_state_it_stops_at(tmp_path, number, code, steps):
    path = tmp_path / "run.zarr"
    process = start(train_on, path, steps)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    stored = open_store(path)
    assert stored.state == "interrupted"
    last = int(stored.steps[-1])
    assert last >= 9
    assert stored.anchors[-1] == last
    assert verify(path, deep=True).ok
    model, optimizer = small()
    with record(tmp_path / "reference", model, optimizer, steps="0") as recorder:
        seen = run(recorder, model, optimizer, last)
    assert np.array_equal(stored.snapshot(last), seen[last])


def test_a_signal_while_closing_waits_for_the_end(tmp_path):
    process = start(close_slowly, tmp_path)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 143
    assert open_store(tmp_path).steps.tolist() == list(range(10))
    assert verify(tmp_path, deep=True).ok


def test_a_second_signal_does_not_wait(tmp_path):
    process = start(take_long, tmp_path)
    os.kill(process.pid, signal.SIGTERM)
    process.join(0.5)
    assert process.exitcode is None
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == -signal.SIGTERM
    assert verify(tmp_path, deep=True).ok


def test_children_that_inherit_the_handler_die_when_told_to(tmp_path):
    process = start(have_children, tmp_path)
    process.join(60)
    assert process.exitcode == 0
    assert open_store(tmp_path).state == "complete"


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    model, optimizer = small()
    with record(tmp_path, model, optimizer):
        assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def ignore_then_train(path, _, ready):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for jobs in the background
    model, optimizer = small()
    with record(path, model, optimizer) as recorder:
        run(recorder, model, optimizer, 3)
        ready.set()
        for step in range(4, 200):
            run(recorder, model, optimizer, step)
            time.sleep(0.005)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_what_was_ignored_stays_ignored(tmp_path):
    process = start(ignore_then_train, tmp_path)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        process.join(0.1)
    process.join(60)
    assert process.exitcode == 0
    assert open_store(tmp_path).state == "complete"


def test_other_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def install():
        interrupts = Interrupts()
        interrupts.install()
        seen.append(signal.getsignal(signal.SIGINT))
        interrupts.remove()

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.fixture
def _in_the_foreground():
    """Shells have jobs in the background ignore Ctrl-C, and tests may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_in_the_foreground")
def test_what_a_signal_means():
    for number, error in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)):
        told = []
        interrupts = Interrupts(lambda told=told: told.append(True))
        interrupts.install()
        try:
            interrupts.act()
            assert not told
            os.kill(os.getpid(), number)
            assert interrupts.pending == number
            assert told == [True]
            with pytest.raises(error) as raised:
                interrupts.act()
            assert interrupts.acted
            if error is SystemExit:
                assert raised.value.code == 143
        finally:
            interrupts.remove()
