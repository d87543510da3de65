import warnings
from importlib.metadata import version

import pytest
import torch
from compacted_networks import NETWORKS, compacted
from torch.utils._pytree import tree_leaves

from l0bayes.inference import load, save


@pytest.fixture(params=NETWORKS)
def example(request):
    torch.manual_seed(0)
    return compacted(request.param)


def test_torch_export_gives_the_same_outputs(example):
    exported = torch.export.export(example.small, (example.x,))
    torch.testing.assert_close(exported.module()(example.x), example.small(example.x), rtol=1e-5, atol=1e-6)


def test_torch_export_takes_any_batch(example):
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(example.small, (example.x,), dynamic_shapes=({0: batch},))
    more = torch.cat([example.x, example.x[:1]])
    torch.testing.assert_close(exported.module()(more), example.small(more), rtol=1e-5, atol=1e-6)


def test_a_loaded_network_exports_as_well(example, tmp_path):
    loaded = load(save(example.small, tmp_path / "small.safetensors"), example.fresh())
    exported = torch.export.export(loaded, (example.x,))
    torch.testing.assert_close(exported.module()(example.x), example.small(example.x), rtol=1e-5, atol=1e-6)


def to_onnx(example, path):
    pytest.importorskip("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(example.small, (example.x,), path, dynamo=True, verbose=False)
    return path


def release(package):
    return tuple(int(part) for part in version(package).split("+")[0].split(".")[:2])


def lacks_batch_norm(example):
    """Torch 2.6 expects more of onnxscript's batch norm than what later ones give; torch 2.7 takes it."""
    normed = any(isinstance(module, torch.nn.BatchNorm2d) for module in example.small.modules())
    return normed and release("torch") < (2, 7) and release("onnxscript") >= (0, 3)


def test_onnxruntime_gives_the_same_outputs(example, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if lacks_batch_norm(example):
        with pytest.raises(torch.onnx.errors.OnnxExporterError, match="batch_norm"):
            to_onnx(example, tmp_path / "small.onnx")
        pytest.skip("batch norm to ONNX needs torch 2.7, or with torch 2.6 onnxscript before 0.3: it was refused")
    path = to_onnx(example, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [argument.name for argument in session.get_inputs()]
    found = session.run(None, {name: example.x.numpy()})
    for output, wanted in zip(found, tree_leaves(example.small(example.x)), strict=True):
        torch.testing.assert_close(torch.from_numpy(output), wanted, rtol=1e-4, atol=1e-5)
