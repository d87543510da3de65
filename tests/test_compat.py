"""The names that torch and Pyro keep to themselves do what this library takes them to do, and stand in one file."""

import ast
import copy
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from torch import nn

from l0bayes import compat
from l0bayes.layers import kinds

ROOT = Path(__file__).parents[1]
COMPAT = ROOT / "l0bayes" / "compat.py"
SOURCES = sorted(path for room in ("l0bayes", "models", "inference") for path in (ROOT / room).rglob("*.py"))
FOREIGN = ("torch", "pyro")


# -- all in one place -------------------------------------------------------------------------------------------------


def private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def used(tree):
    """Private names that a file takes from elsewhere: attributes read, imports, and strings that are one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            yield node.attr, node.lineno
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FOREIGN:
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from ((part, node.lineno) for part in parts if private(part))
        elif isinstance(node, ast.Import):
            parts = [part for alias in node.names for part in alias.name.split(".")]
            yield from ((part, node.lineno) for part in parts if private(part))


def bound(tree):
    """Private names that a file makes: functions, classes, attributes of its own objects, variables, buffers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # a buffer that is registered, an entry of __dict__


def trees():
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES if path != COMPAT}


def known_to_compat():
    tree = ast.parse(COMPAT.read_text(encoding="utf-8"))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return {name for name in {name for name, _ in used(tree)} | strings | functions if private(name)}


def test_the_scan_finds_what_it_looks_for():
    tree = ast.parse("from torch._a import _b\nimport pyro._c\nx._d\n'_e'\ndef _f(): pass")
    assert {name for name, _ in used(tree)} == {"_a", "_b", "_c", "_d"}
    assert {"_e", "_f"} <= set(bound(tree))
    assert len(SOURCES) > 100
    assert {"_modules", "_pytree", "_get_traces", "_validate_args", "_schema"} <= known_to_compat()


def test_no_other_file_uses_a_private_name_of_torch_or_pyro():
    files, known = trees(), known_to_compat()
    ours = {name for tree in files.values() for name in bound(tree)} - known
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, tree in files.items()
        for name, line in used(tree)
        if name not in ours
    ]
    assert wrong == []


def test_no_other_file_names_or_overrides_what_is_in_compat():
    known = known_to_compat()
    wrong = [f"{path.relative_to(ROOT)}: {name}" for path, tree in trees().items() for name in known & set(bound(tree))]
    assert wrong == []


