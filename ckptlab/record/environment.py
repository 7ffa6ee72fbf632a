"""Describe the machine and the software of a recording, for its root attributes."""

from __future__ import annotations

import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ckptlab._version import __version__

_PACKAGES = ("torch", "numpy", "numcodecs", "pcodec", "zarr")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return versions, device, threads and start time (UTC) as JSON."""
    versions = {"ckptlab": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        versions[package] = metadata.version(package)
    # The distribution's version lacks the build (2.9.0+cu128), on which the last bits depend.
    versions["torch"] = str(torch.__version__)
    if (cudnn := cudnn_version(device)) is not None:
        versions["cudnn"] = cudnn
    return {
        "versions": versions,
        "device": {"type": device.type, "model": device_model(device)},
        "threads": torch.get_num_threads(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def cudnn_version(device: torch.device) -> str | None:
    """Return the version of the library that convolves on a GPU, on which the last bits depend."""
    return str(torch.backends.cudnn.version()) if device.type == "cuda" else None


def device_model(device: torch.device) -> str:
    """Return the name of the hardware: runs on the same one are comparable bit by bit."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
