"""One operation of torch, as the rules of features see it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from l0bayes.compat import argument_defaults, tree_leaves
from l0bayes.structure.labelling import Labelling


@dataclass(frozen=True)
class Call:
    """One operation of torch, with its arguments by name, defaults included, and its results."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    @property
    def name(self) -> str:
        """The operation's name, without namespace and overload."""
        name: str = self.func.name().rpartition("::")[2]
        return name.partition(".")[0]

    def __getitem__(self, argument: str) -> Any:
        return self.bound[argument]

    @cached_property
    def bound(self) -> dict[str, Any]:
        """Arguments by name, in the schema's order."""
        defaults = argument_defaults(self.func)
        return defaults | dict(zip(defaults, self.args, strict=False)) | self.kwargs

    @property
    def first_out(self) -> Any:
        """The result, or the first of several."""
        return self.out[0] if isinstance(self.out, tuple | list) else self.out


Rule = Callable[[Labelling, Call], None]


def labels_of(flow: Labelling, value: Any) -> list[Tensor]:
    """The labels of all tensors in there that carry features."""
    return [labels for leaf in tree_leaves(value) if (labels := flow.labels(leaf)) is not None]


def freeze(flow: Labelling, call: Call) -> None:
    """An operation we know nothing of: what enters it stays, and so does what comes out."""
    entering = labels_of(flow, (call.args, call.kwargs))
    why = f"{call.name} in {flow.where}, whose effect on features is not known"
    for labels in entering:
        flow.features.freeze_sink(labels, f"it passes through {why}")
    for value in tree_leaves(call.out) if entering else ():
        if isinstance(value, Tensor) and value.is_floating_point():
            label_frozen(flow, value, f"it comes out of {why}")


def label_frozen(flow: Labelling, value: Tensor, why: str) -> None:
    """Gives a tensor one label that cannot be taken out, and says why."""
    label = flow.features.fresh(1)
    flow.features.freeze(label, why)
    flow.features.mark_source(label)
    flow.label(value, label.reshape([1] * value.dim()).expand(value.shape))
