"""Tell what an import of revisions would take, without downloading any of them.

Sizes come from the Hub's lists of files. Of the first revision, the headers of safetensors are
fetched by ranges and put into files without data, which are then opened as a download would be.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from ckptlab.errors import DataError
from ckptlab.record.convert.assemble_rows import array_types
from ckptlab.record.convert.estimate_import import Estimate
from ckptlab.record.convert.find_checkpoints import Choice, Series, open_checkpoint
from ckptlab.record.convert.infer_layout import layout_of
from ckptlab.record.hub.client import Repository, download, hub, parse_repository
from ckptlab.record.hub.import_revisions import (
    Revision,
    earlier_run,
    find_revisions,
    left_to_import,
    weight_files,
)
from ckptlab.store.format.layout import Layout


def estimate_revisions(
    url: str,
    output: str | os.PathLike[str] | None = None,
    *,
    revisions: str | None = None,
    choice: Choice | None = None,
) -> Estimate:
    """Tell what `import_revisions` would import; nothing is written.

    Parameters
    ----------
    url : str
        ``hf://OWNER/NAME[@REVISION][/FOLDER]``.
    output : str or path-like, optional
        A run that may hold some of the revisions.
    revisions : str, optional
        Pattern of branches and tags.
    choice : Choice, optional
        Which of the tensors, and how steps are read.

    Returns
    -------
    Estimate
        `bytes_stored` is what float32 takes, of which codecs save some; it is None, and there are
        no tensors, where the weights are not in safetensors.

    Raises
    ------
    DataError
        If nothing matches, the Hub cannot be reached or does not let in, or the first revision is
        no checkpoint.
    RunExistsError
        If the run is of another source.
    """
    repository, choice = parse_repository(url), choice or Choice()
    found, notes = find_revisions(repository, revisions, choice)
    wanted = left_to_import(found, (output and earlier_run(output, str(repository))) or None)
    if len(found) > len(wanted):
        notes.append(f"{len(found) - len(wanted)} of {len(found)} are in {output} already")
    files = [weight_files(replace(repository, revision=one.name)) for one in wanted]
    sizes = [sum(size for name, size in listed.items() if _weights(name)) for listed in files]
    notes += [
        f"revision {one.name} has {size:,} bytes of weights, {wanted[0].name} {sizes[0]:,}"
        for one, size in zip(wanted, sizes, strict=True)
        if size != sizes[0]
    ]
    estimate = Estimate(
        steps=[one.step for one in wanted if one.step is not None],
        tensors={},
        parameters=None,
        bytes_read=sum(sizes),
        bytes_stored=None,
        seconds=None,
        notes=notes,
    )
    if not wanted:
        return estimate
    if not all(name.endswith(".safetensors") for name in files[0] if _weights(name)):
        notes.append("only safetensors tell their tensors before they are downloaded whole")
        return estimate
    series, layout = _open_headers(repository, wanted[0], files[0], choice)
    notes += series.notes
    stored = sum(count * dtype.itemsize for count, dtype in array_types(layout).values())
    return replace(
        estimate,
        steps=estimate.steps or [series.checkpoints[0].step],
        tensors={row.name: f"{row.dtype} {list(row.shape)}" for row in layout.rows},
        parameters=layout.parameters,
        bytes_stored=stored * len(wanted),
    )


def _weights(name: str) -> bool:
    return not name.endswith(".json")


def _open_headers(
    repository: Repository, one: Revision, files: dict[str, int], choice: Choice
) -> tuple[Series, Layout]:
    """Open a revision by its headers alone."""
    at = replace(repository, revision=one.name)
    with tempfile.TemporaryDirectory(prefix="ckptlab-") as folder:
        place = Path(folder) / one.name.replace("/", "--")  # whose name may tell the step
        download(at, {name: size for name, size in files.items() if not _weights(name)}, place)
        for name, size in files.items():
            if _weights(name):
                _write_header(at, name, size, place / name)
        try:
            series = open_checkpoint(place / repository.path, choice, step=one.step)
            return series, layout_of(series.checkpoints[0].open()[1].tensors)
        except DataError as error:
            said = str(error).replace(str(place), f"{repository}@{one.name}")
            raise DataError(said, parameter=error.parameter) from error


def _write_header(at: Repository, name: str, size: int, path: Path) -> None:
    """Write a file of a header and zeros that take no space."""
    with hub(at) as api:
        told = api.parse_safetensors_file_metadata(
            at.name, name, revision=at.revision, repo_type=at.kind
        )
    header = {
        tensor: {"dtype": row.dtype, "shape": row.shape, "data_offsets": row.data_offsets}
        for tensor, row in told.tensors.items()
    }
    text = json.dumps({"__metadata__": told.metadata, **header}).encode()
    data = max((row.data_offsets[1] for row in told.tensors.values()), default=0)
    if data > size:
        raise DataError(f"{at}: {name} says it holds {data:,} bytes, and is {size:,}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + data)
