"""Checkpoints: everything a run needs to go on as if it had never stopped."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l0bayes.errors import FileFormatError
from l0bayes.inference.files import read_tensors, write_tensors

_KIND = "checkpoint"


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: epochs finished.
        step: steps done in the epoch after that.
        sums: what is being summed over that epoch.
        history: one row of measurements a finished epoch.
        epoch_random: random state at the start of the epoch, from which its order of data follows.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    epoch_random: dict[str, Tensor] = field(default_factory=dict)


def random_state() -> dict[str, Tensor]:
    """The state of torch's, NumPy's and Python's global generators, as tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 (the global one)
    assert name == "MT19937"  # noqa: S101 (NumPy's only legacy generator)
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *internal], dtype=torch.int64),
        "python_gauss": torch.tensor(float("nan") if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), position, has_gauss], dtype=torch.int64),  # type: ignore[union-attr]
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state |= {f"cuda{i}": device for i, device in enumerate(torch.cuda.get_rng_state_all())}
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Restores what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"])
    version, *internal = state["python"].tolist()
    gauss = state["python_gauss"].item()
    random.setstate((version, tuple(internal), None if np.isnan(gauss) else gauss))
    *keys, position, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, state["numpy_gauss"].item()))  # noqa: NPY002
    cuda = [state[name] for name in sorted(state, key=lambda n: (len(n), n)) if name.startswith("cuda")]
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda)


def save_checkpoint(
    path: str | Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, progress: Progress
) -> Path:
    """Writes a checkpoint, atomically.

    Args:
        path: the file.
        modules: whose ``state_dict`` to keep, by name.
        optimizer: whose state to keep.
        progress: how far the run is.

    Returns:
        The path.
    """
    tensors = {f"{kind}/{name}": t for kind, module in modules.items() for name, t in module.state_dict().items()}
    optimizer_state = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for index, state in optimizer_state["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    for when, state in (("now", random_state()), ("epoch", progress.epoch_random)):
        tensors |= {f"random/{when}/{name}": value for name, value in state.items()}
    facts = {
        "kind": _KIND,
        "epoch": progress.epoch,
        "step": progress.step,
        "sums": progress.sums,
        "history": progress.history,
        "optimizer": {
            "class": type(optimizer).__qualname__,
            "groups": optimizer_state["param_groups"],
            "state": plain,
        },
    }
    return write_tensors(path, tensors, facts)


def load_checkpoint(path: str | Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> Progress:
    """Restores modules, optimizer and random state from a checkpoint.

    Args:
        path: the file.
        modules: the same modules, by the same names.
        optimizer: an optimizer of the same class over the same parameters.

    Returns:
        How far the run was.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFormatError: if it is damaged, or belongs to another model or optimizer.
    """
    tensors, facts = read_tensors(path, _KIND)
    stored = facts["optimizer"]
    if stored["class"] != type(optimizer).__qualname__:
        raise FileFormatError(
            f"checkpoint: {path} was written with {stored['class']}, and the optimizer is "
            f"{type(optimizer).__qualname__}"
        )
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in stored["state"].items()}
    for name, value in _under(tensors, "optimizer"):
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    try:
        for kind, module in modules.items():
            module.load_state_dict(dict(_under(tensors, kind)))
        optimizer.load_state_dict({"state": state, "param_groups": stored["groups"]})
    except (RuntimeError, ValueError) as error:
        raise FileFormatError(
            f"checkpoint: {path} belongs to another model or configuration: {error}. Give another path, or remove it "
            "to start afresh"
        ) from error
    set_random_state(dict(_under(tensors, "random/now")))
    return Progress(
        epoch=facts["epoch"],
        step=facts["step"],
        sums=facts["sums"],
        history=facts["history"],
        epoch_random=dict(_under(tensors, "random/epoch")),
    )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}/"):
            yield name.removeprefix(f"{prefix}/"), tensor
