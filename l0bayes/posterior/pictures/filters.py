"""What a network kept: the weights of its first layer as images."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor, nn

from l0bayes.posterior.pictures.style import axes_for

_IMAGES = 4  # dimensions of a convolution's weight


def plot_filters(
    network: nn.Module | Tensor, shape: tuple[int, int] | None = None, ax: Axes | None = None, *, most: int = 64
) -> Axes:
    """The weights of a network's first layer, a tile for each unit; inputs that were removed are left white.

    Args:
        network: a network whose first layer with weights is a convolution of images or linear, such as a compacted
            one; or such a weight.
        shape: height and width of the images that a linear layer reads.
        ax: where to draw; a new figure if ``None``.
        most: units to draw at most, those of the largest norms.

    Returns:
        The axes drawn on. Each tile has a scale of its own; white is zero or not there.

    Raises:
        ValueError: if the layer is none of these, or ``shape`` is missing or does not fit.
    """
    tiles = _tiles(network, shape)
    order = np.argsort(-np.sqrt(np.nansum(tiles**2, axis=(1, 2))), kind="stable")[:most]
    tiles = tiles[np.sort(order)]
    tiles = tiles / np.maximum(np.nanmax(np.abs(tiles), axis=(1, 2), keepdims=True), 1e-12)
    rows = math.ceil(len(tiles) / math.ceil(math.sqrt(len(tiles))))
    columns = math.ceil(len(tiles) / rows)
    height, width = tiles.shape[1:]
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet[row * (height + 1) :, column * (width + 1) :][:height, :width] = tile
    ax = axes_for(ax)
    ax.imshow(sheet, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    for number in range(len(tiles)):
        row, column = divmod(number, columns)
        frame = {"fill": False, "edgecolor": "#c9ced6", "linewidth": 0.6}
        corner = (column * (width + 1) - 0.5, row * (height + 1) - 0.5)
        ax.add_patch(_rectangle(corner, width, height, frame))
    ax.set_axis_off()
    ax.set_title(f"{len(tiles)} units of the first layer", loc="left", fontsize=10)
    return ax


def _rectangle(corner: tuple[float, float], width: int, height: int, style: dict[str, Any]) -> Any:
    from matplotlib.patches import Rectangle  # noqa: PLC0415 (with the rest of matplotlib)

    return Rectangle(corner, width, height, **style)


def _tiles(network: nn.Module | Tensor, shape: tuple[int, int] | None) -> np.ndarray:
    """Units as images, of shape ``(units, height, width)``; NaN where an input was removed."""
    layer: Any = _first_layer(network) if isinstance(network, nn.Module) else None
    weight: Tensor = network if isinstance(network, Tensor) else layer.weight
    values = weight.detach().float().cpu().numpy()
    if values.ndim == _IMAGES:
        return values.reshape(-1, *values.shape[2:])  # a tile for each unit and channel
    if values.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"network: its first weight has shape {values.shape}; it must be of images, or a matrix")
    index = getattr(layer, "index", None)
    size = values.shape[1] if index is None else int(layer.given_features)
    if shape is None or shape[0] * shape[1] != size:
        raise ValueError(f"shape: the first layer reads {size} numbers; say which image they are, got {shape}")
    full = np.full((len(values), size), np.nan)
    full[:, slice(None) if index is None else index.cpu().numpy()] = values
    return full.reshape(-1, *shape)


def _first_layer(network: nn.Module) -> nn.Module:
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            return module
    raise ValueError(f"network: {type(network).__name__} has no layer with a matrix of weights")
