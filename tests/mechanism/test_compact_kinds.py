"""The finished network, of every kind: the outputs of the test-time gates, and a module like any other."""

import copy
import io

import pytest
import torch
from exact_examples import EXAMPLES, gated
from subnetwork_oracle import masked, spread_guide
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from l0bayes import compact, sparsify
from l0bayes.inference import predict
from l0bayes.layers.fewer_heads import FewerHeads
from l0bayes.subnetwork.compacted import compact_network
from l0bayes.subnetwork.resizing import resize

KINDS = pytest.mark.parametrize("kind", EXAMPLES)


def finished(kind, *, width=5.0):
    """A network in use, a guide, and the compacted network."""
    sparse = gated(kind)
    guide = spread_guide(sparse, width=width)
    return sparse, guide, compact(sparse, guide), EXAMPLES[kind].data(6)


def assert_close(first, second):
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


@KINDS
@pytest.mark.parametrize("rule", ["paper", "median", "mean"])
def test_outputs_are_those_of_the_test_time_gates(kind, rule):
    sparse, guide, _, x = finished(kind)
    expected = predict(sparse, guide, x, gates="point", rule=rule)
    small = compact(sparse, guide, rule)
    assert_close(small(x), expected)
    assert expected.std(0).max() > 1e-4  # something does get through
    assert_close(expected, masked(sparse.eval(), guide.point(rule), x))


@KINDS
def test_it_is_smaller_and_of_the_users_own_class(kind):
    sparse, _, small, _ = finished(kind)
    assert type(small) is type(sparse.net)
    count = [sum(p.numel() for p in net.parameters()) for net in (small, sparse.net)]
    assert count[0] < 0.8 * count[1]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in small.modules())
    assert [name for name, _ in small.named_modules()] == [name for name, _ in sparse.net.named_modules()]
    assert not ({p.data_ptr() for p in small.parameters()} & {p.data_ptr() for p in sparse.net.parameters()})


WIDTHS = (
    (nn.Linear, lambda m: ((m.out_features, m.in_features), m.weight.shape)),
    (_ConvNd, lambda m: ((m.out_channels, m.in_channels // m.groups), m.weight.shape[:2])),
    (_NormBase, lambda m: ((m.num_features,), m.running_mean.shape)),
    (nn.GroupNorm, lambda m: ((m.num_channels,), m.weight.shape)),
    (nn.Embedding, lambda m: ((m.num_embeddings, m.embedding_dim), m.weight.shape)),
    (nn.MultiheadAttention, lambda m: ((3 * m.num_heads * m.head_dim, m.embed_dim), m.in_proj_weight.shape)),
)


def width_of(module):
    """What a module says of its width, and what its tensors say."""
    return next((widths(module) for kind, widths in WIDTHS if isinstance(module, kind)), None)


@KINDS
def test_every_layer_states_the_width_it_has(kind):
    sparse, _, small, _ = finished(kind)
    changed = 0
    for name, module in small.named_modules():
        if (width := width_of(module)) is not None:
            assert width[0] == tuple(width[1]), name
            changed += width[0] != width_of(sparse.net.get_submodule(name))[0]
    assert changed > 1


def test_group_norms_keep_the_size_of_their_groups_and_attention_that_of_its_heads():
    _, _, small, _ = finished("group norm")
    assert small.norm1.num_channels == 3 * small.norm1.num_groups
    assert small.norm1.num_groups < 4
    _, guide, small, _ = finished("transformer")
    for number, layer in enumerate(small.layers):
        heads = int((guide.point()[f"layers.{number}.self_attn.unit"] != 0).sum())
        assert type(layer.self_attn) is (FewerHeads if heads < 3 else nn.MultiheadAttention)
        assert (layer.self_attn.num_heads, layer.self_attn.head_dim) == (heads, 4)


@KINDS
def test_copies_and_loaded_states_give_the_same_outputs(kind):
    _, _, small, x = finished(kind)
    expected = small(x)
    assert torch.equal(copy.deepcopy(small)(x), expected)
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = copy.deepcopy(small)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.zero_()
    other.load_state_dict(state)
    assert torch.equal(other(x), expected)
    fresh = resize(EXAMPLES[kind].build(), {name: tensor.shape for name, tensor in state.items()}).eval()
    selecting = [name.rpartition(".")[0] for name in state if name.endswith(".index")]
    for name in selecting:  # kept by l0bayes.inference.save, not in the state of a module
        fresh.get_submodule(name).given_features = small.get_submodule(name).given_features
    fresh.load_state_dict(state)
    assert_close(fresh(x), expected)


@KINDS
def test_it_starts_in_evaluation_and_can_be_trained_on(kind):
    sparse, guide, small, x = finished(kind)
    assert not any(module.training for module in small.modules())
    sparse.net.train()
    expected = masked(copy.deepcopy(sparse), guide.point(), x)
    assert_close(small.train()(x), expected)  # batch statistics
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-3)
    before = copy.deepcopy(small.state_dict())
    small(x).square().sum().backward()
    optimizer.step()
    assert all(parameter.grad is not None for parameter in small.parameters())
    assert any(not torch.equal(before[name], value) for name, value in small.state_dict().items())
    assert small.eval()(x).isfinite().all()


@KINDS
def test_it_can_be_exported(kind):
    _, _, small, x = finished(kind)
    exported = torch.export.export(small, (x,)).module()
    assert_close(exported(x), small(x))


@pytest.mark.parametrize("kind", ["mlp by inputs", "lenet of the paper", "wide resnet", "transformer"])
def test_it_can_be_exported_for_batches_of_any_size(kind):
    _, _, small, x = finished(kind)
    exported = torch.export.export(small, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for rows in (x, x[:1], torch.cat((x, x))):
        assert_close(exported(rows), small(rows))


@KINDS
def test_gates_that_are_all_closed_leave_a_network_that_runs(kind):
    sparse, _, _, x = finished(kind)
    sparse.eval()
    closed = {group.name: torch.zeros(group.size) for group in sparse.groups}
    small = compact_network(sparse.net, sparse.groups, closed)
    assert_close(small(x), masked(sparse, closed, x))
    assert all(parameter.numel() for parameter in small.parameters())


@KINDS
def test_gates_that_are_all_open_leave_the_network_as_it_was(kind):
    sparse, _, _, x = finished(kind)
    sparse.eval()
    opened = {group.name: torch.ones(group.size) for group in sparse.groups}
    small = compact_network(sparse.net, sparse.groups, opened)
    assert_close(small(x), sparse.net(x))
    assert [type(module) for module in small.modules()] == [type(module) for module in sparse.net.modules()]
    assert {name: t.shape for name, t in small.state_dict().items()} == {
        name: t.shape for name, t in sparse.net.state_dict().items()
    }


@KINDS
def test_it_can_be_given_gates_again(kind):
    _, _, small, x = finished(kind)
    again = sparsify(small, x[:2])
    opened = {group.name: torch.ones(group.size) for group in again.groups}
    assert_close(again.run(opened, x), small(x))
    guide = spread_guide(again)
    assert_close(compact(again, guide)(x), predict(again, guide, x))


@KINDS
def test_the_original_stays_as_it_was(kind):
    sparse, guide, _, x = finished(kind)
    before, modes = copy.deepcopy(sparse.net.state_dict()), [module.training for module in sparse.net.modules()]
    small = compact(sparse, guide)
    with torch.no_grad():
        for tensor in small.state_dict().values():
            tensor.zero_()
    predict(sparse, guide, x)
    assert all(torch.equal(before[name], value) for name, value in sparse.net.state_dict().items())
    assert modes == [module.training for module in sparse.net.modules()]
