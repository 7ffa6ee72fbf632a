"""How a result is printed and written: tables on stdout, files with their attributes.

Imports errors; xarray and rich.
"""

from __future__ import annotations

import json
import shutil
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ckptlab.errors import ConfigError

ROWS = 16
"""Rows of a table; of more steps the first, the last and some between are shown."""

COLUMNS = 8
"""Columns of a table beside the step."""

STEPS = ("step", "eval_step")
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
    suffix = Path(path).suffix
    if suffix in (".csv", ".parquet"):
        _save_table(result, path)
        return path
    dataset = _portable(result)
    if suffix == ".nc":
        dataset.to_netcdf(path)
    else:
        if Path(path).exists():
            shutil.rmtree(path)
        with warnings.catch_warnings():
            # Zarr warns that strings and consolidated metadata are newer than its specification.
            warnings.simplefilter("ignore")
            dataset.to_zarr(path, mode="w", zarr_format=3, consolidated=True)
    return path


def print_result(result: xr.DataArray | xr.Dataset) -> None:
    """Print a result as tables, thinned where they are long, saying how much of them is shown."""
    console = stdout_console()
    dataset = _as_dataset(result)
    console.print(Text(_title(result)))
    for axis in dict.fromkeys(_axis(variable) for variable in dataset.data_vars.values()):
        _print_table(console, dataset, axis)
    for line in dataset["text"].values if "text" in dataset else ():
        console.print(Text(str(line)))


def _print_table(console: Console, dataset: xr.Dataset, axis: str) -> None:
    columns = _columns(dataset, axis)
    shown = list(columns)[:COLUMNS]
    rows = _thinned(dataset.sizes[axis])
    table = Table(box=box.SIMPLE_HEAD)
    for name in (axis, *shown):
        table.add_column(Text(name))
    for row in rows:
        cells = (_number(columns[name][row]) for name in shown)
        table.add_row(*(Text(cell) for cell in (str(dataset[axis].values[row]), *cells)))
    console.print(table)
    notes = []
    if len(rows) < dataset.sizes[axis]:
        notes.append(f"{len(rows)} of {dataset.sizes[axis]} rows")
    if len(shown) < len(columns):
        notes.append(f"{len(shown)} of {len(columns)} columns")
    if notes:
        console.print(Text(f"shown: {', '.join(notes)}; all of it with -o FILE or --json"))


def _save_table(result: xr.DataArray | xr.Dataset, path: str) -> None:
    dataset = _as_dataset(result)
    attrs = {"attributes": dict(result.attrs)}
    attrs |= {str(name): dict(v.attrs) for name, v in dataset.variables.items() if v.attrs}
    frame = dataset.to_dataframe().reset_index()
    if path.endswith(".csv"):
        frame.to_csv(path, index=False)
        Path(f"{path}.json").write_text(json.dumps(attrs, indent=1, default=str) + "\n")
        return
    pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"ckptlab": json.dumps(attrs, default=str)}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def _portable(result: xr.DataArray | xr.Dataset) -> xr.Dataset:
    """Make a dataset that netCDF and Zarr can hold: text as variable-length strings."""
    dataset = _as_dataset(result)
    if isinstance(result, xr.DataArray):
        dataset = dataset.assign_attrs(result.attrs)
    for name, variable in dataset.variables.items():
        if variable.dtype == object:
            dataset[name] = dataset[name].astype(np.dtypes.StringDType())
    return dataset


def _as_dataset(result: xr.DataArray | xr.Dataset) -> xr.Dataset:
    return result if isinstance(result, xr.Dataset) else result.to_dataset()


def _axis(variable: xr.DataArray) -> str:
    """Return the dim that tables run down: the steps, where there are any."""
    return next((str(d) for d in variable.dims if d in STEPS), str(variable.dims[0]))


def _columns(dataset: xr.Dataset, axis: str) -> dict[str, npt.NDArray[Any]]:
    """Cut a dataset into columns over one axis; a variable of two dims gives several."""
    columns: dict[str, npt.NDArray[Any]] = {}
    if axis == "step" and "interval" in dataset.coords:
        columns["interval"] = dataset["interval"].values
    for name, variable in dataset.data_vars.items():
        if _axis(variable) != axis or variable.dtype == object:
            continue
        others = [dim for dim in variable.dims if dim != axis]
        if not others:
            columns[str(name)] = variable.values
            continue
        labels = dataset[others[0]].values
        prefix = "" if len(dataset.data_vars) == 1 else f"{name} "
        values = variable.transpose(..., axis).values
        columns |= {f"{prefix}{label}": line for label, line in zip(labels, values, strict=True)}
    return columns


def _thinned(length: int) -> list[int]:
    """Choose the first rows, the last, and some between that get farther and farther apart."""
    if length <= ROWS:
        return list(range(length))
    spaced = np.geomspace(1, length - 1, ROWS - 1).round().astype(int)
    return [0, *np.unique(spaced).tolist()]


def _title(result: xr.DataArray | xr.Dataset) -> str:
    attrs = result.attrs
    parts = [str(attrs.get("metric", result.name if isinstance(result, xr.DataArray) else ""))]
    parts += [f"{key} {attrs[key]}" for key in ("relative_to", "kinds", "weights") if key in attrs]
    if isinstance(result, xr.DataArray):
        parts.append(f"units {attrs.get('units', '1')}")
    return ", ".join(parts)


def _number(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "–" if np.isnan(value) else f"{value:.6g}"
    return str(value)
