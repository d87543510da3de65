"""Saving and loading finished networks and guides: safetensors + JSON, nothing that could run code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from l0bayes.arguments import check_file, checked
from l0bayes.compat import state_versions, with_versions
from l0bayes.errors import FileFormatError
from l0bayes.find_sparse import sparse_modules
from l0bayes.inference.size.shrink import rising, take_units, units_left
from l0bayes.inference.storage.files import read_tensors, write_bytes, write_tensors
from l0bayes.layers.full_width import FULL, GIVEN, stated
from l0bayes.layers.select_inputs import SelectInputs
from l0bayes.structure import join_name
from l0bayes.structure.names import shared_parameters
from l0bayes.subnetwork.resizing import resize, tie

_Module = TypeVar("_Module", bound=nn.Module)


def _kind(module: nn.Module) -> str:
    return "guide" if isinstance(module, AutoGuide) else "network"


def _class(module: nn.Module) -> str:
    """The class of the network that a user makes anew: one that was made to select its inputs was a plain layer."""
    kind = type(module)
    return (kind.__bases__[1] if isinstance(module, SelectInputs) else kind).__qualname__


@checked
def save(module: nn.Module, path: str | Path, provenance: Mapping[str, Any] | None = None) -> Path:
    """Saves a network (compacted or not) or a guide.

    Args:
        module: its ``state_dict`` is stored, with the shapes it has.
        path: the file to write, by custom ``*.safetensors``. The facts in its header are written beside it as
            ``*.json`` too, for people to read.
        provenance: further facts for the header, such as seed, data and error.

    Returns:
        The path.

    Raises:
        ValueError: if the path ends in ``.json``, which is where the facts go, or a part of the state is no tensor.
    """
    path = check_file("path", path)
    if path.suffix == ".json":
        raise ValueError(f"path: the facts go to {path}; name the network's own file *.safetensors")
    state = module.state_dict()
    if others := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"module: its state {others[0]!r} is no tensor; safetensors holds tensors only")
    for buffer, (attribute, width) in stated(module).items():
        state[join_name(buffer.rpartition(".")[0], attribute)] = torch.tensor(width)
    facts = {
        "kind": _kind(module),
        "class": _class(module),
        "tied": sorted(set(shared_parameters(module).values())),
        "units": units_left(module),
        "shapes": {name: list(tensor.shape) for name, tensor in state.items()},
        "state_versions": state_versions(module.state_dict()),
        "versions": {"torch": torch.__version__, "pyro": pyro.__version__},
        "provenance": dict(provenance or {}),
    }
    path = write_tensors(path, state, facts)
    sidecar = path.with_suffix(".json") if path.suffix == ".safetensors" else path.with_name(f"{path.name}.json")
    write_bytes(sidecar, (json.dumps(facts, indent=2) + "\n").encode())
    return path


@checked
def load(path: str | Path, module: _Module) -> _Module:
    """Loads what :func:`save` wrote into a fresh instance.

    Args:
        path: the file.
        module: a new network of the class that was compacted, at its full size: its layers take the shapes in
            the file. Or a new model around a sparse network, or a new guide of the same model, both at full size:
            units that :func:`~l0bayes.inference.shrink` took out before they were saved are taken out of them.

    Returns:
        ``module``, in evaluation mode if it is a network.

    Raises:
        FileNotFoundError: if there is no such file.
        FileFormatError: if the file is damaged or does not belong to such a module.
    """
    tensors, facts = read_tensors(path, _kind(module))
    if facts.get("class") != _class(module):
        raise FileFormatError(f"module: {path} holds a {facts.get('class')}, and a {_class(module)} was given")
    if facts.get("shapes") != {name: list(tensor.shape) for name, tensor in tensors.items()}:
        raise FileFormatError(f"path: {path} is damaged: its tensors are not those its header lists")
    given = {name: tensors.pop(name) for name in list(tensors) if name.rpartition(".")[2] in (GIVEN, FULL)}
    if isinstance(module, AutoGuide) or sparse_modules(module):
        _take_units(path, module, facts.get("units", {}))
        _load_state(path, module, tensors, facts.get("state_versions", {}))
        return module if isinstance(module, AutoGuide) else module.eval()
    try:
        module = cast("_Module", resize(module, {name: tensor.shape for name, tensor in tensors.items()}))
        for names in facts.get("tied", ()):
            tie(module, names)
        for name, number in given.items():
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, int(number))
    except (AttributeError, ValueError) as error:
        raise FileFormatError(f"module: {path} does not fit it: {error}") from error
    _load_state(path, module, tensors, facts.get("state_versions", {}))
    _check_indices(path, module)
    return module.eval()


def _check_indices(path: str | Path, module: nn.Module) -> None:
    """Raises where a layer would read features that it is not given, or one of them twice."""
    for name, (_, width) in stated(module).items():
        index = module.get_buffer(name)
        if index.is_floating_point() or index.dim() != 1 or not rising(index.tolist(), width):
            raise FileFormatError(
                f"path: {path} is damaged: {name} must rise from 0 to below the {width} features that the layer is "
                f"given, or gives; got {index.tolist()[:8]} …"
            )


def _take_units(path: str | Path, module: nn.Module, units: Mapping[str, list[int]]) -> None:
    """Takes out of a sparse network, or a guide and its network, what had been taken out of the one in the file."""
    try:
        take_units(module, units)
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"module: {path} does not fit it: {error}") from error


def _load_state(
    path: str | Path, module: nn.Module, tensors: Mapping[str, Tensor], versions: Mapping[str, int]
) -> None:
    own = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    other = next((t.dtype for name, t in tensors.items() if name in own and own[name] != t.dtype), None)
    if other is not None:
        raise FileFormatError(
            f"module: {path} holds numbers of {other}, the module of {next(iter(own.values()))}. Convert it with "
            "module.to(dtype) first, so that nothing is rounded unseen"
        )
    try:
        module.load_state_dict(with_versions(tensors, module, versions))
    except RuntimeError as error:
        raise FileFormatError(f"module: {path} does not fit it: {error}") from error
