"""What benchmarks read: a recorded training, made or given, and walks of any size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ckptlab.record.recorder import Recorder
from ckptlab.run import open_run
from ckptlab.train.config import load_config
from ckptlab.train.trainer import train

RESNET20 = 272_474
"""Weights of ResNet-20."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a benchmark is run.

    Parameters
    ----------
    images : str or None
        An image folder of 32x32 images (train/, test/); digits or synthetic images without.
    recorded : str or None
        A run of ResNet-20 on those images, recorded at every step, so that it is not trained again.
    quick : bool
        Few repetitions: does it run?
    only : str
        Of the cases of a benchmark, those whose titles hold it.
    base : str
        The commit that `commits` compares with.
    """

    images: str | None
    recorded: str | None
    quick: bool
    only: str = ""
    base: str = "HEAD~"

    @property
    def data(self) -> list[str]:
        """Settings of the images; of the digits if there are none."""
        return ["data.name=imagefolder", f"data.root={self.images}"] if self.images else []

    @property
    def pictures(self) -> list[str]:
        """Settings of 32x32 images; synthetic ones if there are none."""
        synthetic = ["data.name=synthetic", "data.image_size=32", "data.channels=3"]
        return self.data or [*synthetic, "data.samples=5000"]

    @property
    def what(self) -> str:
        """What the recorded run learns from."""
        return "images of 32x32 (JPEG)" if self.images else "digits"

    def run(self, folder: Path, steps: int) -> str:
        """Return the path of a run of ResNet-20 with so many updates, made if none was given."""
        if self.recorded is not None:
            found = open_run(self.recorded)
            if int(found.steps[-1]) < steps or found.layout.parameters != RESNET20:
                raise SystemExit(f"{self.recorded} has fewer than {steps} steps of ResNet-20")
            return self.recorded
        path = folder / "run.zarr"
        if not path.exists():
            settings = [*self.data, f"train.steps={steps}", "eval.steps=none"]
            train(load_config(overrides=settings), str(path))
        return str(path)


def walk(path: Path, steps: int, parameters: int = RESNET20, codec: str = "dense") -> Recorder:
    """Record a path that compresses about as weights under momentum do.

    Parameters
    ----------
    path : Path
        Where.
    steps : int
        Snapshots, the first included.
    parameters : int
        Weights.
    codec : str
        As recorders take it.

    Returns
    -------
    Recorder
        Closed; its `stats` say what it did.
    """
    model = torch.nn.Linear(parameters, 1, bias=False)
    generator = torch.Generator().manual_seed(0)
    velocity = torch.zeros_like(model.weight)
    # Blocks of four steps of a large model: three are held, of four bytes a weight.
    memory = max(2**30, 4 * parameters * (12 if parameters < 2e8 else 3) + 2**20)
    options = {"codec": codec, "fsync": False, "memory": memory}
    with torch.no_grad(), Recorder(path, model, **options) as recorder:
        for _ in range(steps - 1):
            velocity.mul_(0.9).add_(torch.randn(velocity.shape, generator=generator), alpha=1e-3)
            model.weight.add_(velocity, alpha=0.1)
            recorder.step()
    return recorder
