"""round_to: finished networks of widths that suit the matrix units of GPUs, with the outputs they had."""

import pytest
import torch
from exact_examples import EXAMPLES, gated
from subnetwork_oracle import random_gates, spread_guide
from torch import nn
from torch.nn.modules.conv import _ConvNd

from l0bayes import compact, sparsify
from l0bayes.inference import predict
from l0bayes.models import MLP
from l0bayes.subnetwork.compacted import compact_network

KINDS = pytest.mark.parametrize("kind", EXAMPLES)


def widths(net):
    """Layer to the features it makes and those it reads."""
    found = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = (module.out_features, module.in_features)
        elif isinstance(module, _ConvNd):
            found[name] = (module.out_channels, module.in_channels)
    return found


@pytest.mark.parametrize("round_to", [1, 2, 3, 8, 1000])
@KINDS
def test_outputs_stay_what_they_are(kind, round_to):
    sparse, x = gated(kind), EXAMPLES[kind].data(4)
    guide = spread_guide(sparse)
    expected = predict(sparse, guide, x)
    small = compact(sparse, guide, round_to=round_to)
    torch.testing.assert_close(small(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "lenet", "lenet of the paper", "wide resnet", "squeeze and excitation"])
def test_widths_are_multiples_of_eight_or_what_they_were(kind):
    sparse = gated(kind)
    small = compact(sparse, spread_guide(sparse), round_to=8)
    full, narrowed = widths(sparse.net), 0
    for name, now in widths(small).items():
        for width, before in zip(now, full[name], strict=True):
            assert width % 8 == 0 or width == before, (name, now, full[name])
            narrowed += width < before
    assert narrowed > 0 or kind in ("mlp", "squeeze and excitation")  # these are as wide as 8 at most


@KINDS
def test_rounding_beyond_the_width_takes_nothing_out(kind):
    sparse = gated(kind)
    small = compact(sparse, spread_guide(sparse), round_to=1000)
    assert [p.shape for p in small.parameters()] == [p.shape for p in sparse.net.parameters()]
    assert [type(module) for module in small.modules()] == [type(module) for module in sparse.net.modules()]


def test_the_number_of_units_is_the_next_multiple():
    net = MLP(40, 30, 20, 3)
    sparse = sparsify(net, torch.randn(2, 40))
    for opened, expected in ((0, 8), (1, 8), (7, 8), (8, 8), (9, 16), (16, 16), (17, 20), (20, 20)):
        gates = {"fc1.unit": torch.ones(30), "fc2.unit": (torch.arange(20) < opened).float()}
        small = compact_network(net, sparse.groups, gates, 8)
        assert (small.fc1.out_features, small.fc2.out_features) == (30, expected)
        assert small.fc3.in_features == expected


def test_units_that_are_open_keep_their_order_and_the_added_ones_count_for_nothing():
    net = MLP(6, 12, 3)
    sparse = sparsify(net, torch.randn(2, 6))
    gates = {"fc1.unit": torch.tensor([0.0, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])}
    small = compact_network(net, sparse.groups, gates, 4)
    read = small.fc2.weight.abs().sum(0)
    assert int((read == 0).sum()) == 1
    opened = small.fc1.weight[read != 0]
    assert torch.equal(opened, net.fc1.weight[[1, 4, 10]])
    torch.testing.assert_close(
        small.fc2.weight[:, read != 0], net.fc2.weight[:, [1, 4, 10]] * torch.tensor([0.5, 1, 1])
    )


def test_whole_groups_of_a_norm_and_whole_heads_are_rounded():
    sparse = gated("group norm")
    gates = {group.name: (torch.arange(group.size) == 1).float() for group in sparse.groups}
    small = compact_network(sparse.net, sparse.groups, gates, 2)
    assert (small.norm1.num_groups, small.norm1.num_channels, small.conv1.out_channels) == (2, 6, 6)
    sparse = gated("transformer")
    gates = random_gates(sparse, 1.0) | {"layers.0.self_attn.unit": torch.tensor([0.0, 0.0, 0.7])}
    small = compact_network(sparse.net, sparse.groups, gates, 2)
    assert small.layers[0].self_attn.num_heads == 2


def test_runs_are_not_rounded():
    net = MLP(6, 12, 3)
    sparse = sparsify(net, torch.randn(2, 6))
    selection = sparse._select(net, {"fc1.unit": torch.eye(12)[3]})
    assert selection.tensors["fc1.weight"].shape == (1, 6)


@pytest.mark.parametrize("round_to", [0, -8, 2.0, "8", None])
def test_what_is_no_positive_integer_is_refused(round_to):
    sparse = gated("mlp")
    with pytest.raises(ValueError, match="round_to must be a positive integer"):
        compact(sparse, spread_guide(sparse), round_to=round_to)