def test_compat_imports_nothing_of_ours():
    tree = ast.parse(COMPAT.read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert not [module for module in modules if module.startswith(("l0bayes", "models", "inference"))]


# -- torch: operations ------------------------------------------------------------------------------------------------


class Seen(compat.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.funcs = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.funcs.append(func)
        return func(*args, **(kwargs or {}))


def test_dispatch_mode_sees_operations_by_their_public_names():
    with Seen() as seen:
        torch.ones(2).add(1).softmax(0)
    assert [(func.namespace, func.name()) for func in seen.funcs] == [
        ("aten", "aten::ones"),
        ("aten", "aten::add.Tensor"),
        ("aten", "aten::_softmax"),
    ]


@pytest.mark.parametrize("read", [float, bool, torch.Tensor.item])
def test_reading_one_number_is_one_operation(read):
    with Seen() as seen:
        read(torch.ones(()))
    assert compat.READS_ONE_NUMBER in seen.funcs


def test_argument_defaults():
    assert compat.argument_defaults(torch.ops.aten.add.Tensor) == {"self": None, "other": None, "alpha": 1}
    names = list(compat.argument_defaults(torch.ops.aten.convolution.default))
    assert names[:3] == ["input", "weight", "bias"]
    assert names[-1] == "groups"


def test_trees():
    x, y = torch.ones(1), torch.zeros(1)
    tree = (x, {"a": [y, 2]}, None)
    assert compat.tree_leaves(tree)[2] == 2
    assert compat.tree_leaves(tree)[1] is y
    mapped = compat.tree_map_tensors(lambda tensor: tensor + 1, tree)
    assert mapped == (2, {"a": [1, 2]}, None)


# -- torch: modules ---------------------------------------------------------------------------------------------------


def test_own_parameters_buffers_and_modules():
    norm = nn.BatchNorm1d(3, affine=False)
    assert compat.own_parameters(norm) == {"weight": None, "bias": None}
    assert set(compat.own_buffers(norm)) == {"running_mean", "running_var", "num_batches_tracked"}
    assert compat.own_buffers(norm)["running_mean"] is norm.running_mean
    shared = nn.Linear(1, 1)
    assert list(compat.own_modules(nn.Sequential(shared, shared))) == ["0", "1"]  # second names too
    assert compat.own_parameters(shared)["weight"] is shared.weight


def test_save_with_state():
    module = nn.Module()
    module.register_buffer("kept", torch.zeros(1), persistent=False)
    assert "kept" not in module.state_dict()
    compat.save_with_state(module, "kept")
    compat.save_with_state(module, "other")
    assert "kept" in module.state_dict()


class OtherLinear(nn.Linear):
    pass


def test_twin_shares_parameters_and_nothing_else():
    linear = nn.Linear(2, 3)
    new = compat.twin(linear, OtherLinear)
    assert type(new) is OtherLinear
    assert new.weight is linear.weight
    new.register_buffer("index", torch.zeros(1))
    new.extra = nn.Linear(1, 1)
    new.bias = None
    assert list(linear.state_dict()) == ["weight", "bias"]
    assert new(torch.ones(1, 2)).shape == (1, 3)


def test_what_torch_compile_made_of_a_module_is_known():
    module = nn.Linear(2, 2)
    assert not compat.is_compiled(module)
    compiled = torch.compile(module, backend="eager")
    assert compat.is_compiled(compiled)
    assert list(compat.own_modules(compiled).values()) == [module]


def test_a_module_is_called_past_its_compiled_call_with_its_hooks():
    module, seen = nn.Linear(2, 2), []
    module.register_forward_hook(lambda *_: seen.append("hook"))
    compat.set_compiled_call(module, lambda *_: seen.append("compiled"))
    x = torch.ones(1, 2)
    assert torch.equal(compat.run_uncompiled(module, x), module.forward(x))
    assert seen == ["hook"]


def test_compiled_call_can_be_taken_off_and_put_back():
    module = nn.Linear(2, 2)
    x = torch.ones(1, 2)
    assert compat.compiled_call(module) is None
    module.compile(backend="eager")
    made = compat.compiled_call(module)
    assert callable(made)
    compat.set_compiled_call(module, None)
    assert compat.compiled_call(module) is None
    plain = module(x)
    calls = []
    compat.set_compiled_call(module, lambda *args: calls.append(args) or plain)
    assert module(x) is plain
    assert len(calls) == 1


@pytest.mark.parametrize(("kdim", "packed"), [(None, True), (3, False)])
def test_separate_projections_is_what_attention_calls_it(kdim, packed):
    attention = nn.MultiheadAttention(4, 2, kdim=kdim)
    (name,) = compat.SEPARATE_PROJECTIONS
    assert getattr(attention, name) is packed
    assert (attention.in_proj_weight is not None) is packed


def test_encoder_layers_take_no_fused_path_with_separate_projections(monkeypatch):
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    fused = []
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *args: fused.append(1) or args[0])
    x = torch.randn(1, 3, 4)
    with torch.no_grad():
        layer(x)
        assert fused == [1]
        vars(layer.self_attn).update(compat.SEPARATE_PROJECTIONS)
        monkeypatch.setattr(layer.self_attn, "forward", lambda query, *_args, **_kwargs: (query, None))
        layer(x)
    assert fused == [1]


@pytest.mark.parametrize(
    ("classes", "private_base"),
    [
        (kinds.CONVOLUTIONS, nn.modules.conv._ConvNd),
        (kinds.TRANSPOSED_CONVOLUTIONS, nn.modules.conv._ConvTransposeNd),
        (kinds.BATCH_NORMS, nn.modules.batchnorm._BatchNorm),
        (kinds.INSTANCE_NORMS, nn.modules.instancenorm._InstanceNorm),
        (kinds.DROPOUTS, nn.modules.dropout._DropoutNd),
    ],
)
def test_kinds_of_layers_are_all_there_are(classes, private_base):
    public = [value for value in vars(nn).values() if isinstance(value, type) and issubclass(value, private_base)]
    made = [value for value in public if not value.__name__.startswith("Lazy")]  # those become one of the others
    assert set(made) == set(classes)


# -- torch: distributions ---------------------------------------------------------------------------------------------


def test_validation_of_values():
    normal = dist.Uniform(0.0, 1.0, validate_args=True)
    assert compat.validates(normal)
    compat.check_value(normal, torch.tensor(0.5))
    with pytest.raises(ValueError, match="support"):
        compat.check_value(normal, torch.tensor(2.0))
    compat.set_validation(normal, validate=False)
    assert not compat.validates(normal)
    compat.check_value(normal, torch.tensor(2.0))


def test_a_class_says_whether_it_validates_before_it_is_constructed():
    unmade = dist.Normal.__new__(dist.Normal)
    assert compat.validates(unmade) is dist.Normal(0.0, 1.0)._validate_args


def test_mask_of():
    assert compat.mask_of(dist.Normal(0.0, 1.0).mask(False)) is False
    mask = torch.tensor([True, False])
    assert compat.mask_of(dist.Normal(torch.zeros(2), 1.0).mask(mask)) is mask


# -- Pyro -------------------------------------------------------------------------------------------------------------


def two_sites():
    first = pyro.sample("first", dist.Normal(0.0, 1.0))
    pyro.sample("second", dist.Normal(first, 1.0))


def other_order():
    pyro.sample("second", dist.Normal(0.0, 1.0))
    pyro.sample("first", dist.Normal(0.0, 1.0))


def test_check_mean_field_warns_of_another_order():
    model, guide = (poutine.trace(function).get_trace() for function in (two_sites, other_order))
    compat.check_mean_field(model, model)
    with pytest.warns(UserWarning, match="mean field"):
        compat.check_mean_field(model, guide)


class Halves(compat.SampleMessenger):
    def on_sample(self, msg):
        msg["value"] = torch.tensor(0.5)
        msg["done"] = True


def test_a_messenger_sees_sample_statements():
    trace = poutine.trace(Halves()(two_sites)).get_trace()
    assert trace.nodes["first"]["value"] == 0.5
    with compat.SampleMessenger():
        two_sites()


class Counting(compat.HookedELBO):
    def __init__(self, **options):
        super().__init__(**options)
        self.calls = []

    def traces(self, model, guide, args, kwargs):
        self.calls.append("traces")
        return super().traces(model, guide, args, kwargs)

    def trace_pair(self, model, guide, args, kwargs):
        self.calls.append("trace_pair")
        return super().trace_pair(model, guide, args, kwargs)

    def particle(self, model_trace, guide_trace):
        self.calls.append("particle")
        return super().particle(model_trace, guide_trace)


def test_elbo_goes_through_its_hooks_and_is_pyros():
    guide = AutoNormal(two_sites)
    guide()
    counting = Counting(num_particles=2)
    pyro.set_rng_seed(1)
    loss = counting.loss(two_sites, guide)
    assert counting.calls == ["traces", "trace_pair", "particle", "trace_pair", "particle"]
    pyro.set_rng_seed(1)
    assert loss == TraceMeanField_ELBO(num_particles=2).loss(two_sites, guide)
    counting.calls.clear()
    SVI(two_sites, guide, pyro.optim.SGD({"lr": 1e-3}), counting).step()
    assert counting.calls.count("particle") == 2


class PointGuide(compat.HookedGuide):
    """Draws every site at a parameter, the smallest guide that uses all the hooks."""

    def __init__(self, model):
        super().__init__(model)
        self.names = []
        self.loaded = []

    def forward(self, *args, **kwargs):
        if self.prototype_trace is None:
            self.trace_model(*args, **kwargs)
            self.agree_with_list()
        self.plates = self.plates_for(*args, **kwargs)
        found = {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            with self.plates["rows"]:
                found[name] = pyro.sample(name, dist.Delta(torch.zeros(site["fn"].batch_shape)))
        return found

    def before_loading(self, state_dict, prefix):
        self.loaded.append((sorted(state_dict), prefix))


def rows_model():
    with pyro.plate("rows", 3):
        pyro.sample("x", dist.Normal(0.0, 1.0))


def test_guide_traces_its_model_and_has_its_plates():
    guide = PointGuide(rows_model)
    assert guide.plate_frames == {}
    assert guide()["x"].shape == (3,)
    assert list(guide.plate_frames) == ["rows"]
    assert guide.plate_frames["rows"].size == 3
    traced = poutine.trace(rows_model).get_trace().nodes
    assert not guide.hides(traced["x"])
    assert guide.hides(traced["rows"])


def test_guide_in_a_list_takes_the_plates_of_the_list_and_agrees_with_it():
    guides = AutoGuideList(rows_model)
    part = PointGuide(rows_model)
    guides.append(part)
    guides()
    assert part.plates is guides.plates
    part.model_of_another_shape = None
    guides.prototype_trace.nodes["x"]["value"] = torch.zeros(4)
    with pytest.raises(AssertionError):
        part.agree_with_list()


def test_pyros_own_set_up_is_the_guides():
    guide = PointGuide(rows_model)
    guide._setup_prototype()
    assert "x" in guide.prototype_trace


def test_guide_is_told_before_its_state_is_loaded():
    guide = PointGuide(rows_model)
    guide.weight = nn.Parameter(torch.zeros(1))
    nn.Sequential(guide).load_state_dict({"0.weight": torch.ones(1)})
    assert guide.loaded == [(["0.weight"], "0.")]
    assert guide.weight == 1


def test_a_copy_of_a_guide_leaves_the_original_its_model():
    guide = PointGuide(rows_model)
    guide()
    other = copy.deepcopy(guide)
    assert other.model is None
    assert guide.model is rows_model
    assert other.prototype_trace is not guide.prototype_trace


# -- versions in a state_dict -----------------------------------------------------------------------------------------


class Versioned(nn.Linear):
    """Doubles what an older version of it had stored."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        if (metadata.get("version") or 1) < 2:
            state[f"{prefix}weight"] = 2 * state[f"{prefix}weight"]
        super()._load_from_state_dict(state, prefix, metadata, *args)


def test_a_state_is_loaded_as_the_version_that_it_was_stored_by():
    net = nn.Sequential(nn.Linear(3, 3), Versioned(3, 2))
    state = net.state_dict()
    versions = compat.state_versions(state)
    assert versions == {"1": 2}
    for given, factor in ((versions, 1.0), ({}, 2.0)):
        other = nn.Sequential(nn.Linear(3, 3), Versioned(3, 2))
        other.load_state_dict(compat.with_versions(dict(state), other, given))
        assert torch.equal(other[1].weight, factor * net[1].weight)
        assert torch.equal(other[0].weight, net[0].weight)


def test_onednn_is_switched_off_and_on():
    before = compat.use_onednn(use=False)
    assert compat.use_onednn(use=before) is False
    assert compat.use_onednn(use=before) is before
