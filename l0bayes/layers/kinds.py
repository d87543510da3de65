"""Kinds of layers: torch's that come in one class for each number of dimensions, and one of transformers."""

from torch import nn

TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED_CONVOLUTIONS)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def is_kind(module: nn.Module, name: str) -> bool:
    """Whether a module is of a class, or of a subclass of it, that is known by its full name alone, not imported."""
    return any(f"{kind.__module__}.{kind.__qualname__}" == name for kind in type(module).__mro__)


def is_conv1d_of_transformers(module: nn.Module) -> bool:
    """Whether a module is GPT-2's linear layer, whose weight is the other way round."""
    return is_kind(module, "transformers.pytorch_utils.Conv1D")
