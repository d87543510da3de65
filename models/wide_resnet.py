"""Wide residual networks."""

from torch import Tensor, nn

from l0bayes.arguments import checked_but
from l0bayes.checks import check_dropout, is_count


class Block(nn.Module):
    """A pre-activation residual block: BN-ReLU-conv, dropout, BN-ReLU-conv, added to the shortcut.

    Where input and output are of one shape, the shortcut is the input. Where they are not, it is a 1×1 convolution
    of the input after its BN-ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: stride of the first convolution and of the shortcut.
        dropout: probability that a feature between the two convolutions is dropped in training.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        reshapes = in_channels != out_channels or stride != 1
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if reshapes else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps features of shape ``(batch, in_channels, height, width)`` to ``out_channels`` features."""
        active = self.bn1(x).relu()
        residual: Tensor = self.dropout(self.conv1(active))
        residual = self.conv2(self.bn2(residual).relu())
        return residual + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """A wide residual network, WRN-``depth``-``width``, of Zagoruyko and Komodakis 2016 (arXiv 1605.07146).

    After a convolution to 16 channels, ``conv1``, come ``stage1``, ``stage2`` and ``stage3``, of ``(depth - 4) / 6``
    blocks each and of 16, 32 and 64 times ``width`` channels; the latter two halve height and width of the image.
    Then come ``bn``, ReLU, the mean over the image, and ``fc``.

    Args:
        depth: number of layers as the paper counts them, 6n + 4 for n blocks in each stage.
        width: factor by which the stages are wider than those of a ResNet.
        num_classes: outputs, one for each class.
        dropout: probability that a feature between the two convolutions of a block is dropped in training.

    Raises:
        ValueError: if ``depth`` is not 6n + 4 for a positive n, ``width`` or ``num_classes`` is not a positive
            integer, or ``dropout`` is not in [0, 1).
    """

    @checked_but("depth", "width", "num_classes")
    def __init__(self, depth: int = 28, width: int = 10, num_classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        if not is_count(depth, 10) or depth % 6 != 4:  # noqa: PLR2004
            raise ValueError(f"depth must be 6n + 4 for n blocks in each stage, such as 16, 28 or 40; got {depth!r}")
        for name, number in (("width", width), ("num_classes", num_classes)):
            if not is_count(number):
                raise ValueError(f"{name} must be a positive integer, such as 10; got {number!r}")
        check_dropout(dropout)
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.stage1 = self._stage(blocks, 16, 16 * width, 1, dropout)
        self.stage2 = self._stage(blocks, 16 * width, 32 * width, 2, dropout)
        self.stage3 = self._stage(blocks, 32 * width, 64 * width, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    @staticmethod
    def _stage(blocks: int, in_channels: int, out_channels: int, stride: int, dropout: float) -> nn.Sequential:
        first = Block(in_channels, out_channels, stride, dropout)
        return nn.Sequential(first, *(Block(out_channels, out_channels, 1, dropout) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps images of shape ``(batch, 3, height, width)`` to outputs of shape ``(batch, num_classes)``."""
        x = self.conv1(x)
        x = self.stage3(self.stage2(self.stage1(x)))
        x = self.bn(x).relu().mean((-2, -1))
        output: Tensor = self.fc(x)
        return output
