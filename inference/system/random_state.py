"""The state of all generators of random numbers that a run draws from, as tensors."""

import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def random_state(own: Sequence[torch.Generator] = ()) -> dict[str, Tensor]:
    """The state of torch's, NumPy's and Python's global generators, and of a loader's own, as tensors."""
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
    return state | {f"loader{i}": generator.get_state() for i, generator in enumerate(own)}


def set_random_state(state: Mapping[str, Tensor], own: Sequence[torch.Generator] = ()) -> None:
    """Restores what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"])
    version, *internal = state["python"].tolist()
    gauss = state["python_gauss"].item()
    random.setstate((version, tuple(internal), None if np.isnan(gauss) else gauss))
    *keys, position, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, state["numpy_gauss"].item()))  # noqa: NPY002
    cuda = [state[name] for name in _cuda(state)]
    if cuda and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(cuda)
    for i, generator in enumerate(own):
        generator.set_state(state[f"loader{i}"])


def _cuda(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the states of CUDA devices, in their order."""
    return sorted((name for name in state if name.startswith("cuda")), key=lambda name: int(name.removeprefix("cuda")))
