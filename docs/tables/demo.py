"""What ``make demo`` comes to."""

from collections.abc import Callable

from tables.reading import results, share, table


def _seeds() -> str:
    found = results("demo")
    rows = []
    for name, run in found.items():
        if name == "mean_test_error":
            continue
        errors, times = run["test_error"], run["forward_time_ratio"]
        thin = [f"{errors['thin']:.2%}"] if _has_thin() else []
        rows.append(
            [
                name.removeprefix("seed_"),
                f"{errors['dense']:.2%}",
                *thin,
                f"{errors['compacted']:.2%}",
                run["architecture"]["after"],
                f"{run['parameters']['after']:,} ({share(run['parameters'])})",
                f"{run['macs']['after']:,}",
                f"{times['batch_1']:.2f}",
                f"{times['batch_1024']:.2f}",
            ]
        )
    mean = found["mean_test_error"]
    means = [mean[name] for name in ("dense", *(["thin"] if _has_thin() else []), "compacted")]
    rows.append(["mean", *(f"{error:.2%}" for error in means), "", "", "", "", ""])
    head = ["seed", "dense", *(["same size, from scratch"] if _has_thin() else []), "l0bayes"]
    return table([*head, "kept", "parameters", "MACs", "time, batch 1", "batch 1024"], rows)


def _has_thin() -> bool:
    return "thin" in results("demo")["mean_test_error"]


def _size() -> str:
    run = results("demo")["seed_0"]
    return (
        f"{run['architecture']['before']} ({run['parameters']['before']:,} parameters, {run['macs']['before']:,} MACs)"
    )


PLACES: dict[str, Callable[[], str]] = {"demo": _seeds, "demo-size": _size}
