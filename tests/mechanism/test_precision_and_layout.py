"""Number formats, memory formats, and modes of autograd in which a subnetwork runs."""

import copy

import pytest
import torch
from exact_examples import EXAMPLES, Excited, gated
from subnetwork_oracle import assert_same, gradients, library, loss_of, masked, random_gates, subnetwork
from torch import nn

from l0bayes import sparsify
from l0bayes.subnetwork.compacted import compact_network
from l0bayes.subnetwork.running import run_subnetwork
from l0bayes.subnetwork.selection import Selector

KINDS = pytest.mark.parametrize("kind", EXAMPLES)
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def example(kind, *, training=False):
    sparse = gated(kind)
    sparse.net.train(training)
    return sparse, random_gates(sparse), EXAMPLES[kind].data(4)


def as_it_was(sparse, run, *args):
    """A run after which the running statistics are what they were."""
    before = copy.deepcopy(sparse.net.state_dict())
    output = run(*args)
    sparse.net.load_state_dict(before)
    return output


# -- number formats -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@KINDS
def test_autocast_gives_the_masked_networks_numbers_in_the_dense_networks_format(kind, training):
    sparse, gates, x = example(kind, training=training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = as_it_was(sparse, sparse.net, x)
        expected = as_it_was(sparse, masked, sparse, gates, x)
        for run in (subnetwork, library):
            output = as_it_was(sparse, run, sparse, gates, x)
            assert output.dtype == dense.dtype == torch.bfloat16
            torch.testing.assert_close(output, expected, rtol=0.05, atol=0.02 * float(expected.detach().abs().max()))


@KINDS
def test_autocast_gives_gradients_close_to_the_masked_networks(kind):
    sparse, gates, x = example(kind)
    gates = {name: gate.requires_grad_() for name, gate in gates.items()}
    wanted = [*sparse.net.parameters(), *gates.values()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients(loss_of(subnetwork(sparse, gates, x).float()), *wanted)
        expected = gradients(loss_of(masked(sparse, gates, x).float()), *wanted)
    for tensor, one, other in zip(wanted, found, expected, strict=True):
        assert one.dtype == torch.float32
        mattering = tensor != 0 if any(tensor is gate for gate in gates.values()) else torch.ones_like(one).bool()
        largest = float(other.abs().max())
        torch.testing.assert_close(one[mattering], other[mattering], rtol=0.05, atol=0.03 * largest)


@KINDS
def test_under_autocast_gates_are_multiplied_in_single_precision(kind):
    sparse, gates, _ = example(kind)
    expected = Selector(sparse.net, sparse.groups)(sparse.net, gates)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        selection = Selector(sparse.net, sparse.groups)(sparse.net, gates)
    assert all(tensor.dtype == torch.float32 for tensor in selection.tensors.values())
    assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in selection.tensors.items())


@KINDS
def test_compacted_networks_run_under_autocast(kind):
    sparse, gates, x = example(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        small = compact_network(sparse.net, sparse.groups, gates)
        assert all(tensor.dtype == torch.float32 for tensor in small.parameters())
        expected = masked(sparse, gates, x)
        torch.testing.assert_close(small(x), expected, rtol=0.05, atol=0.02 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("kind", ["mlp", "densenet", "transformer"])
def test_the_groups_found_under_autocast_are_the_same(kind):
    wanted = EXAMPLES[kind]
    expected = sparsify(wanted.build(), wanted.data(2), gates=wanted.gates).structure
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sparsify(wanted.build(), wanted.data(2), gates=wanted.gates).structure
    assert str(found) == str(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@KINDS
def test_a_network_of_another_precision_runs_with_gates_of_single_precision(kind, dtype):
    sparse, gates, x = example(kind)
    sparse.net.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    expected = masked(sparse, gates, x)
    tolerance = {torch.float64: 1e-6, torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    for output in (subnetwork(sparse, gates, x), compact_network(sparse.net, sparse.groups, gates)(x)):
        assert output.dtype == dtype
        torch.testing.assert_close(
            output, expected, rtol=tolerance, atol=tolerance * float(expected.detach().abs().max())
        )


# -- memory formats -------------------------------------------------------------------------------------------


def convolutions():
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    return nn.Sequential(*layers), torch.randn(3, 3, 9, 9)


def volumes():
    return nn.Sequential(nn.Conv3d(2, 6, 2), nn.ReLU(), nn.Conv3d(6, 4, 2)), torch.randn(3, 2, 5, 5, 5)


FORMATS = {torch.channels_last: convolutions, torch.channels_last_3d: volumes}


@pytest.mark.parametrize("which", ["input", "weights", "both"])
@pytest.mark.parametrize("layout", FORMATS)
def test_channels_may_come_last(layout, which):
    net, x = FORMATS[layout]()
    sparse = sparsify(net.double().eval(), x.double())
    gates, x = random_gates(sparse), x.double()
    expected = masked(sparse, gates, x)
    x = x.to(memory_format=layout) if which != "weights" else x
    net.to(memory_format=layout) if which != "input" else net
    dense = net(x)
    for output in (subnetwork(sparse, gates, x), compact_network(net, sparse.groups, gates)(x)):
        assert_same(output, expected)
        assert output.stride() == dense.stride()


@pytest.mark.parametrize("layout", FORMATS)
def test_weights_whose_channels_come_last_still_do_when_they_are_narrowed(layout):
    net, x = FORMATS[layout]()
    sparse = sparsify(net.to(memory_format=layout), x)
    gates = {group.name: (torch.arange(group.size) % 2).float() for group in sparse.groups}
    narrowed = Selector(net, sparse.groups)(net, gates).tensors
    small = compact_network(net, sparse.groups, gates)
    weights = [tensor for tensor in (*narrowed.values(), *small.parameters()) if tensor.dim() > 3]
    assert len(weights) >= 4
    assert all(weight.is_contiguous(memory_format=layout) for weight in weights)
    assert not any(weight.is_contiguous() for weight in weights)


def test_input_that_is_not_contiguous_gives_the_same_numbers():
    sparse = sparsify(Excited().double(), torch.randn(2, 2, 7, 7).double())
    sparse.net.eval()
    x = torch.randn(7, 4, 14, 2).double().permute(1, 3, 2, 0)[:, :, ::2]
    gates = random_gates(sparse)
    assert_same(subnetwork(sparse, gates, x), masked(sparse, gates, x.contiguous()))


# -- modes of autograd ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
@KINDS
def test_runs_without_gradients_are_the_same_and_do_not_stand_in_the_way_of_training(kind, training, mode):
    sparse, gates, x = example(kind, training=training)
    before = copy.deepcopy(sparse.net.state_dict())
    with mode():
        output = library(sparse, gates, x)
        assert not output.requires_grad
    after = copy.deepcopy(sparse.net.state_dict())
    sparse.net.load_state_dict(before)
    expected = library(sparse, gates, x)
    assert torch.equal(output, expected.detach())
    assert all(torch.equal(after[name], value) for name, value in sparse.net.state_dict().items())
    expected.sum().backward()
    with mode():
        compact_network(sparse.net, sparse.groups, gates)(x)


@KINDS
def test_tables_made_in_inference_mode_serve_training(kind):
    # On a GPU they are made there by the first run, which may be an evaluation.
    sparse, gates, x = example(kind, training=True)
    with torch.inference_mode():
        selector = Selector(sparse.net, sparse.groups)
    gates = {name: torch.full_like(gate, 0.5).requires_grad_() for name, gate in gates.items()}
    run_subnetwork(sparse.net, selector(sparse.net, gates), x).sum().backward()
    assert any(gate.grad.any() for gate in gates.values())


def test_frozen_parameters_need_no_gradient():
    sparse, gates, x = example("squeeze and excitation")
    sparse.net.requires_grad_(requires_grad=False)
    assert not subnetwork(sparse, gates, x).requires_grad
    gates["conv1.unit"].requires_grad_()
    (found,) = gradients(loss_of(subnetwork(sparse, gates, x)), gates["conv1.unit"])
    (expected,) = gradients(loss_of(masked(sparse, gates, x)), gates["conv1.unit"])
    torch.testing.assert_close(found[found != 0], expected[found != 0])


# -- GPUs -----------------------------------------------------------------------------------------------------


@CUDA
@pytest.mark.parametrize("training", [True, False])
@KINDS
def test_on_a_gpu_too_it_is_the_masked_network(kind, training):
    sparse, gates, x = example(kind, training=training)
    sparse.double().cuda()
    gates = {name: gate.double().cuda().requires_grad_() for name, gate in gates.items()}
    x = x.cuda().double() if x.is_floating_point() else x.cuda()
    wanted = list(sparse.net.parameters())
    with torch.inference_mode():  # the tables moved here serve for training all the same
        library(sparse, gates, x)
    expected = as_it_was(sparse, masked, sparse, gates, x)
    for run in (subnetwork, library):
        output = as_it_was(sparse, run, sparse, gates, x)
        assert_same(output, expected, 1e-9)
        for one, other in zip(gradients(loss_of(output), *wanted), gradients(loss_of(expected), *wanted), strict=True):
            assert_same(one, other, 1e-9)
    small = compact_network(sparse.net.eval(), sparse.groups, {name: gate.detach() for name, gate in gates.items()})
    assert_same(small(x), masked(sparse, gates, x), 1e-9)
    assert all(tensor.is_cuda for tensor in small.state_dict().values())


@CUDA
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@KINDS
def test_on_a_gpu_autocast_gives_the_masked_networks_numbers(kind, dtype):
    sparse, gates, x = example(kind)
    sparse.cuda()
    gates, x = {name: gate.cuda() for name, gate in gates.items()}, x.cuda()
    with torch.autocast("cuda", dtype=dtype):
        expected, output = masked(sparse, gates, x), subnetwork(sparse, gates, x)
        assert output.dtype == sparse.net(x).dtype
    torch.testing.assert_close(output, expected, rtol=0.05, atol=0.02 * float(expected.detach().abs().max()))
