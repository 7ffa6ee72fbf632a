"""What docs/format.md says of reading without ckptlab works, in a process that has not got it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import ckptlab

PAGE = Path(__file__).parents[2] / "docs" / "format.md"


def test_a_tensor_is_selected_without_ckptlab_and_without_a_warning(
    tiny_mlps: list[Path], tmp_path: Path
) -> None:
    section = PAGE.read_text().partition("## 7. Reading with xarray alone")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    code = code.replace("run.zarr", str(tiny_mlps[0]))
    code += "import sys\nimport numpy as np\nassert 'ckptlab' not in sys.modules\n"
    code += f"np.save({str(tmp_path / 'history.npy')!r}, history.compute())\n"
    command = [sys.executable, "-W", "error:Numcodecs", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = np.load(tmp_path / "history.npy")
    run = ckptlab.open_run(tiny_mlps[0])
    np.testing.assert_array_equal(found, run["fc1.weight"].values)
    assert found.shape == (13, *run.state_dict(0)["fc1.weight"].shape)
