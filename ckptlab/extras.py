"""Optional dependencies: import them, or say which extra installs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from ckptlab.errors import MissingExtraError

EXTRAS: dict[str, str] = {
    "torch": "train",
    "torchvision": "train",
    "sklearn": "train",
    "safetensors": "train",
    "distributed": "cluster",
    "obstore": "cloud",
    "netCDF4": "files",
    "pyarrow": "files",
    "kaleido": "png",
    "curvlinops": "curvature",
    "huggingface_hub": "hub",
    "matplotlib": "notebook",
    "lightning": "lightning",
    "pytorch_lightning": "lightning",
    "transformers": "transformers",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
}
"""Which extra of the package brings which module."""


def require(module: str, purpose: str) -> Any:
    """Import a module that an extra installs.

    Parameters
    ----------
    module : str
        A key of `EXTRAS`, or a submodule of one.
    purpose : str
        What needs it, as the error begins: ``"recording"``.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    MissingExtraError
        If it is not installed; names the command that installs it.
    """
    with explained(purpose):
        return import_module(module)


@contextlib.contextmanager
def explained(purpose: str = "this") -> Iterator[None]:
    """Name the extra where an optional dependency turns out to be missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # A package that is there but lacks a module of its own is another fault.
        if package not in EXTRAS or error.name != package:
            raise
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed. "
            f"Install it: pip install 'ckptlab[{EXTRAS[package]}]'"
        ) from error
