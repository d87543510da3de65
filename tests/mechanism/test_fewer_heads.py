"""Attention with fewer heads: torch's own with all of them, and torch's own with the removed ones' outputs zeroed."""

import copy
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import nn
from torch.func import functional_call

from l0bayes.compat import twin
from l0bayes.layers.fewer_heads import FewerHeads, supports
from l0bayes.layers.widths import attributes

E, H, D = 12, 4, 3
N, L, S = 3, 5, 7
KEEP = [1, 3]
NESTED = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")


def attention(**options):
    module = nn.MultiheadAttention(E, H, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def with_own_heads(module):
    """The same attention, with its parameters, as one that may have fewer heads and has as many as those say."""
    new = twin(module, type(module))
    for name, value in attributes(module, {"in_proj_weight": module.in_proj_weight.shape}).items():
        setattr(new, name, value)
    return new


def narrowed(module, keep=KEEP):
    """Name to the tensors of some heads only, differentiable in the full ones."""
    rows = torch.cat([torch.arange(D) + D * head for head in keep])
    tensors = {"in_proj_weight": module.in_proj_weight, "out_proj.weight": module.out_proj.weight[:, rows]}
    if module.in_proj_bias is not None:
        tensors["in_proj_bias"] = module.in_proj_bias
    for name in tensors.keys() - {"out_proj.weight"}:
        tensors[name] = tensors[name].unflatten(0, (3, -1))[:, rows].flatten(0, 1)
    return tensors


def made(module, keep=KEEP):
    """A module of its own with some heads only."""
    new = copy.deepcopy(module)
    for name, tensor in narrowed(module, keep).items():
        path, _, attribute = name.rpartition(".")
        setattr(new.get_submodule(path), attribute, nn.Parameter(tensor.detach().clone()))
    return with_own_heads(new)


@contextmanager
def turned(module, keep=KEEP):
    """Makes a module one with fewer heads for a while; its tensors have to come from elsewhere."""
    before = {name: getattr(module, name) for name in ("__class__", "num_heads", "_qkv_same_embed_dim")}
    module.__class__, module.num_heads, module._qkv_same_embed_dim = FewerHeads, len(keep), False
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def zeroed(module, keep=KEEP):
    """Name to the full tensors, with nothing coming out of the other heads."""
    gate = torch.zeros(H, dtype=torch.float64)
    gate[keep] = 1
    return {"out_proj.weight": module.out_proj.weight * gate.repeat_interleave(D)}


def inputs(layout, kind):
    length = L if kind == "self" else S
    shapes = {"batch_first": ((N, L, E), (N, length, E)), "seq_first": ((L, N, E), (length, N, E))}
    first, second = shapes.get(layout, ((L, E), (length, E)))
    query = torch.randn(first, dtype=torch.float64, requires_grad=True)
    if kind == "self":
        return query, query, query
    key = torch.randn(second, dtype=torch.float64, requires_grad=True)
    return query, key, key if kind == "cross" else torch.randn_like(key, requires_grad=True)


def masks(layout, kind, attn, padding):
    """The two masks, for all heads; the first key is never left out."""
    n, source = (1 if layout == "unbatched" else N), (L if kind == "self" else S)
    shapes = {"2d": (L, source), "3d": (n * H, L, source)}
    kwargs = {}
    if attn is not None:
        kwargs["attn_mask"] = mask_of(shapes[attn[-2:]], attn)
    if padding is not None:
        kwargs["key_padding_mask"] = mask_of((source,) if layout == "unbatched" else (n, source), padding)
    return kwargs


def mask_of(shape, kind):
    if kind.startswith("float"):
        return torch.randn(shape, dtype=torch.float64)
    mask = torch.rand(shape) < 0.4
    mask[..., 0] = False
    return mask


def gradients(result, tensors):
    """Of a scalar that every output reaches, each in its own way."""
    generator = torch.Generator().manual_seed(3)
    total = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in result if x is not None)
    return torch.autograd.grad(total, tensors, allow_unused=True)


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0, equal_nan=True)


