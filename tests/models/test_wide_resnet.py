"""Wide residual networks."""

import math
import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

from l0bayes.models import WideResNet
from l0bayes.models.wide_resnet import Block


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def closed_form(depth, width, num_classes):
    """Parameters of the paper's table 1: convolutions without bias, batch norms of two, one linear layer."""
    blocks = (depth - 4) // 6
    total, before = 3 * 16 * 9, 16
    for after in (16 * width, 32 * width, 64 * width):
        shortcut = before * after if before != after else 0
        total += 2 * before + 9 * before * after + 2 * after + 9 * after**2 + shortcut
        total += (blocks - 1) * (4 * after + 18 * after**2)
        before = after
    return total + 2 * before + (before + 1) * num_classes


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0), (22, 8, 17.2), (28, 10, 36.5), (28, 12, 52.5)],
)
def test_parameters_are_as_many_as_published(depth, width, millions):
    with torch.device("meta"):
        parameters = count(WideResNet(depth, width))
    assert parameters == closed_form(depth, width, 10)
    assert round(parameters / 1e6, 1) == millions


def test_default_is_the_28_10():
    with torch.device("meta"):
        net = WideResNet()
    assert count(net) == 36_479_194
    assert [name for name, _ in net.named_children()] == ["conv1", "stage1", "stage2", "stage3", "bn", "fc"]
    assert [len(stage) for stage in (net.stage1, net.stage2, net.stage3)] == [4, 4, 4]


def test_convolutions_are_as_many_as_depth_says():
    net = WideResNet(16, 1)
    kernels = [module.kernel_size for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert kernels.count((3, 3)) == 16 - 3  # the paper's depth counts one shortcut in each stage
    assert kernels.count((1, 1)) == 2  # at width 1 the first stage keeps its shape


@pytest.mark.parametrize("num_classes", [1, 10, 100])
def test_output_has_one_column_for_each_class(num_classes):
    net = WideResNet(10, 1, num_classes)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, num_classes)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (28, 28), (33, 17), (8, 8), (4, 4)])
def test_images_of_any_size_run(size):
    assert WideResNet(10, 2)(torch.randn(2, 3, *size)).shape == (2, 10)


def test_stages_have_the_papers_shapes():
    net = WideResNet(10, 2).eval()
    features = net.conv1(torch.randn(1, 3, 32, 32))
    shapes = [features.shape]
    for stage in (net.stage1, net.stage2, net.stage3):
        features = stage(features)
        shapes.append(features.shape)
    assert shapes == [(1, 16, 32, 32), (1, 32, 32, 32), (1, 64, 16, 16), (1, 128, 8, 8)]


def normalised(bn, features):
    mean = features.mean((0, 2, 3), keepdim=True)
    variance = features.var((0, 2, 3), correction=0, keepdim=True)
    scale = bn.weight[:, None, None] / (variance + bn.eps).sqrt()
    return ((features - mean) * scale + bn.bias[:, None, None]).clamp(min=0)


def with_random_norms(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return net


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(4, 4, 1), (4, 6, 1), (4, 4, 2), (4, 6, 2)])
def test_block_computes_what_it_says(in_channels, out_channels, stride):
    block = with_random_norms(Block(in_channels, out_channels, stride, 0.0))
    x = torch.randn(3, in_channels, 8, 8)
    active = normalised(block.bn1, x)
    middle = normalised(block.bn2, F.conv2d(active, block.conv1.weight, stride=stride, padding=1))
    shortcut = x
    if (in_channels, stride) != (out_channels, 1):
        shortcut = torch.einsum("oi,bihw->bohw", block.shortcut.weight[:, :, 0, 0], active[..., ::stride, ::stride])
    expected = F.conv2d(middle, block.conv2.weight, padding=1) + shortcut
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_network_ends_as_it_says():
    net = with_random_norms(WideResNet(10, 1))
    x = torch.randn(3, 3, 16, 16)
    features = net.stage3(net.stage2(net.stage1(net.conv1(x))))
    pooled = normalised(net.bn, features).flatten(2).mean(2)
    torch.testing.assert_close(net(x), pooled @ net.fc.weight.T + net.fc.bias, rtol=1e-4, atol=1e-5)


def test_narrower_layers_run():
    net = WideResNet(10, 1)
    block = net.stage3[0]
    block.conv1, block.bn2, block.conv2 = nn.Conv2d(32, 5, 3, 2, padding=1), nn.BatchNorm2d(5), nn.Conv2d(5, 7, 3, 1, 1)
    block.shortcut, net.bn, net.fc = nn.Conv2d(32, 7, 1, 2), nn.BatchNorm2d(7), nn.Linear(7, 10)
    assert net(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_convolutions_start_as_kaiming_has_it():
    net = WideResNet(16, 4)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            deviation = math.sqrt(2 / fan_out)
            error = deviation / math.sqrt(2 * module.weight.numel())  # standard error of a standard deviation
            assert abs(module.weight.std().item() - deviation) < 5 * error
    assert not net.fc.bias.any()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("width", [1, 2])
def test_gradient_reaches_every_parameter(width, dropout):
    net = WideResNet(16, width, dropout=dropout)
    net(torch.randn(4, 3, 16, 16)).square().sum().backward()
    unreached = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


def test_training_normalises_over_the_batch_and_evaluation_does_not():
    net, x = WideResNet(10, 1), torch.randn(4, 3, 16, 16)
    before = net.bn.running_mean.clone()
    net.train()(x)
    assert not torch.equal(net.bn.running_mean, before)
    net.eval()
    before = net.bn.running_mean.clone()
    torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.bn.running_mean, before, rtol=0, atol=0)


@pytest.mark.parametrize("depth", [-2, 0, 4, 9, 27, 29, 28.0, "28"])
def test_impossible_depth_is_refused(depth):
    message = re.escape(f"depth must be 6n + 4 for n blocks in each stage, such as 16, 28 or 40; got {depth!r}")
    with pytest.raises(ValueError, match=message):
        WideResNet(depth)


@pytest.mark.parametrize("name", ["width", "num_classes"])
@pytest.mark.parametrize("number", [0, -1, 2.0, "2"])
def test_impossible_sizes_are_refused(name, number):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, such as 10; got {number!r}"):
        WideResNet(10, **{name: number})
