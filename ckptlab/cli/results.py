"""How a result is printed and written: tables on stdout, files with their attributes."""

from __future__ import annotations

import json
import math
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ckptlab.atomic import written_aside
from ckptlab.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr

ROWS = 16
"""Rows of a table; of more steps the first, the last and some between are shown."""

COLUMNS = 8
"""Columns of a table beside the step."""

STEPS = ("step", "eval_step", "alpha")
"""Dims that a table runs down, if there is one of them."""

FORMATS: dict[str, str] = {
    ".nc": "netCDF",
    ".zarr": "Zarr",
    ".csv": "long table",
    ".parquet": "long table",
}
"""What a result can be written as."""

PACKAGES = {".nc": "netCDF4", ".parquet": "pyarrow"}
"""What is needed for it beyond ckptlab's own requirements."""


def stdout_console() -> Console:
    """Make a console for results; wide enough for a table where stdout is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def require_format(path: str) -> None:
    """Raise ConfigError unless a file of this name can be written."""
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        raise ConfigError(f"{path!r}: the ending must be one of {', '.join(FORMATS)}")
    package = PACKAGES.get(suffix)
    if package is not None and find_spec(package) is None:
        raise ConfigError(
            f"writing {suffix} needs {package}: pip install 'ckptlab[files]', or write .csv"
        )


def save(result: xr.DataArray | xr.Dataset, path: str) -> str:
    """Write a result, with its attributes.

    Parameters
    ----------
    result : DataArray or Dataset
        What to write.
    path : str
        The ending chooses the format; what is there is replaced.

    Returns
    -------
    str
        The path.

    Notes
    -----
    A long table has one row for each cell and a column for each coordinate. CSV keeps the
    attributes beside it in ``FILE.csv.json``, parquet in its metadata.
    """
    if Path(path).suffix in (".csv", ".parquet"):
        _save_table(result, path)
        return path
    from ckptlab.analyze.io import save_dataset

    save_dataset(result, path)
    return path


def print_result(result: xr.DataArray | xr.Dataset) -> None:
    """Print a result as tables, thinned where they are long, saying how much of them is shown."""
    from ckptlab.analyze.io import as_dataset

    console = stdout_console()
    dataset = as_dataset(result)
    console.print(Text(_title(result)))
    lines = {name: v for name, v in dataset.data_vars.items() if _is_table(v)}
    for axis in dict.fromkeys(_axis(variable) for variable in lines.values()):
        _print_table(console, dataset, axis)
    for name, variable in dataset.data_vars.items():
        if not variable.dims:
            console.print(Text(f"{name}: {_number(variable.values[()])}"))
    for line in _lines_of_text(dataset):
        console.print(Text(line))


def _print_table(console: Console, dataset: xr.Dataset, axis: str) -> None:
    columns = _columns(dataset, axis)
    shown = list(columns)[:COLUMNS]
    rows = _thinned(dataset.sizes[axis])
    table = Table(box=box.SIMPLE_HEAD)
    for name in (axis, *shown):
        table.add_column(Text(name))
    for row in rows:
        cells = (_number(columns[name][row]) for name in shown)
        table.add_row(*(Text(cell) for cell in (_number(dataset[axis].values[row]), *cells)))
    console.print(table)
    notes = []
    if len(rows) < dataset.sizes[axis]:
        notes.append(f"{len(rows)} of {dataset.sizes[axis]} rows")
    if len(shown) < len(columns):
        notes.append(f"{len(shown)} of {len(columns)} columns")
    if notes:
        console.print(Text(f"shown: {', '.join(notes)}; all of it with -o FILE or --json"))


def _save_table(result: xr.DataArray | xr.Dataset, path: str) -> None:
    from ckptlab.analyze.io import as_dataset

    dataset = as_dataset(result)
    attrs = {"attributes": dict(result.attrs)}
    attrs |= {str(name): dict(v.attrs) for name, v in dataset.variables.items() if v.attrs}
    frame = dataset.to_dataframe().reset_index()
    if path.endswith(".csv"):
        with written_aside(path) as table, written_aside(f"{path}.json") as about:
            frame.to_csv(table, index=False)
            about.write_text(json.dumps(attrs, indent=1, default=str) + "\n")
        return
    pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(rows.schema.metadata or {}), b"ckptlab": json.dumps(attrs, default=str)}
    with written_aside(path) as aside:
        pq.write_table(rows.replace_schema_metadata(metadata), aside)


def _is_table(variable: xr.DataArray) -> bool:
    """Say whether a variable is printed: text and whole vectors of parameters are not."""
    return variable.ndim > 0 and variable.dtype != object and variable.dims[-1] != "param"


def _lines_of_text(dataset: xr.Dataset) -> list[str]:
    """Return what a result says in words; of several runs each line says of which."""
    if "text" not in dataset:
        return []
    text = dataset["text"]
    if "run" not in text.dims:
        return [str(line) for line in text.values]
    return [
        f"{run}: {line}"
        for run, lines in zip(text["run"].values, text.values, strict=True)
        for line in lines
    ]


def _axis(variable: xr.DataArray) -> str:
    """Return the dim that tables run down: the steps, where there are any."""
    return next((str(d) for d in variable.dims if d in STEPS), str(variable.dims[0]))


def _columns(dataset: xr.Dataset, axis: str) -> dict[str, npt.NDArray[Any]]:
    """Cut a dataset into columns over one axis; a variable of two dims gives several."""
    columns: dict[str, npt.NDArray[Any]] = {}
    if axis == "step" and "interval" in dataset.coords:
        columns["interval"] = dataset["interval"].values
    for name, variable in dataset.data_vars.items():
        if not _is_table(variable) or _axis(variable) != axis:
            continue
        others = [dim for dim in variable.dims if dim != axis]
        labels = product(*(map(str, dataset[dim].values) for dim in others))
        names = [str(name)] if len(dataset.data_vars) > 1 or not others else []
        lines = variable.transpose(*others, axis).values.reshape(-1, variable.sizes[axis])
        columns |= {" ".join([*names, *at]): v for at, v in zip(labels, lines, strict=True)}
    return columns


def _thinned(length: int) -> list[int]:
    """Choose the first rows, the last, and some between that get farther and farther apart."""
    import numpy as np

    if length <= ROWS:
        return list(range(length))
    spaced = np.geomspace(1, length - 1, ROWS - 1).round().astype(int)
    return [0, *np.unique(spaced).tolist()]


def _title(result: xr.DataArray | xr.Dataset) -> str:
    attrs = result.attrs
    parts = [str(attrs.get("metric", getattr(result, "name", "")))]
    parts += [f"{key} {attrs[key]}" for key in ("relative_to", "kinds", "weights") if key in attrs]
    if "units" in attrs:
        parts.append(f"units {attrs['units']}")
    return ", ".join(parts)


def _number(value: Any) -> str:
    # NumPy's floats of other widths than Python's have no common base with it.
    if isinstance(value, float) or str(getattr(value, "dtype", "")).startswith("float"):
        return "–" if math.isnan(value) else f"{value:.6g}"
    return str(value)
