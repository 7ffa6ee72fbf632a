"""Optional dependencies: import them, or say which extra installs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ckptlab.errors import MissingExtraError

EXTRAS: dict[str, str] = {
    "torch": "train",
    "torchvision": "train",
    "sklearn": "train",
    "distributed": "cluster",
    "obstore": "cloud",
    "netCDF4": "files",
    "pyarrow": "files",
    "kaleido": "png",
    "curvlinops": "curvature",
    "huggingface_hub": "hub",
    "matplotlib": "notebook",
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
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # A module that is there but lacks one of its own is another fault.
        if error.name != package:
            raise
        extra = EXTRAS[package]
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed. "
            f"Install it: pip install 'ckptlab[{extra}]'"
        ) from error
