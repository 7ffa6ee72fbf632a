import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import StepError
from ckptlab.record.schedule import parse_range, parse_schedule, parse_step

END = 400
starts = st.integers(0, 300)


@st.composite
def parts(draw):
    """A part of a schedule with the steps before END it should hold."""
    kind = draw(st.sampled_from(["one", "range", "stride", "open", "log"]))
    if kind == "log":
        n = draw(st.integers(1, 30))
        return f"log:{n}", {0} | {round(10 ** (i / n)) for i in range(3 * n)}
    a = draw(starts)
    b = draw(st.integers(a + 1, 350))
    stride = draw(st.integers(1, 60))
    return {
        "one": (f"{a}", {a}),
        "range": (f"{a}:{b}", set(range(a, b))),
        "stride": (f" {a}:{b}:{stride}", set(range(a, b, stride))),
        "open": (f"{a}::{stride}", set(range(a, END, stride))),
    }[kind]


@given(st.lists(parts(), min_size=1, max_size=4))
def test_a_schedule_is_the_union_of_its_parts(chosen):
    schedule = parse_schedule(",".join(text for text, _ in chosen))
    expected = sorted(s for s in set().union(*(steps for _, steps in chosen)) if s < END)
    assert schedule.steps(END).tolist() == expected
    assert [s for s in range(END) if s in schedule] == expected
    assert np.flatnonzero(schedule.holds(np.arange(END))).tolist() == expected
    for end in (0, 1, 7, 100):
        assert schedule.steps(end).tolist() == [s for s in expected if s < end]
    if schedule.end is not None:
        assert max(expected) == schedule.end - 1 or max(expected) < schedule.end


@given(st.integers(1, 40), st.integers(1, 10**6))
def test_logarithmic_steps_grow_by_their_ratio(n, end):
    steps = parse_schedule(f"log:{n}").steps(end + 1)
    assert steps[0] == 0
    assert len(steps) == len(set(steps.tolist()))
    late = steps[steps > 20 * n]
    if len(late) > 1:
        assert np.allclose(late[1:] / late[:-1], 10 ** (1 / n), rtol=0.1)


@given(st.integers(0, 10**6), st.integers(1, 5000))
def test_epochs_and_updates_are_the_same_steps(step, per_epoch):
    assert parse_step(f"{step}it") == parse_step(str(step)) == parse_step(step) == step
    assert parse_step(f"{step}ep", per_epoch) == step * per_epoch
    assert parse_step("1.5ep", 100) == 150


def test_defaults_of_a_range():
    assert parse_range(":") == parse_range("0:") == parse_range("0::1")
    assert parse_range("5") == parse_range("5:6")
    assert parse_schedule("0:").end is None
    assert parse_schedule("0:10, 20:31:10").end == 31
    assert parse_schedule("2ep:3ep", 10).steps(100).tolist() == list(range(20, 30))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a step range"),
        ("abc", "not a step"),
        ("1:2:3:4", "not a step range"),
        ("-1", "not a step"),
        ("5:5", "holds no step"),
        ("9:3", "holds no step"),
        ("0:10:0", "stride"),
        ("1.5", "whole number"),
        ("2ep", "give steps_per_epoch"),
        ("0:,", "not a step range"),
        ("log:", "whole N"),
        ("log:0", "whole N"),
        ("log:x", "whole N"),
        ("²", "not a step"),
    ],
)
def test_what_is_no_schedule_is_told(text, problem):
    with pytest.raises(StepError, match=problem):
        parse_schedule(text)


def test_negative_numbers_are_refused():
    with pytest.raises(StepError, match="negative"):
        parse_step(-3)