LAYOUTS = pytest.mark.parametrize("layout", ["batch_first", "seq_first", "unbatched"])
KINDS = pytest.mark.parametrize("kind", ["self", "cross", "three"])
MASKS = pytest.mark.parametrize(
    ("attn", "padding"),
    [
        (None, None),
        (None, "bool"),
        (None, "float"),
        *[(f"{kind}{dim}", padding) for kind in ("bool", "float") for dim in ("2d", "3d") for padding in (None, kind)],
    ],
)
WEIGHTS = pytest.mark.parametrize("weights", ["none", "averaged", "per head"])


def asked(weights):
    return {"need_weights": weights != "none", "average_attn_weights": weights == "averaged"}


@pytest.mark.parametrize("bias", [True, False])
@WEIGHTS
@MASKS
@KINDS
@LAYOUTS
def test_with_all_heads_it_is_torchs_own(layout, kind, attn, padding, weights, bias):  # noqa: PLR0917 (pytest passes them by name)
    full = attention(batch_first=layout == "batch_first", bias=bias)
    same = with_own_heads(full)
    qkv = inputs(layout, kind)
    kwargs = masks(layout, kind, attn, padding) | asked(weights)
    expected, actual = full(*qkv, **kwargs), same(*qkv, **kwargs)
    assert_close(actual, expected)
    leaves = [*{id(x): x for x in qkv}.values(), *full.parameters()]
    assert_close(gradients(actual, leaves), gradients(expected, leaves))


@WEIGHTS
@MASKS
@KINDS
@LAYOUTS
def test_with_fewer_heads_it_is_torchs_own_with_the_others_zeroed(layout, kind, attn, padding, weights):
    full = attention(batch_first=layout == "batch_first")
    qkv = inputs(layout, kind)
    kwargs = masks(layout, kind, attn, padding)
    expected, per_head = functional_call(
        full, zeroed(full), qkv, kwargs | {"need_weights": weights != "none", "average_attn_weights": False}
    )
    if per_head is not None:
        per_head = per_head[..., KEEP, :, :]
    expected = (expected, per_head.mean(-3) if weights == "averaged" else per_head)
    if attn is not None and attn.endswith("3d"):
        kwargs["attn_mask"] = kwargs["attn_mask"].unflatten(0, (-1, H))[:, KEEP].flatten(0, 1)
    tensors = narrowed(full)
    with turned(full):
        actual = functional_call(full, tensors, qkv, kwargs | asked(weights))
    assert_close(actual, expected)
    leaves = [*{id(x): x for x in qkv}.values(), *full.parameters()]
    assert_close(gradients(actual, leaves), gradients(expected, leaves))
    assert_close(made(full)(*qkv, **kwargs, **asked(weights)), expected)


@WEIGHTS
@pytest.mark.parametrize("padding", [None, "bool"])
@LAYOUTS
def test_the_causal_hint(layout, padding, weights):
    full = attention(batch_first=layout == "batch_first")
    qkv = inputs(layout, "self")
    kwargs = masks(layout, "self", None, padding) | asked(weights) | {"is_causal": True}
    kwargs["attn_mask"] = torch.ones(L, L).triu(1).bool()
    assert_close(with_own_heads(full)(*qkv, **kwargs), full(*qkv, **kwargs))


def test_the_causal_hint_needs_the_mask_it_is_about():
    with pytest.raises(RuntimeError, match="pass the causal mask"):
        with_own_heads(attention())(*inputs("seq_first", "self"), is_causal=True)


@WEIGHTS
@pytest.mark.parametrize("layout", ["batch_first", "unbatched"])
def test_dropout_is_drawn_as_torch_draws_it(layout, weights):
    full = attention(batch_first=layout == "batch_first", dropout=0.4)
    qkv = inputs(layout, "cross")
    results = []
    for module in (full, with_own_heads(full)):
        torch.manual_seed(5)
        results.append(module(*qkv, **asked(weights)))
    assert_close(results[1], results[0])
    still = full.eval()(*qkv, **asked(weights))
    assert_close(with_own_heads(full)(*qkv, **asked(weights)), still)
    assert not torch.allclose(results[0][0], still[0])


