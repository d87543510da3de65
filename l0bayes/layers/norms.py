"""Norms over all features at once: layer norm, root mean square norm, group norm of a single group.

On fewer features they have other statistics, so that a network without some of them is another function than the same
network with their readers masked. Where a network is to be what its open features make of it
(``sparsify(…, norms="live")``), they take their statistics over those alone: run on narrower tensors they do so by
themselves.
"""

from torch import nn

from l0bayes.compat import own_buffers, own_modules, own_parameters
from l0bayes.layers.kinds import is_kind

_CHANNELS_FIRST = ("timm.layers.norm.LayerNorm2d", "torchvision.models.convnext.LayerNorm2d")
_LAYER_NORM_BY_ANOTHER_NAME = "T5LayerNorm"  # a root mean square norm


def norm_dim(module: nn.Module) -> int | None:
    """The dimension of its input along which a norm takes all features together.

    Returns:
        ``None`` for other modules, and for norms without a weight of their own, which cannot tell how many there are.
    """
    weight = own_parameters(module).get("weight")
    if weight is None or weight.dim() != 1:
        return None
    if isinstance(module, nn.GroupNorm):
        return 1 if module.num_groups == 1 else None
    if isinstance(module, nn.LayerNorm):
        return 1 if any(is_kind(module, name) for name in _CHANNELS_FIRST) else -1
    return -1 if isinstance(module, nn.RMSNorm) or _is_rms_norm(module) else None


def _is_rms_norm(module: nn.Module) -> bool:
    """Whether a module, of transformers perhaps, is called so and has a weight and nothing else."""
    called = type(module).__name__
    named = called.endswith("RMSNorm") or called == _LAYER_NORM_BY_ANOTHER_NAME
    return named and len(own_parameters(module)) == 1 and not own_buffers(module) and not own_modules(module)
