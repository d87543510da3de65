"""``l0bayes export``: a saved network for other programs."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from l0bayes.arguments import check_file
from l0bayes.inference.command_line.saved_run import SavedNetwork, SavedRun

_CLOSE = 1e-4  # relative to the largest output, in float32


@dataclass(frozen=True)
class ExportOptions:
    """Options of ``l0bayes export``.

    Attributes:
        folder: of a finished run of l0bayes train.
        network: ``compacted`` or ``dense``.
        onnx: the ONNX file to write; needs the extra ``onnx``.
        torch_export: the ``.pt2`` file of ``torch.export`` to write.
    """

    folder: str
    network: SavedNetwork = "compacted"
    onnx: str | None = None
    torch_export: str | None = None

    def __post_init__(self) -> None:
        if self.onnx is None and self.torch_export is None:
            raise ValueError("export: say what to write: --onnx FILE.onnx, --torch-export FILE.pt2, or both")
        for name in ("onnx", "torch_export"):
            if getattr(self, name) is not None:
                check_file(name, getattr(self, name))


@torch.no_grad()
def export_saved(options: ExportOptions) -> str:
    """Writes the files, for batches of any size, and runs each on random inputs beside the network.

    Args:
        options: which network, and what to write.

    Returns:
        What was written, a line each, with the largest difference of outputs.

    Raises:
        ValueError: if what ONNX needs is not installed, or a file does not compute what the network computes.
    """
    run = SavedRun(options.folder)
    net = run.network(options.network)
    x, more = run.example(2), run.example(5)
    lines = []
    writers: dict[str, Callable[[nn.Module, Tensor, Path], Callable[[Tensor], Tensor]]] = {
        "torch_export": _write_program,
        "onnx": _write_onnx,
    }
    for kind, write in writers.items():
        if (given := getattr(options, kind)) is None:
            continue
        path = Path(given)
        path.parent.mkdir(parents=True, exist_ok=True)
        run_it, wanted = write(net, x, path), net(more)
        difference = float((run_it(more) - wanted).abs().max())
        if not difference <= _CLOSE * float(wanted.abs().max()):
            raise ValueError(f"{kind}: {path} was written, and its outputs differ by {difference:.1e}: do not use it")
        lines.append(f"{path}: {path.stat().st_size:,} bytes, outputs agree to {difference:.0e}")
    return "\n".join(lines)


def _write_program(net: nn.Module, x: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    module: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return module


def _write_onnx(net: nn.Module, x: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime  # type: ignore[import-untyped] # noqa: PLC0415 (an extra)
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise ValueError(f"onnx: {error.name} is missing: pip install 'l0bayes[onnx]'") from error
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            net,
            (x,),
            path,
            dynamo=True,
            verbose=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: batch},),
            external_data=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])