@WEIGHTS
def test_a_query_that_may_attend_to_nothing(weights):
    full = attention()
    mask = torch.zeros(L, L, dtype=torch.bool)
    mask[2] = True
    qkv = inputs("seq_first", "self")
    assert_close(
        with_own_heads(full)(*qkv, attn_mask=mask, **asked(weights)), full(*qkv, attn_mask=mask, **asked(weights))
    )


@pytest.mark.parametrize("weights", [True, False])
def test_a_network_in_bfloat16_under_masks(weights):
    full = attention(batch_first=True).bfloat16()
    x = torch.randn(N, L, E).bfloat16()
    kwargs = masks("batch_first", "self", "bool2d", "bool") | {"need_weights": weights}
    actual, expected = with_own_heads(full)(x, x, x, **kwargs)[0], full(x, x, x, **kwargs)[0]
    torch.testing.assert_close(actual, expected, atol=0.1, rtol=0)  # the order of rounding differs


@pytest.mark.parametrize("weights", [True, False])
def test_autocast(weights):
    full = attention(batch_first=True).float()
    x = torch.randn(N, L, E)
    kwargs = masks("batch_first", "self", "bool2d", "bool") | {"need_weights": weights}
    with torch.autocast("cpu", torch.bfloat16):
        actual, expected = with_own_heads(full)(x, x, x, **kwargs)[0], full(x, x, x, **kwargs)[0]
    torch.testing.assert_close(actual, expected, atol=0.1, rtol=0)


def test_a_mask_per_head_of_the_full_attention_is_refused():
    full = attention(batch_first=True)
    qkv = inputs("batch_first", "self")
    with pytest.raises(ValueError, match=r"with 2 heads left it must be \(5, 5\) for all heads alike, or \(6, 5, 5\)"):
        made(full)(*qkv, attn_mask=torch.zeros(N * H, L, L))


@pytest.mark.parametrize(
    ("arguments", "kwargs", "problem"),
    [
        (((3, 5, E), (3, 7, E), (3, 7, E)), {"attn_mask": torch.zeros(1, 7)}, "attn_mask has shape"),
        (((3, 5, E), (3, 7, E), (3, 7, E)), {"attn_mask": torch.zeros(5, 7).int()}, "attn_mask must be boolean"),
        (((3, 5, E), (3, 7, E), (3, 7, E)), {"key_padding_mask": torch.zeros(1, 7)}, "an entry per key: 3 x 7"),
        (((5, E), (7, E), (7, E)), {"key_padding_mask": torch.zeros(1, 7)}, "an entry per key: 1 x 7"),
        (((3, 5, E), (1, 7, E), (1, 7, E)), {}, "query has 3 sequences and key has 1"),
        (((3, 5, E), (3, 7, E), (3, 1, E)), {}, "one shape"),
        (((3, 5, E), (7, E), (7, E)), {}, "2 or 3 dimensions"),
        (((E,), (E,), (E,)), {}, "2 or 3 dimensions"),
    ],
)
def test_what_would_be_broadcast_unnoticed_is_refused(arguments, kwargs, problem):
    module = with_own_heads(attention(batch_first=True))
    with pytest.raises(ValueError, match=problem):
        module(*(torch.zeros(shape, dtype=torch.float64) for shape in arguments), **kwargs)


