"""Caffe's LeNet-5."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import nn

from l0bayes.models import LeNet5


def test_layers_are_those_of_caffe():
    net = LeNet5()
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    assert shapes == {
        "conv1.weight": (20, 1, 5, 5),
        "conv1.bias": (20,),
        "conv2.weight": (50, 20, 5, 5),
        "conv2.bias": (50,),
        "fc1.weight": (500, 800),
        "fc1.bias": (500,),
        "fc2.weight": (10, 500),
        "fc2.bias": (10,),
    }
    assert sum(parameter.numel() for parameter in net.parameters()) == 431_080


@pytest.mark.parametrize(("num_classes", "in_channels"), [(10, 1), (3, 1), (10, 3), (1, 2)])
def test_output_has_one_column_for_each_class(num_classes, in_channels):
    net = LeNet5(num_classes, in_channels)
    assert net(torch.randn(4, in_channels, 28, 28)).shape == (4, num_classes)


def test_it_computes_what_it_says():
    net, x = LeNet5(), torch.randn(2, 1, 28, 28)

    def convolve(layer, features):
        size = features.shape[-1] - 4
        columns = F.unfold(features, 5)
        values = (layer.weight.flatten(1) @ columns).unflatten(-1, (size, size)) + layer.bias[:, None, None]
        return values.clamp(min=0).unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).amax((-3, -1))

    features = convolve(net.conv2, convolve(net.conv1, x)).reshape(2, 800)
    hidden = (features @ net.fc1.weight.T + net.fc1.bias).clamp(min=0)
    torch.testing.assert_close(net(x), hidden @ net.fc2.weight.T + net.fc2.bias)


def test_narrower_layers_run():
    net = LeNet5()
    net.conv1, net.conv2 = nn.Conv2d(1, 3, 5), nn.Conv2d(3, 7, 5)
    net.fc1, net.fc2 = nn.Linear(7 * 16, 11), nn.Linear(11, 10)
    assert net(torch.randn(4, 1, 28, 28)).shape == (4, 10)


def test_gradient_reaches_every_parameter():
    net = LeNet5()
    net(torch.randn(8, 1, 28, 28)).square().sum().backward()
    unreached = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


def test_it_is_the_same_in_training_and_evaluation():
    net, x = LeNet5(), torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(net.train()(x), net.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["num_classes", "in_channels"])
@pytest.mark.parametrize("number", [0, -1, 10.0, "10"])
def test_impossible_sizes_are_refused(name, number):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer; got {number!r}"):
        LeNet5(**{name: number})
