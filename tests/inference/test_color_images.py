"""Coloured images: folders of them, CIFAR that is not there, and a Wide ResNet on them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from l0bayes.errors import DataError
from l0bayes.inference.cli import main
from l0bayes.inference.data.color_images import standardised
from l0bayes.inference.data.datasets import load_data

ROWS, SIZE = 20, (12, 10)


def write_tree(root, parts=("train", "test"), classes=("cat", "dog"), size=SIZE):
    pixels = np.random.default_rng(0)
    for part in parts:
        for number, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for index in range(ROWS):
                image = pixels.integers(0, 120, (*size, 3)) + 100 * number
                Image.fromarray(image.astype(np.uint8)).save(root / part / name / f"{index:02}.png")
    return root


@pytest.fixture
def folder(tmp_path):
    return write_tree(tmp_path / "data")


def test_a_folder_is_read_and_standardised(folder):
    data = load_data("folder", folder)
    assert data.train.x.shape == (36, 3, *SIZE)
    assert (len(data.validation), len(data.test), data.classes) == (4, 40, 2)
    assert data.image_shape == SIZE
    assert data.features == 3 * 12 * 10
    torch.testing.assert_close(data.train.x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.x.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)
    assert data.test.y.tolist() == [0] * ROWS + [1] * ROWS
    brightness = data.test.x.mean((1, 2, 3))
    assert brightness[:ROWS].max() < brightness[ROWS:].min()


def test_what_is_held_out_is_the_same_each_time_and_no_row_is_lost():
    images = torch.randint(256, (50, 4, 4, 3), dtype=torch.uint8)
    labels = torch.arange(50)
    (train, validation, _), (again, _, _) = (standardised((images, labels), (images, labels)) for _ in range(2))
    assert torch.equal(train[1], again[1])
    assert sorted([*train[1].tolist(), *validation[1].tolist()]) == labels.tolist()


def test_a_missing_part(tmp_path):
    with pytest.raises(DataError, match=r"data_dir: .*test holds no images in folders of their class"):
        load_data("folder", write_tree(tmp_path / "data", parts=("train",)))


def test_other_classes(tmp_path):
    write_tree(tmp_path / "data", parts=("train",))
    write_tree(tmp_path / "data", parts=("test",), classes=("cat", "cow"))
    with pytest.raises(DataError, match="different classes"):
        load_data("folder", tmp_path / "data")


def test_other_sizes(folder):
    Image.new("RGB", (9, 9)).save(folder / "train" / "dog" / "99.png")
    with pytest.raises(DataError, match=r"one size; .*99.png is \(9, 9\), the first one \(12, 10\)"):
        load_data("folder", folder)


def test_a_damaged_image(folder):
    (folder / "train" / "dog" / "99.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"99.png cannot be read"):
        load_data("folder", folder)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_that_is_not_there(name, tmp_path):
    with pytest.raises(DataError, match=f"no {name} in .*--download true"):
        load_data(name, tmp_path)


@pytest.mark.filterwarnings("ignore:epochs=2 leave fewer")
def test_a_wide_resnet_from_the_command_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "l0bayes.inference.command_line.train.interleaved", lambda _calls: type("", (), {"ratio": {"compacted": 1.0}})
    )
    options = {"data": "folder", "data-dir": folder, "network": "wrn", "depth": 10, "epochs": 2, "batch-size": 12}
    options |= {"optimizer": "sgd", "lr": 0.1, "schedule": "steps", "shift": 1, "flip": "true", "gates": "unit"}
    options |= {"bf16": "true", "channels-last": "true", "progress": "false", "out": tmp_path / "out"}
    assert main(["train", *(f"--{name}={value}" for name, value in options.items())]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["parameters"]["after"] <= summary["parameters"]["before"]
    assert summary["test_error"]["compacted"] == pytest.approx(summary["test_error"]["gated"], abs=0.1)


def test_grey_images_are_not_for_it(capsys):
    assert main(["train", "--network", "wrn"]) == 1
    assert "wrn takes coloured images; digits are grey" in capsys.readouterr().err