def encoder_layer(**options):
    layer = nn.TransformerEncoderLayer(E, H, 16, dropout=0.0, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer


def with_fewer_heads(net):
    """A copy in which every attention has fewer heads, and one in which the others are zeroed."""
    small, oracle = copy.deepcopy(net), copy.deepcopy(net)
    for name, module in net.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            path, _, attribute = name.rpartition(".")
            setattr(small.get_submodule(path), attribute, made(module))
            with torch.no_grad():
                oracle.get_submodule(name).out_proj.weight.copy_(zeroed(module)["out_proj.weight"])
    return small, oracle


def no_fused_layer(*_args, **_kwargs):
    raise AssertionError("the fused layer read the weights")


@NESTED
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", [None, "padding", "causal"])
@pytest.mark.parametrize("mode", ["train", "eval", "eval without gradients"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer(monkeypatch, mode, mask, batch_first, norm_first, activation):  # noqa: PLR0917
    layer = encoder_layer(batch_first=batch_first, norm_first=norm_first, activation=activation)
    small, oracle = with_fewer_heads(layer.train(mode == "train"))
    kwargs = encoder_masks(mask)
    if mask == "causal":
        kwargs = {"src_mask": kwargs["mask"], "is_causal": True}
    x = torch.randn((N, L, E) if batch_first else (L, N, E), dtype=torch.float64)
    with torch.set_grad_enabled(mode != "eval without gradients"):
        expected = oracle(x, **kwargs)
        monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", no_fused_layer)
        assert_close(small(x, **kwargs), expected)
        tensors = {f"self_attn.{name}": tensor for name, tensor in narrowed(layer.self_attn).items()}
        with turned(layer.self_attn):
            assert_close(functional_call(layer, tensors, (x,), kwargs), expected)


def encoder_masks(mask):
    if mask == "padding":
        return {"src_key_padding_mask": torch.arange(L) >= torch.tensor([[3], [5], [1]])}
    if mask == "padding in front":
        return {"src_key_padding_mask": torch.arange(L) < torch.tensor([[3], [0], [1]])}
    return {} if mask is None else {"mask": torch.ones(L, L).triu(1).bool()}


@NESTED
@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", [None, "padding", "padding in front", "causal"])
@pytest.mark.parametrize("mode", ["train", "eval", "eval without gradients"])
def test_an_encoder_whose_layers_were_narrowed_after_it_was_made(mode, mask, batch_first, final_norm):
    norm = nn.LayerNorm(E, dtype=torch.float64) if final_norm else None
    net = nn.TransformerEncoder(encoder_layer(batch_first=batch_first), 2, norm, enable_nested_tensor=batch_first)
    small, oracle = with_fewer_heads(net.train(mode == "train"))
    x = torch.randn((N, L, E) if batch_first else (L, N, E), dtype=torch.float64)
    with torch.set_grad_enabled(mode != "eval without gradients"):
        expected = oracle(x, **encoder_masks(mask))
        assert_close(small(x, **encoder_masks(mask)), expected)
        tensors = {}
        with ExitStack() as stack:
            for number, layer in enumerate(net.layers):
                cut = narrowed(layer.self_attn)
                tensors |= {f"layers.{number}.self_attn.{name}": tensor for name, tensor in cut.items()}
                stack.enter_context(turned(layer.self_attn))
            assert_close(functional_call(net, tensors, (x,), encoder_masks(mask)), expected)
    assert all(type(layer.self_attn) is nn.MultiheadAttention for layer in net.layers)


@NESTED
def test_an_encoder_where_only_one_layer_lost_heads():
    net = nn.TransformerEncoder(encoder_layer(batch_first=True), 2).eval()
    small, oracle = with_fewer_heads(net)
    small.layers[0], oracle.layers[0] = net.layers[0], net.layers[0]
    x = torch.randn(N, L, E, dtype=torch.float64)
    with torch.no_grad():
        assert_close(small(x, **encoder_masks("padding")), oracle(x, **encoder_masks("padding")))


@NESTED
@WEIGHTS
def test_sequences_of_several_lengths(weights):
    full = attention(batch_first=True).eval()
    x = torch.nested.nested_tensor([torch.randn(n, E, dtype=torch.float64) for n in (3, 5, 1)], layout=torch.strided)
    with torch.no_grad():
        (expected, a), (actual, b) = (m(x, x, x, **asked(weights)) for m in (full, with_own_heads(full)))
    for row, other in zip(actual.unbind(), expected.unbind(), strict=True):
        assert_close(row, other)
    assert_close(b, a)


@NESTED
def test_nested_tensors_that_torch_refuses_too():
    x, y = (torch.nested.nested_tensor([torch.randn(2, E, dtype=torch.float64)]) for _ in range(2))
    module = with_own_heads(attention(batch_first=True).eval())
    for arguments, kwargs in (((x, y, y), {}), ((x, x, x), {"attn_mask": torch.zeros(2, 2)})):
        with pytest.raises(ValueError, match="nested tensors need self-attention"):
            module(*arguments, **kwargs)


@pytest.mark.parametrize("train", [True, False])
def test_a_decoder_layer(train):
    layer = nn.TransformerDecoderLayer(E, H, 16, dropout=0.0, batch_first=True, dtype=torch.float64)
    small, oracle = with_fewer_heads(layer.train(train))
    x, memory = (torch.randn(N, length, E, dtype=torch.float64) for length in (L, S))
    kwargs = {"tgt_mask": torch.ones(L, L).triu(1).bool(), "tgt_is_causal": True}
    kwargs["memory_key_padding_mask"] = mask_of((N, S), "bool")
    assert_close(small(x, memory, **kwargs), oracle(x, memory, **kwargs))


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_export(kind, weights):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = made(attention(batch_first=True))

        def forward(self, x, memory, padding):
            other = x if kind == "self" else memory
            return self.attention(x, other, other, padding, need_weights=weights)

    net = Net().eval()
    size = torch.export.Dim("batch", min=2, max=64)
    arguments = [
        (x, y, mask_of((n, L), "bool")) for n in (3, 6) for x, y in [torch.randn(2, n, L, E).double().unbind()]
    ]
    exported = torch.export.export(net, arguments[0], dynamic_shapes=({0: size}, {0: size}, {0: size}))
    for example in arguments:
        assert_close(exported.module()(*example), net(*example))


def test_export_of_an_encoder_layer():
    small, oracle = with_fewer_heads(encoder_layer(batch_first=True).eval())
    x = torch.randn(N, L, E, dtype=torch.float64)
    with torch.no_grad():
        assert_close(torch.export.export(small, (x,)).module()(x), oracle(x))


@pytest.mark.parametrize("bias", [True, False])
def test_copies_and_states(bias):
    full = attention(bias=bias)
    small = made(full)
    qkv = inputs("seq_first", "cross")
    expected = small(*qkv)
    assert list(small.state_dict()) == list(full.state_dict())
    assert_close(copy.deepcopy(small)(*qkv), expected)
    fresh = FewerHeads(E, len(KEEP), D, bias=bias, dtype=torch.float64)
    fresh.load_state_dict(small.state_dict())
    assert_close(fresh(*qkv), expected)
    assert (fresh.num_heads, fresh.head_dim, fresh.embed_dim) == (2, D, E)
    assert (fresh.out_proj.in_features, fresh.out_proj.out_features) == (6, E)


def test_a_new_one_takes_its_start_from_torch():
    torch.manual_seed(1)
    full = nn.MultiheadAttention(E, H)
    torch.manual_seed(1)
    new = FewerHeads(E, 2, D)
    assert torch.equal(new.in_proj_weight, narrowed(full, [0, 1])["in_proj_weight"])
    assert all(isinstance(parameter, nn.Parameter) and parameter.is_leaf for parameter in new.parameters())


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [((12, 2, 5), "divide"), ((12, 0, 3), "from 1 to"), ((12, 5, 3), "from 1 to"), ((0, 1, 1), "divide")],
)
def test_sizes_that_do_not_fit(sizes, problem):
    with pytest.raises(ValueError, match=problem):
        FewerHeads(*sizes)


def test_as_many_heads_as_the_tensors_have():
    small = made(attention())
    assert (small.num_heads, small.head_dim) == (2, D)
    again = with_own_heads(small)
    qkv = inputs("seq_first", "self")
    assert_close(again(*qkv), small(*qkv))


class Own(nn.MultiheadAttention):
    """An attention of the user's own."""


@pytest.mark.parametrize(
    "module",
    [
        nn.MultiheadAttention(E, H, kdim=5),
        nn.MultiheadAttention(E, H, vdim=5),
        nn.MultiheadAttention(E, H, add_bias_kv=True),
        nn.MultiheadAttention(E, H, add_zero_attn=True),
        Own(E, H),
    ],
)
def test_attention_that_is_not_supported(module):
    assert not supports(module)


def test_attention_that_is_supported():
    assert supports(attention())
    assert supports(attention(bias=False))
    assert supports(made(attention()))
