"""What a finished run of ``l0bayes train`` has left in its folder."""

import json
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from l0bayes.errors import FileFormatError
from l0bayes.inference.command_line.job import Job, network_of
from l0bayes.inference.command_line.train_options import TrainOptions
from l0bayes.inference.storage.save_load import load

SavedNetwork = Literal["compacted", "dense"]


class SavedRun:
    """Reads a folder.

    Args:
        folder: that ``l0bayes train`` has written to.
        data_dir: where its data are, if not where they were.

    Attributes:
        summary: what ``summary.json`` holds.
        options: of the run.

    Raises:
        FileNotFoundError: if no finished run is there.
        FileFormatError: if its summary is damaged.
    """

    def __init__(self, folder: str, data_dir: str | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / "summary.json"
        if not path.is_file():
            raise FileNotFoundError(f"folder: {folder} has no summary.json; give the --out of a finished l0bayes train")
        try:
            self.summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            names = {field.name for field in fields(TrainOptions)}
            given = {name: value for name, value in self.summary["options"].items() if name in names}
        except (ValueError, KeyError, TypeError) as error:
            raise FileFormatError(f"folder: {path} is damaged ({error})") from error
        self.options = TrainOptions(**given | ({} if data_dir is None else {"data_dir": data_dir}))

    @cached_property
    def job(self) -> Job:
        """Its data, and what was made of them."""
        return Job(self.options)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input of the network."""
        shape = self.summary.get("input_shape")  # a run of an earlier version has to look at its data
        return tuple(self.job.data.train.x.shape[1:] if shape is None else shape)

    @property
    def classes(self) -> int:
        """How many outputs the network has."""
        return int(self.summary.get("classes") or self.job.data.classes)

    def network(self, name: SavedNetwork = "compacted") -> nn.Module:
        """One of its networks, on the CPU, in evaluation mode.

        Raises:
            FileNotFoundError: if the run has none of that name.
        """
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"network: {path} is not there")
        return load(path, network_of(self.options, self.input_shape, self.classes)).eval()

    def example(self, rows: int = 2) -> Tensor:
        """Random inputs of the shape that the networks take."""
        return torch.randn(rows, *self.input_shape, generator=torch.Generator().manual_seed(0))
