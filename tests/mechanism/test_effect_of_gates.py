"""Gates that could have no effect are none: weights that are used from elsewhere than their modules stay dense."""

import copy

import pytest
import torch
from awkward_nets import Layers, Network
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)

from l0bayes import sparsify
from l0bayes.errors import StructureError
from l0bayes.structure.groups import along


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


class Hidden(Layers):
    """Four layers, the middle two of which may be kept in another place too."""

    def __init__(self, how):
        super().__init__(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 4), fc3=nn.Linear(4, 3), fc4=nn.Linear(3, 2))
        self.how = how
        layers = [self.fc1, self.fc2]
        if how == "list":
            self.weights = [(layer.weight, layer.bias) for layer in layers]
        elif how == "dict":
            self.weights = {name: (layer.weight, layer.bias) for name, layer in zip("ab", layers, strict=True)}
        elif how == "cached attribute":
            self.weights = tuple((layer.weight.detach(), layer.bias.detach()) for layer in layers)
        elif how == "list of layers":
            self.layers = layers

    def middle(self, x):
        if self.how == "list of layers":
            return self.layers[1](self.layers[0](x).relu())
        if self.how == "training":
            return self.fc2(self.fc1(x).relu())
        (w1, b1), (w2, b2) = self.weights.values() if self.how == "dict" else self.weights
        return F.linear(F.linear(x, w1, b1).relu(), w2, b2)

    def forward(self, x):
        return self.fc4(self.fc3(self.middle(x).relu()).relu())


@pytest.mark.parametrize("how", ["list", "dict", "cached attribute"])
def test_weights_that_are_used_from_elsewhere_have_no_gates(how):
    sparse = sparsify(Hidden(how), torch.randn(4, 6))
    assert [group.name for group in sparse.groups] == ["fc3.unit"]
    if how in ("list", "dict"):  # a copy has nothing of the others
        assert "'fc1.weight', 'fc2.weight': used from elsewhere than its module" in sparse.structure.dense["fc1"]
    assert_effective(sparse, torch.randn(4, 6))


def test_layers_that_are_called_from_elsewhere_may_have_them():
    sparse = sparsify(Hidden("list of layers"), torch.randn(4, 6))
    assert [group.name for group in sparse.groups] == ["fc1.unit", "fc2.unit", "fc3.unit"]
    assert_effective(sparse, torch.randn(4, 6))


def through_a_lambda(net):
    net.middle = lambda x: net.fc2(net.fc1(x).relu())


def through_a_closure(net):
    w, b, fc2 = net.fc1.weight, net.fc1.bias, net.fc2
    net.middle = lambda x: fc2(F.linear(x, w, b).relu())


def through_a_hook(net):
    net.fc3.register_forward_hook(lambda _layer, _args, out: out * net.fc1.bias.mean())


@pytest.mark.parametrize("refer", [through_a_lambda, through_a_closure, through_a_hook])
def test_functions_that_refer_to_the_network_would_refer_to_it_in_a_compacted_one(refer):
    net = Hidden("training")
    assert len(sparsify(copy.deepcopy(net), torch.randn(4, 6)).groups) == 3
    refer(net)
    with pytest.raises(StructureError, match=r"a copy of this Hidden uses 'fc1\.bias' of the.*Make it a method"):
        sparsify(net, torch.randn(4, 6))


def test_what_only_training_mode_uses_from_elsewhere_counts():
    kept = []

    def use(s, x):
        h = s.fc1(x).relu()
        w = s.kept[0] if s.training else s.fc2.weight
        return s.fc4(s.fc3(F.linear(h, w, s.fc2.bias).relu()).relu())

    net = Network(use, fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 4), fc3=nn.Linear(4, 3), fc4=nn.Linear(3, 2))
    net.kept = kept
    kept.append(net.fc2.weight)
    sparse = sparsify(net, torch.randn(4, 6))
    assert [group.name for group in sparse.groups] == ["fc3.unit"]


def assert_effective(sparse, x):
    """Each group changes the outputs as zeros in the very parameters of a copy do."""
    with torch.no_grad():
        for parameter in sparse.net.parameters():
            parameter.abs_().add_(0.1)  # so that no unit is off anyway
    x = x.abs()
    opened = {group.name: torch.ones(group.size) for group in sparse.groups}
    for group in sparse.groups:
        gates = opened | {group.name: torch.arange(group.size) % 2.0}
        zeroed = copy.deepcopy(sparse.net)
        with torch.no_grad():
            for part in group.slices:
                if part.consumes:
                    tensor = zeroed.get_parameter(part.tensor)
                    tensor.mul_(along(gates[group.name][part.gates], part.dim, tensor.shape))
        torch.testing.assert_close(sparse.run(gates, x), zeroed(x), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(sparse.run(gates, x), sparse.run(opened, x))
