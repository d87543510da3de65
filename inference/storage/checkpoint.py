"""Checkpoints: everything a run needs to resume as if it had never stopped."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.errors import FileFormatError
from l0bayes.inference.storage.files import read_tensors, write_tensors
from l0bayes.inference.system.random_state import random_state, set_random_state

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
        units: for a network that was shrunk, the gates that are left of each group.
        multipliers: Lagrange multipliers of the targets, in nats.
        settings: what a run that resumes must agree with, by name.
        gates: what the plan of the gates notes, see :class:`~l0bayes.inference.training.gate_plan.GatePlan`.
        fingerprint: what the run is about, see :mod:`l0bayes.inference.training.fingerprint`; ``None`` in files of a
            version that did not note it.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    epoch_random: dict[str, Tensor] = field(default_factory=dict)
    units: dict[str, list[int]] = field(default_factory=dict)
    multipliers: list[float] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, Any] | None = None


def save_checkpoint(
    path: str | Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    own: Sequence[torch.Generator] = (),
) -> Path:
    """Writes a checkpoint, atomically.

    Args:
        path: the file.
        modules: whose ``state_dict`` to keep, by name.
        optimizer: whose state to keep.
        progress: how far the run is.
        own: random generators of the loader's.

    Returns:
        The path.
    """
    tensors = {f"{kind}/{name}": t for kind, module in modules.items() for name, t in module.state_dict().items()}
    optimizer_state = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    states = optimizer_state["state"]
    for index, values in states.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                plain.setdefault(str(index), {})[name] = value
    for when, state in (("now", random_state(own)), ("epoch", progress.epoch_random)):
        tensors |= {f"random/{when}/{name}": value for name, value in state.items()}
    facts = {
        "kind": _KIND,
        "epoch": progress.epoch,
        "step": progress.step,
        "sums": progress.sums,
        "history": progress.history,
        "units": progress.units,
        "multipliers": progress.multipliers,
        "settings": progress.settings,
        "gates": progress.gates,
        "fingerprint": progress.fingerprint,
        "optimizer": {
            "class": type(optimizer).__qualname__,
            "groups": [
                {name: _plain(value) for name, value in group.items()} for group in optimizer_state["param_groups"]
            ],
            "state": plain,
            "stateful": sum(any(isinstance(v, Tensor) for v in values.values()) for values in states.values()),
        },
    }
    return write_tensors(path, tensors, facts)


def load_checkpoint(
    path: str | Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    prepare: Callable[[Progress], Mapping[str, nn.Module]] | None = None,
    own: Sequence[torch.Generator] = (),
) -> Progress:
    """Restores modules, optimizer and random state from a checkpoint.

    Args:
        path: the file.
        modules: the same modules, by the same names.
        optimizer: an optimizer of the same class over the same parameters.
        prepare: called with how far the run was before anything is compared, to bring modules and optimizer to how
            they were then; returns the modules to be loaded, if they are others.
        own: random generators of the loader's, to be set as they were.

    Returns:
        How far the run was.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFormatError: if it is damaged, or belongs to another model or optimizer.
    """
    tensors, facts = read_tensors(path, _KIND)
    try:
        stored = facts["optimizer"]
        progress = Progress(
            epoch=facts["epoch"],
            step=facts["step"],
            sums=facts["sums"],
            history=facts["history"],
            epoch_random=dict(_under(tensors, "random/epoch")),
            units=facts["units"],
            multipliers=facts["multipliers"],
            settings=facts["settings"],
            gates=facts["gates"],
            fingerprint=facts.get("fingerprint"),
        )
        if prepare is not None:
            modules = prepare(progress)
        optimizer_state = _optimizer_state(tensors, stored)
        _check(tensors, modules, optimizer, stored)
        _check_random(tensors, own)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(
            f"checkpoint: {path} belongs to another model or configuration, or is incomplete: {error}. Give another "
            "path, or remove it to start afresh"
        ) from error
    for kind, module in modules.items():
        module.load_state_dict(dict(_under(tensors, kind)))
    optimizer.load_state_dict(optimizer_state)
    _lay_out(optimizer)
    set_random_state(dict(_under(tensors, "random/now")), own)
    return progress


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Gives each moment the memory layout of its parameter: fused optimizers walk through both as they lie."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _optimizer_state(tensors: Mapping[str, Tensor], stored: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in stored["state"].items()}
    for name, value in _under(tensors, "optimizer"):
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": stored["groups"]}


def _check(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    stored: Mapping[str, Any],
) -> None:
    """Raises ``ValueError`` unless everything fits, before anything is changed."""
    for kind, module in modules.items():
        wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}
        found = {name: (tensor.shape, tensor.dtype) for name, tensor in _under(tensors, kind)}
        if wanted != found:
            differ = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
            raise ValueError(f"the {kind} differs in {', '.join(differ)}")
    if stored["class"] != type(optimizer).__qualname__:
        raise ValueError(f"it was written with {stored['class']}, and the optimizer is {type(optimizer).__qualname__}")
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != [len(group["params"]) for group in stored["groups"]]:
        raise ValueError("the optimizer has other parameter groups")
    for group, old in zip(optimizer.param_groups, stored["groups"], strict=True):
        for name, value in old.items():
            if name != "params" and (now := _plain(group[name])) != value:
                raise ValueError(f"the optimizer's {name} was {value}, is {now}")
    steps = {index for index, _ in (name.split("/") for name, _ in _under(tensors, "optimizer"))}
    if stored["stateful"] != len(steps):
        raise ValueError("the optimizer's state is incomplete")


def _check_random(tensors: Mapping[str, Tensor], own: Sequence[torch.Generator]) -> None:
    stored = {name for name, _ in _under(tensors, "random/now")}
    if (then := sum(name.startswith("loader") for name in stored)) != len(own):
        raise ValueError(f"its train_loader had {then} random generators of its own, this one has {len(own)}")
    if missing := {name for name in random_state() if not name.startswith("cuda")} - stored:  # a device may be missing
        raise ValueError(f"the random state lacks {', '.join(sorted(missing))}")


def _plain(value: Any) -> Any:
    """An option of an optimizer as JSON keeps it."""
    if isinstance(value, Tensor):
        return value.item()
    return [_plain(part) for part in value] if isinstance(value, (tuple, list)) else value


def _under(tensors: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}/"):
            yield name.removeprefix(f"{prefix}/"), tensor
