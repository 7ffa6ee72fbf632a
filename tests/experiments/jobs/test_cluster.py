"""Workers that are started here: what they are told, and keep being told when one dies."""

import ctypes
import os
import platform
import resource
import signal
import time
import warnings

import distributed
import psutil
import pytest

from ckptlab.experiments.jobs.cluster import open_client
from tests.forks import workers_spawned

PAGES_EACH = 500


@pytest.fixture(autouse=True, scope="module")
def _as_for_users():
    """Their environment is what is tested here."""
    with workers_spawned():
        yield


def _pid() -> int:
    return os.getpid()


def _gpu() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def _ignores_warnings() -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn("a library has something to say", UserWarning, stacklevel=1)
    return not caught


def _faults_of_layers(rounds: int) -> int:
    """Take and free memory as the layers of a network do, and count the pages that were new."""
    blocks = 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.memset.restype = ctypes.c_void_p
    for _ in range(rounds):
        taken = [ctypes.c_void_p(libc.malloc(PAGES_EACH * 4096)) for _ in range(blocks)]
        for block in taken:
            libc.memset(block, 1, PAGES_EACH * 4096)
        for block in taken:
            libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _check_that_freed_memory_is_kept(client) -> None:
    rounds = 40
    client.submit(_faults_of_layers, 2, pure=False).result()
    faults = client.submit(_faults_of_layers, rounds, pure=False).result()
    assert faults < rounds * PAGES_EACH  # of 20 blocks of so many pages a round


def _killed_and_back(client) -> None:
    """Kill the one worker, and wait for the one that takes its place."""
    (old,) = client.run(_pid).values()
    os.kill(old, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if list(client.run(_pid, on_error="ignore").values()) not in ([], [old]):
                return
        except OSError:  # between the two
            pass
        time.sleep(0.1)
    raise AssertionError("no worker came back")


def test_a_worker_that_takes_a_dead_one_s_place_is_told_the_same(monkeypatch):
    monkeypatch.setattr("ckptlab.experiments.jobs.cluster.count_gpus", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    with open_client(workers=1) as client:
        if platform.libc_ver()[0] == "glibc":
            _check_that_freed_memory_is_kept(client)
        for again in (False, True):
            if again:
                _killed_and_back(client)
            assert list(client.run(_gpu).values()) == ["5"]
            assert client.submit(_ignores_warnings, pure=False).result()


def test_workers_take_the_gpus_in_turn_and_have_gone_when_the_client_has(monkeypatch):
    monkeypatch.setattr("ckptlab.experiments.jobs.cluster.count_gpus", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with open_client(workers=3) as client:
        assert sorted(client.run(_gpu).values()) == ["0", "0", "1"]
        processes = [psutil.Process(pid) for pid in client.run(_pid).values()]
        assert len(processes) == 3
    assert not any(process.is_running() for process in processes)


def test_workers_that_end_late_do_not_hide_why_the_block_ended(monkeypatch):
    """As where a study is stopped while every core is busy."""
    close = distributed.LocalCluster.close

    def late(self, timeout=None):
        close(self, timeout)
        raise TimeoutError

    monkeypatch.setattr(distributed.LocalCluster, "close", late)
    with pytest.raises(KeyboardInterrupt), open_client(workers=1):
        raise KeyboardInterrupt
