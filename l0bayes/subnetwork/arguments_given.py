"""What some modules of a network are given while it runs."""

from collections.abc import Collection
from functools import partial
from typing import Any, Self

import torch
from torch import nn

from l0bayes.inputs import Inputs


class Arguments:
    """Keeps the arguments of the first call of some modules, within it.

    Args:
        net: the network that runs.
        names: of the modules.

    Attributes:
        seen: name to arguments; only modules that were called.
    """

    def __init__(self, net: nn.Module, names: Collection[str]) -> None:
        self.seen: dict[str, Inputs] = {}
        self._watched = {name: net.get_submodule(name) for name in names}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, module in self._watched.items():
            self._hooks.append(module.register_forward_pre_hook(partial(self._keep, name), with_kwargs=True))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, name: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self.seen.setdefault(name, Inputs(args, kwargs).map(torch.clone))
