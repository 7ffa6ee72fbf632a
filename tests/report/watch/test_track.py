import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.report.watch import track as module
from ckptlab.report.watch.track import Track


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(0, 3))
def test_points_are_every_second_fourth_or_eighth_of_all(parts, late):
    module.MOST_POINTS, before = 16, module.MOST_POINTS
    try:
        track, page, total = Track(), [], sum(parts)
        steps = np.arange(total) * 3
        values = np.where(np.arange(total) % 7 == 3, np.nan, np.sqrt(np.arange(total)))
        start = 0
        for number, count in enumerate(parts):
            part = slice(start, start + count)
            columns = {"a": values[part]} | ({"b": values[part]} if number >= late else {})
            changed = track.add(steps[part], columns)
            news = json.loads(json.dumps(track.since(0 if changed else len(page)), allow_nan=False))
            page = ([] if changed else page) + news["steps"]
            start += count
            assert page == track.steps
        assert len(track.steps) <= 16
        assert track.steps == steps[:: track.stride].tolist()
        shown = [float(f"{v:.5g}") if np.isfinite(v) else None for v in values[:: track.stride]]
        assert track.values.get("a", []) == shown
        begun = sum(parts[:late])
        later = [v if i * track.stride >= begun else None for i, v in enumerate(shown)]
        assert track.values.get("b", []) == (later if len(parts) > late else [])
    finally:
        module.MOST_POINTS = before
