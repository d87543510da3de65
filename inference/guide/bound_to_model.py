"""A guide and its model: together in a deep copy, apart in a pickle."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from l0bayes.compat import HookedGuide
from l0bayes.errors import StructureError
from l0bayes.find_sparse import find_sparse, is_gated, sparse_modules


class BoundToModel(HookedGuide):
    """A guide that knows what became of its model.

    A deep copy has a copy of the model, the very one that ``copy.deepcopy((model, guide))`` returns beside it. A
    pickled guide leaves the model behind, and is as small as its numbers are; it still gives gates, tables and draws,
    and can be saved. What needs the model says so, until :meth:`attach` gives it one.
    """

    # What a pickled guide notes of its model.
    _units: Mapping[str, Tensor] | None = None
    _least: Mapping[str, int] | None = None
    _labelled = False

    @property
    def model(self) -> Callable[..., Any]:
        """The model.

        Raises:
            RuntimeError: if it was left behind.
        """
        if self.lost_model:
            raise RuntimeError(
                "guide: its model was left behind when it was pickled. Give it one of the same networks with "
                "guide.attach(model), or copy both by copy.deepcopy((model, guide))"
            )
        model: Callable[..., Any] = self.own_model
        return model

    @property
    def lost_model(self) -> bool:
        """Whether the model was left behind, in a pickle."""
        return self.own_model is None

    @property
    def labelled_model(self) -> Any:
        """The model, for tables; ``None`` if it was left behind, and has nothing to say of them."""
        return None if self.lost_model and not self._labelled else self.model

    def attach(self, model: Callable[..., Any]) -> Self:
        """Gives a guide that was pickled its model back.

        Args:
            model: a model of the same networks, shrunk alike if the guide's was.

        Returns:
            The guide.

        Raises:
            StructureError: if the model has other gates.
        """
        units = _units_of(model)
        noted = self.units
        if units.keys() != noted.keys() or any(not torch.equal(units[name], noted[name]) for name in units):
            raise StructureError(
                f"model has other gates than the guide: {_sizes(units)}, and the guide {_sizes(noted)}. Give it the "
                "model that it belongs to, with the same units removed"
            )
        self.set_model(model)
        self._units = self._least = None
        return self

    @property
    def units(self) -> dict[str, Tensor]:
        """Site name to the numbers that its gates have in the full network, for the sites of sparse networks."""
        return dict(self._units) if self._units is not None else _units_of(self.model)

    @property
    def least(self) -> dict[str, int]:
        """Site name to the gates that the test-time network keeps at least."""
        if self._least is not None:
            return dict(self._least)
        return {name: number for sparse in sparse_modules(self.model) for name, number in sparse.least.items()}

    def __getstate__(self) -> dict[str, Any]:
        # The prototype holds distributions that hold the network, and is of no use once sites are known.
        labelled = self._labelled if self.lost_model else hasattr(self.model, "site_labels")
        noted = {"prototype_trace": None, "_units": self.units, "_least": self.least, "_labelled": labelled}
        return super().__getstate__() | noted

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        parent: Any = new
        parent.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return new if self.lost_model else new.attach(copy.deepcopy(self.own_model, memo))


def check_belongs(model: nn.Module, guide: Any) -> None:
    """Raises ``ValueError`` unless a guide's gates are those of a model's network, if it has any."""
    if not isinstance(guide, BoundToModel) or not is_gated(model):
        return
    own = sparse_modules(guide.model)
    if own and not any(sparse is find_sparse(model) for sparse in own):
        raise ValueError(
            "guide belongs to another network than model, or to a copy of it. Make one for this model, or copy both by "
            "copy.deepcopy((model, guide))"
        )


def _units_of(model: Any) -> dict[str, Tensor]:
    return {name: units for sparse in sparse_modules(model) for name, units in sparse.units.items()}


def _sizes(units: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} with {len(numbers)}" for name, numbers in units.items()) or "none"
