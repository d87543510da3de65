"""Time and memory of steps and forward passes, networks as they come, Wide ResNets."""

from collections.abc import Callable
from typing import Any

from tables.reading import RESULTS, results, table, tables_of

_NETWORKS = {"lenet": "LeNet-5", "mlp": "MLP 784-300-100", "wrn": "WRN-16-4", "wrn-1": "WRN-16-1"}
_ZOO = (
    "resnet50",
    "densenet121",
    "inception_v3",
    "mobilenet_v2",
    "efficientnet_b0",
    "shufflenet_v2_x0_5",
    "vit_b_16",
    "swin_t",
    "maxvit_t",
)


def _cells(name: str, number: int = 0) -> list[list[str]]:
    """The cells of a stored table, without its head."""
    lines = tables_of(name)[number].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _step() -> str:
    rows = [
        [
            _NETWORKS[net],
            opened,
            f"{float(macs):.2f}",
            f"{float(masked):.2f}",
            f"**{float(sub):.2f}**",
            f"{float(end):.2f}",
        ]
        for net, opened, _, masked, sub, end, macs in _cells("step")
    ]
    return table(["network", "open (share, or units)", "MACs", "masked", "subnetwork", "finished"], rows)


def _overhead() -> str:
    columns = {
        "dense": "dense",
        "hand_written_weights": "masks on weights",
        "l0bayes": "**l0bayes**",
        "l0bayes_never_narrow": "nothing left out",
        "l0bayes_stock_elbo": "stock ELBO",
    }
    rows = [
        [
            opened,
            f"{run['milliseconds']['hand_written']:.1f} ms",
            *(f"{run['ratio_to_hand_written'][name]:.2f}" for name in columns),
        ]
        for opened, run in results("step_overhead").items()
    ]
    return table(["open", "hand-written", *columns.values()], rows)


def _forward() -> str:
    by: dict[tuple[str, str], list[str]] = {}
    for net, opened, _, variant, _, _, time, macs, quotient in _cells("forward"):
        if variant == "compact":
            said = f"{float(time):.2f} / {float(macs):.2f} = {float(quotient.split()[0]):.2f}"
            by.setdefault((net, opened), []).append(said)
    batches = list(dict.fromkeys(row[2] for row in _cells("forward")))
    rows = [[_NETWORKS[net], opened, *cells] for (net, opened), cells in by.items()]
    return table(["network", "open", *(f"batch {batch}" for batch in batches)], rows)


def _memory() -> str:
    rows = [
        [_NETWORKS[net], opened, run["masked"]["ratio_to_dense"], f"**{run['subnetwork']['ratio_to_dense']}**"]
        for net, runs in results("memory").items()
        for opened, run in runs.items()
    ]
    return table(["network", "open (share, or units)", "masked", "subnetwork"], rows)


def _zoo() -> str:
    rows = []
    for cells in _cells("zoo"):
        name, seconds, groups, gates, dense, *_, parameters, macs, forward, _ = cells
        if name in _ZOO:
            before, after = map(float, forward.split(" → "))
            ratio = f"{after / before:.2f}"
            rows.append([name, groups, f"{int(gates):,}", dense, parameters, macs, ratio, f"{float(seconds):.0f} s"])
    head = ["model", "groups", "gates", "dense layers", "parameters", "MACs", "time", "`sparsify`"]
    return table(head, rows)


def _zoo_count() -> str:
    return str(len(_cells("zoo")))


def _zoo_difference() -> str:
    worst = max(float(cell.split()[0]) for cells in _cells("zoo") for cell in cells[5:7])
    return f"{worst:.0e}"


def _cifar() -> str:
    rows: list[list[Any]] = []
    for path in sorted((RESULTS / "cifar").glob("*.json")):
        run = results(f"cifar/{path.stem}")
        gated = run["gated"]
        ended = gated["speed_at_end"]
        macs = gated["macs"]
        rows.append(
            [
                path.stem.partition("-unit")[0].upper(),
                run["epochs_asked"],
                f"{macs['after'] / macs['before']:.1%}",
                f"{gated['scores']['paper']['error']:.1%}",
                *(f"{ended[kind]['ratio_to_dense']['subnetwork']:.2f}" for kind in ("bf16", "float32")),
            ]
        )
    return table(["", "epochs", "MACs reached", "test error", "step / dense, bfloat16", "float32"], rows)


PLACES: dict[str, Callable[[], str]] = {
    "step": _step,
    "step-overhead": _overhead,
    "forward": _forward,
    "memory": _memory,
    "zoo": _zoo,
    "zoo-count": _zoo_count,
    "zoo-difference": _zoo_difference,
    "cifar": _cifar,
}
