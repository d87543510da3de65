"""``evaluate``, ``report``, ``export`` and ``select``: what they say is true of what is saved."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes

from l0bayes.inference import load
from l0bayes.inference.cli import main
from l0bayes.inference.command_line.job import Job
from l0bayes.inference.command_line.thin import thin_network
from l0bayes.inference.command_line.train_options import TrainOptions
from l0bayes.inference.data.datasets import load_data
from l0bayes.models import MLP, exact_posterior


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    assert main(["train", "--hidden", "8,6", "--epochs", "24", "--progress", "false", "--out", str(out)]) == 0
    return out


@pytest.fixture
def finished(one_run, tmp_path):
    return Path(shutil.copytree(one_run, tmp_path / "finished"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    data = load_diabetes(as_frame=True).frame
    data["id"] = range(len(data))
    path = tmp_path_factory.mktemp("table") / "table.csv"
    data.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(("network", "part"), [("compacted", "test"), ("dense", "validation"), ("compacted", "train")])
def test_evaluate_is_the_error_of_the_saved_network(network, part, finished, tmp_path, capsys):
    path = tmp_path / "numbers.json"
    options = ["--network", network, "--part", part, "--json", str(path)]
    assert main(["evaluate", str(finished), *options]) == 0
    found = json.loads(path.read_text())
    split = getattr(load_data("digits"), part)
    outputs = load(finished / f"{network}.safetensors", MLP(64, 8, 6, 10))(split.x)
    wrong = (outputs.argmax(-1) != split.y).sum().item()
    assert found["error"] == pytest.approx(wrong / len(split))
    assert found["nll"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, split.y).item(), rel=1e-4)
    assert found["images"] == len(split)
    assert f"({wrong} wrong)" in capsys.readouterr().out
    kept = "after" if network == "compacted" else "before"
    assert found["parameters"] == json.loads((finished / "summary.json").read_text())["parameters"][kept]


def test_a_run_of_an_earlier_version_is_read_by_its_data(finished, tmp_path):
    path = finished / "summary.json"
    summary = json.loads(path.read_text())
    del summary["input_shape"], summary["classes"]
    path.write_text(json.dumps(summary))
    assert main(["export", str(finished), "--torch-export", str(tmp_path / "s.pt2")]) == 0


def test_export_needs_no_data_and_computes_the_same(finished, tmp_path, capsys):
    path = finished / "summary.json"
    summary = json.loads(path.read_text())
    summary["options"] |= {"data": "mnist", "data_dir": str(tmp_path / "nowhere")}
    path.write_text(json.dumps(summary))
    assert main(["export", str(finished), "--torch-export", str(tmp_path / "new" / "small.pt2")]) == 0
    assert "outputs agree to" in capsys.readouterr().out
    program = torch.export.load(tmp_path / "new" / "small.pt2").module()
    small = load(finished / "compacted.safetensors", MLP(64, 8, 6, 10))
    x = torch.randn(7, 8, 8)
    torch.testing.assert_close(program(x), small(x))


def test_onnx_takes_any_batch(finished, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "small.onnx"
    assert main(["export", str(finished), "--onnx", str(path)]) == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    small = load(finished / "compacted.safetensors", MLP(64, 8, 6, 10))
    for rows in (1, 9):
        x = torch.randn(rows, 8, 8)
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(found), small(x), rtol=1e-4, atol=1e-5)


def test_report_makes_the_pictures_of_the_run_anew(finished, tmp_path, capsys):
    wanted = {name: (finished / name).read_bytes() for name in ("gates.png", "training.png")}
    assert main(["report", str(finished), "--out", str(tmp_path / "report")]) == 0
    for name, picture in wanted.items():
        assert (tmp_path / "report" / name).read_bytes() == picture
    text = (tmp_path / "report" / "report.md").read_text()
    opened = pd.read_csv(finished / "gates.csv").groupby("site", sort=False)["open"].sum()
    assert all(f"| {site} | {number} |" in text for site, number in opened.items())
    assert json.loads((finished / "summary.json").read_text())["architecture"]["after"] in text
    assert "architecture" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evaluate", "nowhere"], "nowhere has no summary.json"),
        (["export", "FOLDER"], "say what to write"),
        (["report", "FOLDER"], "history.csv is not there"),
        (["evaluate", "FOLDER", "--network", "dense"], "dense.safetensors is not there"),
        (["select", "nowhere.csv", "--response", "y"], "nowhere.csv"),
        (["select", "TABLE", "--response", "y"], "has no column 'y'; it has age, sex"),
        (["select", "TABLE", "--response", "target", "--drop", "no,id"], "has no column 'no'"),
        (["select", "TABLE", "--response", "target", "--inclusion", "1,-2"], "a Beta prior takes two numbers > 0"),
    ],
)
def test_a_mistake_is_one_line(args, message, finished, table, capsys):
    for name in ("history.csv", "dense.safetensors"):
        (finished / name).unlink()
    places = {"FOLDER": str(finished), "TABLE": str(table)}
    assert main([places.get(arg, arg) for arg in args]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("l0bayes: ")
    assert error.count("\n") == 1


def test_a_damaged_summary_is_said_to_be(finished, capsys):
    (finished / "summary.json").write_text("{")
    assert main(["evaluate", str(finished)]) == 1
    assert "summary.json is damaged" in capsys.readouterr().err


def test_select_is_the_exact_posterior(table, tmp_path, capsys):
    out = tmp_path / "select"
    assert main(["select", str(table), "--response", "target", "--drop", "id", "--out", str(out)]) == 0
    data = pd.read_csv(table)
    exact = exact_posterior(data.drop(columns=["target", "id"]), data["target"])
    found = json.loads((out / "inclusion.json").read_text())
    assert found["method"] == "exact"
    names = list(data.columns.drop(["target", "id"]))
    wanted = dict(zip(names, exact.inclusion, strict=True))
    assert found["inclusion"] == pytest.approx(wanted, abs=1e-6)
    assert sum(found["sizes"]) == pytest.approx(1)
    written = pd.read_csv(out / "inclusion.csv")
    assert written["inclusion"].is_monotonic_decreasing
    assert (out / "inclusion.png").stat().st_size > 1000
    assert "kept    bmi, s5, bp, sex, s1, s3" in capsys.readouterr().out


def test_select_by_another_likelihood_and_prior(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, generator=generator)
    y = torch.bernoulli(torch.sigmoid(3 * x[:, 0]), generator=generator)
    path = tmp_path / "table.csv"
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y}).to_csv(path, index=False)
    options = ["--likelihood", "bernoulli", "--expected-open", "1", "--out", str(tmp_path / "out")]
    assert main(["select", str(path), "--response", "y", *options]) == 0
    assert "kept    a (more probable than not)" in capsys.readouterr().out


def test_a_thin_network_has_the_size_of_the_finished_one(tmp_path):
    options = ["--hidden", "30,20", "--epochs", "24", "--compare", "false", "--thin", "true", "--progress", "false"]
    assert main(["train", *options, "--target-parameters", "0.3", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["test_error"]) == {"gated", "thin", "compacted"}
    assert 0 < summary["test_error"]["thin"] < 0.5
    assert pd.read_csv(tmp_path / "thin_history.csv")["phase"].unique().tolist() == ["plain"]
    job = Job(TrainOptions(hidden=[30, 20]))
    thin = thin_network(job, summary["parameters"]["after"])
    sizes = [thin.fc1.out_features, thin.fc2.out_features]
    assert thin.fc1.in_features == 64
    assert abs(sizes[0] / 30 - sizes[1] / 20) < 0.1
    kept = sum(parameter.numel() for parameter in thin.parameters())
    assert 0.85 * summary["parameters"]["after"] < kept <= summary["parameters"]["after"]
