"""State that a user attaches to a recording: schedulers, scalers, random numbers and the like."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ckptlab.errors import ConfigError
from ckptlab.record.state.packing import pack, unpack

_FIX = "Leave it out of recorder.attach(), or give an object whose state_dict() holds these."


class RandomState:
    """The state of the global random numbers of Python, NumPy, and torch on CPU and CUDA."""

    def state_dict(self) -> dict[str, Any]:
        """Return all states; CUDA's only where it is in use."""
        state = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),  # noqa: NPY002  # the one that training code draws from
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set all states."""
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        torch.set_rng_state(state["torch"])
        for device, numbers in enumerate(state.get("cuda", ())):
            if device < torch.cuda.device_count():
                torch.cuda.set_rng_state(numbers, device)


class _Generator:
    """A generator of random numbers of torch or NumPy, as an object with a state dict."""

    def __init__(self, generator: torch.Generator | np.random.Generator) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Any]:
        if isinstance(self._generator, torch.Generator):
            return {"state": self._generator.get_state()}
        return dict(self._generator.bit_generator.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self._generator, torch.Generator):
            self._generator.set_state(state["state"])
        else:
            self._generator.bit_generator.state = state


class Attached:
    """Objects whose state is stored with the optimizer's and comes back with it."""

    def __init__(self) -> None:
        self._objects: dict[str, Any] = {}
        self._stored: dict[str, Any] = {}
        self._tensors: Mapping[str, torch.Tensor] = {}

    def add(self, objects: Mapping[str, Any]) -> None:
        """Take objects by name, and set them to what a resumed run holds of them.

        ConfigError names one that has no state, UnsupportedTensorError one that cannot be stored.
        """
        for name, given in objects.items():
            if given is None or given is False:
                continue
            adapted = _adapt(name, given)
            pack(adapted.state_dict(), name, {}, _FIX)
            self._objects[name] = adapted
            self._restore(name)

    def warn_of_missing(self) -> None:
        """Warn, once, of states that a resumed run holds and that no object has taken."""
        if self._stored:
            missing, self._stored = ", ".join(sorted(self._stored)), {}
            warnings.warn(
                f"the run holds the state of {missing}, which was not attached and goes on without "
                "it; attach it before the first step",
                stacklevel=3,
            )

    def copy(self, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Return the states as JSON; tensors in them are copied to `tensors`."""
        return {
            name: pack(thing.state_dict(), f"attached/{name}", tensors, _FIX)
            for name, thing in self._objects.items()
        }

    def restore(self, stored: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Set objects to what an anchor holds, now or as soon as they are attached."""
        self._stored, self._tensors = dict(stored), tensors
        for name in self._objects:
            self._restore(name)

    def _restore(self, name: str) -> None:
        if name in self._stored:
            self._objects[name].load_state_dict(unpack(self._stored.pop(name), self._tensors))


def _adapt(name: str, given: Any) -> Any:
    if name == "rng" and given is True:
        return RandomState()
    if isinstance(given, torch.Generator | np.random.Generator):
        return _Generator(given)
    if all(callable(getattr(given, method, None)) for method in ("state_dict", "load_state_dict")):
        return given
    raise ConfigError(
        f"attach({name}={given!r:.40}): a {type(given).__name__} has no state; accepted: objects "
        "with state_dict() and load_state_dict(), random generators, and rng=True"
    )
