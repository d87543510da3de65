"""Only the subnetwork is computed: floating-point operations, counted exactly."""

import pytest
import torch
from flop_oracle import flops
from torch import nn

from l0bayes import sparsify
from l0bayes.models import MLP, LeNet5, WideResNet
from l0bayes.subnetwork.masked import masked_forward

BATCH = 8
SIZES = (20, 30, 10, 5)


def first_open(sparse, *keeps):
    """Gates of which the first so many are open, group by group."""
    return {g.name: (torch.arange(g.size) < keep).float() for g, keep in zip(sparse.groups, keeps, strict=True)}


@pytest.fixture(name="sparse")
def gated_inputs():
    return sparsify(MLP(*SIZES), torch.zeros(2, SIZES[0]), gates="input")


KEEPS = [(20, 30, 10), (10, 15, 5), (7, 30, 1), (20, 3, 10), (1, 1, 1)]


@pytest.mark.parametrize("keeps", KEEPS)
def test_a_forward_pass_costs_the_products_of_open_features(sparse, keeps):
    pixels, first, second = keeps
    x = torch.randn(BATCH, SIZES[0])
    gates = first_open(sparse, *keeps)
    expected = 2 * BATCH * (pixels * first + first * second + second * SIZES[3])
    assert flops(lambda: sparse.run(gates, x)) == expected


@pytest.mark.parametrize("keeps", KEEPS)
def test_a_training_step_costs_three_products_a_layer_but_for_the_gradient_of_the_data(sparse, keeps):
    pixels, first, second = keeps
    x = torch.randn(BATCH, SIZES[0])
    gates = first_open(sparse, *keeps)
    expected = 2 * BATCH * (2 * pixels * first + 3 * first * second + 3 * second * SIZES[3])
    assert flops(lambda: sparse.run(gates, x), backward=True) == expected


def test_where_everything_is_closed_one_slice_of_each_layer_is_computed(sparse):
    closed, one = first_open(sparse, 0, 0, 0), first_open(sparse, 1, 1, 1)
    x = torch.randn(BATCH, SIZES[0])
    assert flops(lambda: sparse.run(closed, x)) == 2 * BATCH * (1 + 1 + SIZES[3])
    assert flops(lambda: sparse.run(closed, x), backward=True) == flops(lambda: sparse.run(one, x), backward=True)


def test_masking_alone_saves_nothing(sparse):
    # The reference itself: it shows that the counter sees what the subnetwork leaves out.
    gates = first_open(sparse, 10, 15, 5)
    x = torch.randn(BATCH, SIZES[0])
    dense = flops(lambda: sparse.net(x))
    assert dense == 2 * BATCH * (20 * 30 + 30 * 10 + 10 * 5)
    assert flops(lambda: masked_forward(sparse.net, sparse.groups, gates, x)) == dense
    assert flops(lambda: sparse.run(gates, x)) < dense / 3


def lenet_flops(channels, maps, hidden):
    """Multiply-adds of LeNet-5 on a batch, by two: 24 × 24 and 8 × 8 positions, 16 of them left after pooling."""
    return 2 * BATCH * (576 * 25 * channels + 64 * 25 * channels * maps + 16 * maps * hidden + hidden * 10)


@pytest.mark.parametrize(
    "keeps", [(20, 50, 500), (10, 20, 300), (19, 30, 100), (1, 1, 1), (20, 30, 500), (20, 45, 500)]
)
def test_convolutions_are_narrowed_at_once_and_linear_layers_where_it_pays(keeps):
    sparse = sparsify(LeNet5(), torch.zeros(2, 1, 28, 28))
    gates, x = first_open(sparse, *keeps), torch.randn(BATCH, 1, 28, 28)
    assert flops(lambda: sparse.run(gates, x)) == lenet_flops(*keeps)


def test_inputs_of_a_linear_layer_behind_a_convolution_are_narrowed_by_both_of_its_groups():
    sparse = sparsify(LeNet5(), torch.zeros(2, 1, 28, 28), gates={"conv*": "unit", "fc*": "input"})
    x = torch.randn(BATCH, 1, 28, 28)
    gates = first_open(sparse, 5, 10, 400, 100)  # 160 of those 400 features come from channels that are open
    expected = lenet_flops(5, 10, 100)
    assert flops(lambda: sparse.run(gates, x)) == expected
    gates["fc1.input"] = (torch.arange(800) % 10 == 0).float()
    assert flops(lambda: sparse.run(gates, x)) == expected - 2 * BATCH * 144 * 100


def test_a_closed_residual_branch_costs_next_to_nothing():
    sparse = sparsify(WideResNet(10, 1, 4), torch.zeros(2, 3, 8, 8))
    x = torch.randn(BATCH, 3, 8, 8)
    gates = {group.name: torch.ones(group.size) for group in sparse.groups}
    before = flops(lambda: sparse.run(gates, x))
    gates["stage1.0.conv1.unit"] = torch.zeros(16)
    # Both convolutions of the branch, 16 channels in and out of it, keep one of 16 between them.
    assert before - flops(lambda: sparse.run(gates, x)) == 2 * BATCH * 64 * 9 * 16 * 15 * 2


def test_removed_heads_are_not_computed():
    net = nn.Sequential(nn.TransformerEncoderLayer(16, 4, 8, 0.0, batch_first=True), nn.Linear(16, 2)).eval()
    sparse = sparsify(net, torch.zeros(2, 5, 16))
    gates = {group.name: torch.ones(group.size) for group in sparse.groups}
    x = torch.randn(BATCH, 5, 16)
    before = flops(lambda: sparse.run(gates, x))
    gates["0.self_attn.unit"] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    projections, products = 4 * 16 * 16, 2 * 5 * 16
    assert before - flops(lambda: sparse.run(gates, x)) == BATCH * 5 * (projections + products)
