"""Random functions made certain while a structure is tried out: their draws would be others for another width."""

from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from l0bayes.layers.kinds import DROPOUTS


class NoChance(TorchFunctionMode):
    """Makes random functions certain: their draws would be others for another width, which is no fault."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Stands in for a torch function that is being called."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if "dropout" in name and args:
            return args[0]
        if name in ("bernoulli_", "normal_", "uniform_"):
            return args[0].fill_(1.0)
        result = func(*args, **kwargs)
        return result.fill_(0.5) if name in ("rand", "randn", "rand_like", "randn_like", "bernoulli") else result


def drop_nothing(net: nn.Module) -> None:
    """Lets dropout drop nothing, in place: what is dropped would be something else for another width."""
    for module in net.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
