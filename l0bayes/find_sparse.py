"""Finds the networks made by ``sparsify`` in a model."""

from typing import Any

from torch import nn

from l0bayes.errors import StructureError
from l0bayes.sparse_module import SparseModule


def sparse_modules(model: Any) -> list[SparseModule]:
    """The networks made by ``sparsify`` in a model; none in what is no module."""
    return [part for part in model.modules() if isinstance(part, SparseModule)] if isinstance(model, nn.Module) else []


def is_gated(model: nn.Module) -> bool:
    """Whether a network made by ``sparsify`` is in the model."""
    return bool(sparse_modules(model))


def find_sparse(model: nn.Module) -> SparseModule:
    """The one sparse module in a model.

    Raises:
        StructureError: if there is none, or more than one.
    """
    found = sparse_modules(model)
    if len(found) != 1:
        raise StructureError(
            f"model must contain exactly one network made by sparsify; {type(model).__name__} has {len(found)}"
        )
    return found[0]
