"""What cannot be gated is refused by name, never gated in part."""

import awkward_nets as nets
import pytest
import torch
from torch import nn

from l0bayes import sparsify
from l0bayes.errors import L0BayesError, StructureError
from l0bayes.models import MLP

X = torch.zeros(2, 6)


@pytest.fixture(name="net")
def small_network():
    return MLP(6, 5, 4, 3)


def refused(*parts, **arguments):
    with pytest.raises(StructureError) as error:
        sparsify(**arguments)
    for part in parts:
        assert part in str(error.value)
    return error.value


def test_structure_errors_are_value_errors_of_the_library():
    assert issubclass(StructureError, (L0BayesError,))
    assert issubclass(StructureError, ValueError)


def test_pattern_that_matches_nothing(net):
    refused("'conv*'", "'fc1'", "'fc3'", net=net, example_input=X, gates={"fc1": "unit", "conv*": "unit"})


@pytest.mark.parametrize("gates", ["neuron", {"fc1": "neuron"}, {"fc1": {"gates": "neuron"}}, ""])
def test_unknown_word(net, gates):
    word = "neuron" if gates else "''"
    refused(word, "unit", "input", "weight", net=net, example_input=X, gates=gates)


@pytest.mark.parametrize("gates", [5, None, ["unit"], ("unit", "input"), {3: "unit"}, {}])
def test_gates_that_are_neither_a_word_nor_a_mapping_from_patterns(net, gates):
    refused("gates", "granularity", net=net, example_input=X, gates=gates)


@pytest.mark.parametrize("value", [3, None, ["unit"], {"gates": ["unit"]}, {"gates": None}, {"gates": "unit", 3: 4}])
def test_options_of_another_type(net, value):
    refused("gates", "'fc1'", net=net, example_input=X, gates={"fc1": value})


def test_unknown_option(net):
    options = {"gates": "unit", "code_costs": 1.0}
    refused("fc2", "code_costs", "code_cost", net=net, example_input=X, gates={"fc2": options})


def test_options_without_the_word_gates(net):
    refused("fc2", "gates", net=net, example_input=X, gates={"fc2": {"code_cost": 1.0}})


def test_network_without_a_layer_that_could_be_gated():
    refused("net has no layer", "linear layers", net=nn.Sequential(nn.Flatten(), nn.ReLU()), example_input=X)


@pytest.mark.parametrize("net", ["MLP", None, lambda x: x], ids=["str", "None", "function"])
def test_something_that_is_no_network(net):
    refused("net must be", type(net).__name__, net=net, example_input=X)


def test_a_class_in_place_of_a_network():
    refused("net must be", net=nn.ReLU, example_input=X)


def test_only_the_output_layer_is_asked_for(net):
    refused("fc3", "leave the network", net=net, example_input=X, gates={"fc3": "unit"})


@pytest.mark.parametrize(
    "example",
    [torch.zeros(2, 7), torch.zeros(2, 6, dtype=torch.int64), (X, X), "text", None],
    ids=["width", "dtype", "two inputs", "str", "None"],
)
def test_example_input_that_the_network_does_not_take(net, example):
    refused("example_input", "MLP", net=net, example_input=example)


def test_example_input_without_rows(net):
    # Nothing could be compared on it; either it is refused, or the groups are those of any other example.
    try:
        found = sparsify(net, X[:0])
    except StructureError as error:
        assert "example_input" in str(error)  # noqa: PT017
    else:
        assert [g.name for g in found.groups] == ["fc1.unit", "fc2.unit"]


def test_a_feature_that_is_used_where_autograd_does_not_look():
    refused("fc1: ", "fc2: ", net=nets.Unseen(), example_input=torch.randn(3, 6))


def test_it_is_seen_though_the_last_layer_starts_at_zero():
    class Rescaled(nets.Layers):
        def forward(self, x):
            hidden = self.fc1(x).relu()
            return self.fc2(hidden) * hidden.detach().mean(-1, keepdim=True)

    net = Rescaled(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 3))
    with torch.no_grad():
        for parameter in net.fc2.parameters():
            parameter.zero_()
    refused("fc1: ", "fc2: ", net=net, example_input=torch.randn(3, 6))


def test_hidden_features_that_are_handed_out_cannot_vanish():
    with pytest.raises(StructureError):
        sparsify(nets.TwoOutputs(), torch.randn(3, 6))


def test_negative_code_cost_and_impossible_inclusion(net):
    with pytest.raises(ValueError, match="code_cost"):
        sparsify(net, X, code_cost=-0.1)
    with pytest.raises(ValueError, match="code_cost"):
        sparsify(net, X, code_cost=float("nan"))
    for inclusion in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="inclusion"):
            sparsify(net, X, inclusion=inclusion)


WRONG = {
    "code_cost": ["a", True, float("inf"), -1.0],
    "inclusion": ["a", True, 0, 1, -0.5, float("nan")],
    "init_open": ["a", None, False, 0, 1, 2.0],
    "min_units": [-1, 1.0, "1", True],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_numbers_out_of_range_or_of_another_type(net, name, value):
    with pytest.raises(ValueError, match=name):
        sparsify(net, X, **{name: value})
    with pytest.raises(ValueError, match=name):
        sparsify(net, X, gates={"fc1": {"gates": "unit", name: value}})


@pytest.mark.parametrize("cost", ["flops", None, 3])
def test_unknown_cost(net, cost):
    with pytest.raises(ValueError, match=r"cost must be one of parameters, macs, paper"):
        sparsify(net, X, cost=cost)


def test_a_network_that_keeps_what_it_computed_cannot_be_copied(net):
    net.last = net(torch.randn(2, 6))
    refused("MLP", "copied", net=net, example_input=X)


def test_a_network_without_shapes_yet():
    net = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(3))
    refused("Sequential", "once", net=net, example_input=X)
    net(X)
    assert nets.sizes(sparsify(net, X)) == {"0.unit": 5}


@pytest.mark.parametrize("error", [KeyError("width"), ZeroDivisionError(), AssertionError("width"), OSError("disk")])
def test_whatever_a_narrower_network_raises_keeps_the_full_width_behind_a_layer(error):
    def use(s, x):
        h = s.fc1(x)
        if h.shape[1] != 5:
            raise error
        return s.fc3(s.fc2(h).relu())

    net = nets.Network(use, fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 4), fc3=nn.Linear(4, 2))
    sparse = sparsify(net, torch.randn(3, 6))
    assert nets.sizes(sparse) == {"fc1.unit": 5, "fc2.unit": 4}
    assert [group.name for group in sparse.groups if group.padded] == ["fc1.unit"]


def test_a_refused_network_is_left_as_it_was(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    refused("example_input", net=net.train(), example_input=torch.zeros(2, 7))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not any(module._forward_pre_hooks for module in net.modules())


class Gradient(nn.Module):
    """What leaves it is the gradient of an energy."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 1)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.fc2(self.fc1(x).tanh()).sum(), x, create_graph=True)[0]


def test_a_network_that_runs_but_cannot_be_followed_is_told_from_a_wrong_example():
    refused("net: Gradient runs on the example, but", "torch.autograd.grad", net=Gradient(), example_input=X)
    refused("example_input: Gradient does not run on (", net=Gradient(), example_input=X[:, :3])
