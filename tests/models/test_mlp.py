"""The fully connected network."""

import pytest
import torch

from l0bayes.models import MLP


def test_layers_are_those_of_the_paper():
    net = MLP(784, 300, 100, 10)
    shapes = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    assert shapes == {
        "fc1.weight": (300, 784),
        "fc1.bias": (300,),
        "fc2.weight": (100, 300),
        "fc2.bias": (100,),
        "fc3.weight": (10, 100),
        "fc3.bias": (10,),
    }
    assert sum(parameter.numel() for parameter in net.parameters()) == 266_610


def test_it_computes_what_it_says():
    net = MLP(4, 3, 2)
    x = torch.randn(5, 4)
    hidden = (x @ net.fc1.weight.T + net.fc1.bias).clamp(min=0)
    torch.testing.assert_close(net(x), hidden @ net.fc2.weight.T + net.fc2.bias)


def test_without_hidden_layer_it_is_linear():
    net = MLP(4, 1)
    x = torch.randn(5, 4)
    torch.testing.assert_close(net(x), net.fc1(x))


def test_images_are_flattened():
    net, images = MLP(784, 10), torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(net(images), net(images.reshape(3, 784)))


@pytest.mark.parametrize("sizes", [(), (784,), (784, 0, 10), (784, -3, 10), (784, 30.0, 10), ("784", 10)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes must be two or more positive integers"):
        MLP(*sizes)
