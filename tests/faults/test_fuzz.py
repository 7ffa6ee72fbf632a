"""Mutated runs end in a StoreError or in data: no other exception, no hang, no crash.

Damage ends in no other numbers than were written; only forgery does, with checksums made right.
"""

import shutil
import traceback

import numpy as np
import pytest

from ckptlab.errors import StoreError
from ckptlab.store.maintain.verify import verify
from tests.faults import mutations
from tests.faults.figures import note
from tests.faults.test_damage import everything_in, original  # noqa: F401
from tests.forks import fork_server
from tests.store.samples import layout_of, trajectory, write_run

processes = fork_server()
# What has right checksums is taken for right: forged values, and files of another place.
HONEST = (mutations.flip_bytes, mutations.cut_file, mutations.remove_file)


def fuzz(path, folder, seed, count, report):
    """Mutate a run `count` times, each from its original; runs in a process of its own."""
    rng = np.random.default_rng(seed)
    target = folder / "run.zarr"
    expected = everything_in(path)
    for number in range(count):
        report["at"] = number
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(path, target)
        told = mutations.mutate(target, rng)
        honest = told.startswith(tuple(kind.__name__ for kind in HONEST))
        report["told"] = told
        try:
            same = everything_in(target) == expected
        except StoreError:
            report["refused"] += 1
        except BaseException:
            report["wrong"] += [f"{number} {told}\n{traceback.format_exc()}"]
        else:
            report["as_written" if same else "otherwise"] += 1
            if honest and not same:
                report["wrong"] += [f"{number} {told}: other numbers"]
        try:
            sound = verify(target, deep=True).ok
        except StoreError:
            sound = False
        except BaseException:
            sound = None
            report["wrong"] += [f"{number} verify: {told}\n{traceback.format_exc()}"]
        report["sound"] += bool(sound)


def run_fuzz(path, folder, seed, count):
    """Fuzz in a process, so that a crash or a hang of a decoder is an outcome, not an end."""
    with processes.Manager() as manager:
        report = manager.dict(
            at=0, told="", refused=0, as_written=0, otherwise=0, sound=0, wrong=[]
        )
        process = processes.Process(target=fuzz, args=(path, folder, seed, count, report))
        process.start()
        process.join(60 + count)
        hung = process.is_alive()
        process.kill()
        process.join()
        found = dict(report)
    assert not hung, f"hangs at {found['at']}: {found['told']}"
    assert process.exitcode == 0, f"crashed at {found['at']}: {found['told']}"
    assert not found["wrong"], "\n".join(found["wrong"][:5])
    assert found["refused"] + found["as_written"] + found["otherwise"] == count
    return found


@pytest.fixture(scope="module")
def fast_run(tmp_path_factory):
    """A run in the other codec, blosc, whose decoder is C."""
    path = tmp_path_factory.mktemp("fuzz") / "run.zarr"
    write_run(path, trajectory(21, 11), layout_of(5, 6), codec="fast", evaluations=(3, 9))
    return path


def test_mutations_of_a_run_end_in_a_store_error_or_in_data(original, tmp_path):  # noqa: F811
    run_fuzz(original, tmp_path, 0, 60)


def test_mutations_of_a_run_in_the_other_codec(fast_run, tmp_path):
    run_fuzz(fast_run, tmp_path, 0, 40)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_thousands_of_mutations(original, fast_run, tmp_path):  # noqa: F811
    for name, path, count in (("codec dense", original, 1500), ("codec fast", fast_run, 1000)):
        found = run_fuzz(path, tmp_path, 1, count)
        note(
            "mutations",
            name,
            mutations=count,
            refused_with_a_StoreError=found["refused"],
            read_as_written=found["as_written"],
            read_as_forged_or_exchanged=found["otherwise"],
            other_errors_crashes_and_hangs=0,
            found_by_verify=count - found["sound"],
        )
