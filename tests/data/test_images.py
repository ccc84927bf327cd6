"""Images from files: found, decoded, labelled, split and cached, and refused in one sentence where something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from image_files import pictures, png, write_folder, write_parquet
from PIL import Image
from sklearn.datasets import load_digits

import iresnet
from iresnet.data import ImageSchema, load, load_rows, read_schema
from iresnet.data.images import names_images
from iresnet.errors import UserError
from iresnet.files import cache_folder


def all_of(data) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Every image with its number and class, in the order of the numbers."""
    parts = (data.train, data.validation, data.test)
    rows = torch.cat([part.rows for part in parts])
    order = rows.argsort()
    labels = torch.cat([part.labels for part in parts])[order] if data.levels else []
    return torch.cat([part.values for part in parts])[order].numpy(), rows[order].numpy(), [data.levels[k] for k in labels]


def test_a_folder_in_the_layout_of_the_hub(tmp_path: Path) -> None:
    train, test = pictures(30), pictures(8, 1)
    classes = [k % 3 for k in range(30)]
    names = ["cat", "ant", "bee"]
    write_parquet(tmp_path / "plain" / "train-00000-of-00002.parquet", train[:20], classes[:20], names)
    write_parquet(tmp_path / "plain" / "train-00001-of-00002.parquet", train[20:], classes[20:], names)
    write_parquet(tmp_path / "plain" / "test-00000-of-00001.parquet", test, [2] * 8, names)
    data = load(tmp_path, seed=0)
    assert (data.kind, data.label, data.levels) == ("images", "kind", ("cat", "ant", "bee"))
    assert isinstance(data.schema, ImageSchema) and data.schema.shape == (1, 6, 4) and data.schema.levels == 256
    assert [len(part) for part in (data.train, data.validation, data.test)] == [27, 3, 8]
    values, rows, labels = all_of(data)
    assert (values[:, 0] == np.concatenate((train, test))).all() and (rows == np.arange(38)).all()
    assert labels == [names[k] for k in classes] + ["bee"] * 8
    assert data.test.rows.tolist() == list(range(30, 38))
    other = load(tmp_path, seed=1)
    assert other.validation.rows.tolist() != data.validation.rows.tolist()
    assert torch.equal(other.test.values, data.test.values)


def test_labels_are_found_whatever_they_are_called_and_chosen_among_several(tmp_path: Path) -> None:
    images = pictures(12, shape=(4, 4, 3))
    cells = [png(image, "WEBP") for image in images]
    columns = {"picture": pa.array(cells, pa.binary()), "coarse_label": [0] * 6 + [1] * 6, "fine_label": list(range(12))}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    data = load(tmp_path, seed=0)
    assert data.label == "fine_label" and len(data.levels) == 12 and data.schema.shape == (3, 4, 4)
    assert (all_of(data)[0].transpose(0, 2, 3, 1) == images).all()
    coarse = load(tmp_path, seed=0, label="coarse_label")
    assert coarse.levels == ("0", "1") and coarse.schema.context_width == 2
    assert coarse.train.context is not None and torch.equal(coarse.train.context.argmax(1), coarse.train.labels)
    assert load(tmp_path, seed=0, label="coarse_label", predict=True).schema.context == ()
    with pytest.raises(UserError, match="no label column 'colour'; it has coarse_label, fine_label"):
        load(tmp_path, seed=0, label="colour")
    write_parquet(tmp_path / "plain" / "train.parquet", pictures(12), None)
    with pytest.raises(UserError, match="holds several sets of images: .*; give the path of one"):
        load(tmp_path, seed=0)
    plain = load(tmp_path / "plain", seed=0)
    assert plain.label is None and plain.levels == () and plain.train.labels is None
    with pytest.raises(UserError, match="no label column 'label'; it has none"):
        load(tmp_path / "plain", seed=0, label="label")


def test_several_label_columns_of_the_hub_are_told_of(tmp_path: Path) -> None:
    columns = {"img": pa.array([png(image) for image in pictures(10)], pa.binary()), "shape": [0, 1] * 5, "colour": [1, 0] * 5}
    names = {name: {"names": ["a", "b"], "_type": "ClassLabel"} for name in ("shape", "colour")}
    metadata = {b"huggingface": json.dumps({"info": {"features": names}}).encode()}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / "train.parquet")
    data = load(tmp_path, seed=0)
    assert data.label == "shape" and data.notes == ["shape is taken as the label; choose colour with --label"]


def test_folders_of_classes_and_of_splits(tmp_path: Path) -> None:
    images = pictures(20)
    classes = ["dog", "a cat"] * 10
    write_folder(tmp_path / "plain", images, classes)
    (tmp_path / "plain" / ".hidden").mkdir()
    (tmp_path / "plain" / ".hidden" / "x.png").write_bytes(b"not looked at")
    (tmp_path / "plain" / "notes.txt").write_text("not an image")
    write_folder(tmp_path / "plain" / "runs" / "old", images[:1], ["pictures"])
    data = load(tmp_path / "plain", seed=0)
    assert data.levels == ("a cat", "dog") and [len(p) for p in (data.train, data.validation, data.test)] == [16, 2, 2]
    values, _, labels = all_of(data)
    assert labels == ["a cat"] * 10 + ["dog"] * 10
    assert (values[:, 0] == np.concatenate((images[1::2], images[::2]))).all()

    write_folder(tmp_path / "parts" / "train", images, classes)
    write_folder(tmp_path / "parts" / "val", images[:4], classes[:4])
    write_folder(tmp_path / "parts" / "test", images[:6], classes[:6])
    data = load(tmp_path / "parts", seed=0)
    assert [len(p) for p in (data.train, data.validation, data.test)] == [20, 4, 6]
    assert data.levels == ("a cat", "dog")

    write_folder(tmp_path / "flat", images, [""] * 20)
    data = load(tmp_path / "flat", seed=0)
    assert data.levels == () and len(data.train) == 16
    write_folder(tmp_path / "flat", images[:1], ["dog"])
    with pytest.raises(UserError, match="images in subfolders and outside of them, such as 001.png"):
        (tmp_path / "flat" / "000.png").unlink()
        load(tmp_path / "flat", seed=0)
    write_folder(tmp_path / "parts" / "valid", images[:4], classes[:4])
    with pytest.raises(UserError, match="two folders for its validation images: (val and valid|valid and val)"):
        load(tmp_path / "parts", seed=0)


@pytest.mark.parametrize("layout", ("plain", "channels last", "channels first", "grey"))
def test_archives(tmp_path: Path, layout: str) -> None:
    shape = {"plain": (6, 4), "channels last": (6, 4, 3), "channels first": (3, 6, 4), "grey": (6, 4, 1)}[layout]
    images, labels = pictures(20, shape=shape), np.arange(20, dtype=np.uint8)[:, None] % 2
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images[:5], y_test=labels[:5])
    data = load(tmp_path / "set.npz", seed=0)
    last = layout in ("channels last", "grey")
    wanted = images[:, None] if layout == "plain" else images.transpose(0, 3, 1, 2) if last else images
    values, _, found = all_of(data)
    assert (values == np.concatenate((wanted, wanted[:5]))).all() and found == [str(k % 2) for k in [*range(20), *range(5)]]
    np.savez_compressed(tmp_path / "alone.npz", images=images)
    assert load(tmp_path / "alone.npz", seed=0).levels == ()


def test_grey_and_palette_and_colour_become_what_loses_nothing(tmp_path: Path) -> None:
    grey, colour = pictures(1)[0], pictures(1, 1, (6, 4, 3))[0]
    (tmp_path / "a.png").write_bytes(png(grey))
    (tmp_path / "b.png").write_bytes(png(colour))
    few = Image.fromarray(colour).quantize(8)
    few.save(tmp_path / "c.png")
    Image.fromarray(np.dstack((colour, np.full((6, 4), 255, np.uint8)))).save(tmp_path / "d.png")
    for name in "efghij":
        (tmp_path / f"{name}.png").write_bytes(png(grey))
    values = all_of(load(tmp_path, seed=0))[0].transpose(0, 2, 3, 1)
    assert (values[0] == grey[:, :, None]).all() and (values[1] == colour).all() and (values[3] == colour).all()
    assert (values[2] == np.asarray(few.convert("RGB"))).all()


def test_digits_as_images_are_the_digits() -> None:
    data = load("digits-images", seed=3)
    assert data.schema.shape == (1, 8, 8) and data.schema.levels == 17 and data.levels == tuple(map(str, range(10)))
    table = load("digits", seed=3)
    assert torch.equal(table.test.rows, data.test.rows)
    assert torch.equal(table.test.values, data.test.values.flatten(1).double())
    assert all_of(data)[2] == [str(k) for k in load_digits().target]


def test_fewer_images_and_few_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x_train=pictures(100), x_test=pictures(30, 1))
    data = load(tmp_path / "set.npz", seed=0, n=40)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [36, 4, 30]
    again = load(tmp_path / "set.npz", seed=0, n=40)
    assert torch.equal(again.train.rows, data.train.rows)
    np.savez(tmp_path / "few.npz", images=pictures(5))
    with pytest.raises(UserError, match="5 rows are too few"):
        load(tmp_path / "few.npz", seed=0)
    np.savez(tmp_path / "one.npz", x_train=pictures(1), x_test=pictures(1))
    with pytest.raises(UserError, match="1 training images are too few"):
        load(tmp_path / "one.npz", seed=0)


def test_decoded_images_are_kept_and_a_changed_file_is_decoded_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("IRESNET_CACHE", str(tmp_path / "cache"))
    images = pictures(12)
    write_folder(tmp_path / "set", images, ["a"] * 12)
    first = load(tmp_path / "set", seed=0)
    (entry,) = (tmp_path / "cache").iterdir()
    kept = entry / "train_images.npy"
    before = kept.stat().st_mtime_ns
    assert torch.equal(load(tmp_path / "set", seed=0).train.values, first.train.values) and kept.stat().st_mtime_ns == before
    changed = tmp_path / "set" / "a" / "000.png"
    changed.write_bytes(png(255 - images[0]))
    os.utime(changed, ns=(1, 1))
    assert (all_of(load(tmp_path / "set", seed=0))[0][0, 0] == 255 - images[0]).all()
    for path in (tmp_path / "cache").iterdir():  # a damaged entry is made again
        (path / "train_images.npy").write_bytes(b"damaged")
    assert (all_of(load(tmp_path / "set", seed=0))[0][0, 0] == 255 - images[0]).all()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IRESNET_CACHE", str(tmp_path / "file"))  # no folder can be made there
    assert torch.equal(load(tmp_path / "set", seed=0).test.values, load(tmp_path / "set", seed=0).test.values)


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch) -> None:
    monkeypatch.delenv("IRESNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == Path("/some/where/iresnet")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "iresnet"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_folder() == Path("/local/iresnet/Cache")


def test_names_under_the_folder_of_data(tmp_path: Path, monkeypatch) -> None:
    write_folder(tmp_path / "animals", pictures(12), ["a", "b"] * 6)
    monkeypatch.setenv("IRESNET_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    assert names_images("animals") and load("animals", seed=0).name == "animals"
    assert not names_images("moons") and not names_images("table.csv") and names_images("mnist") and names_images("owner/name")


def test_an_image_schema_and_its_units(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=pictures(20), labels=np.arange(20) % 2)
    schema = load(tmp_path / "set.npz", seed=0, label="label").schema
    assert read_schema(json.loads(json.dumps(schema.to_dict()))) == schema
    values = torch.tensor([[[[255]], [[0]]]], dtype=torch.uint8).reshape(1, 1, 2, 1)
    small = ImageSchema((1, 2, 1))
    for dtype in (torch.float32, torch.float64):
        x, log_jacobian = small.encode(values, torch.full((1, 1, 2, 1), 1 - torch.finfo(dtype).eps, dtype=dtype))
        assert x.dtype == dtype and float(x.max()) < 256 and not log_jacobian.any()
        assert torch.equal(small.decode(x), values)
    assert small.decode(torch.tensor([[[[300.0]], [[-4.0]]]]).reshape(1, 1, 2, 1)).flatten().tolist() == [255, 0]
    bits = small.bits_per_dim(torch.tensor([-2 * 8 * np.log(2)]))
    assert float(bits) == pytest.approx(8.0)
    assert small.discrete and small.dequantized and small.features == 2
    with pytest.raises(UserError, match=r"expected images of shape \(1, 2, 1\), got \(1, 1, 2\)"):
        small.encode(values.reshape(1, 1, 1, 2))
    with pytest.raises(UserError, match="pixels hold levels: give noise"):
        small.encode(values)


def test_rows_to_score_are_those_of_the_test_split_and_must_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x_train=pictures(20), x_test=pictures(3, 1))
    schema = load(tmp_path / "set.npz", seed=0).schema
    assert torch.equal(load_rows(tmp_path / "set.npz", schema).values[:, 0], torch.from_numpy(pictures(3, 1)))
    np.savez(tmp_path / "wide.npz", images=pictures(3, 1, (4, 6)))
    with pytest.raises(UserError, match="4 x 6 pixels, 1 channel of 256 levels, and the model was trained on images of 6 x 4"):
        load_rows(tmp_path / "wide.npz", schema)
    (tmp_path / "table.csv").write_text("a\n1\n")
    with pytest.raises(UserError, match="table.csv holds no images"):
        load_rows(tmp_path / "table.csv", schema)


def test_what_is_for_tables_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=pictures(20), labels=np.arange(20) % 2)
    with pytest.raises(UserError, match="--columns, --drop, --missing, --context, --support and --dequantize are for tables"):
        load(tmp_path / "set.npz", seed=0, dequantize="auto")
    with pytest.raises(UserError, match="has no label 'colour'; it has 'label'"):
        load(tmp_path / "set.npz", seed=0, label="colour")
    np.savez(tmp_path / "bare.npz", images=pictures(20))
    with pytest.raises(UserError, match="has no labels: put images into a folder for each class"):
        load(tmp_path / "bare.npz", seed=0, label="label")


def offline(name: str, home: Path) -> str:
    """What a process without a network says of a data set's name, and its classes."""
    code = f"from iresnet.data import load; d = load({name!r}, seed=0); print(d.name, d.levels, len(d.train))"
    source = str(Path(iresnet.__file__).parents[1])
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": source, "IRESNET_DATA": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=home)
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_the_hub_without_its_client_or_a_network(tmp_path: Path) -> None:
    told = r"zalando-datasets/fashion_mnist from the hub(: pip install 'iresnet\[hub\]'|: ).*IRESNET_DATA"
    assert re.search(told, offline("fashion_mnist", tmp_path))


def test_what_the_hub_has_fetched_before_is_read_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    commit, repository = "0" * 40, tmp_path / "hub" / "datasets--somebody--animals"
    names = ["ant", "bee"]
    write_parquet(repository / "snapshots" / commit / "data" / "train-00000-of-00001.parquet", pictures(20), [0, 1] * 10, names)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert offline("somebody/animals", tmp_path) == "animals ('ant', 'bee') 16"


@pytest.mark.data
def test_the_real_sets(data_folder: Path) -> None:
    data = load("mnist", seed=0)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [55_000, 5_000, 10_000]
    assert data.levels == tuple(map(str, range(10))) and data.schema.shape == (1, 28, 28)
    assert data.train.values.dtype == torch.uint8
    counts = sum(torch.bincount(part.labels, minlength=10) for part in (data.train, data.validation))
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    mean = float(torch.cat((data.train.values, data.validation.values)).double().mean()) / 255
    assert mean == pytest.approx(0.1307, abs=1e-4)
    data = load("cifar10", seed=0)
    assert data.schema.shape == (3, 32, 32) and data.levels[0] == "airplane" and data.levels[9] == "truck"
    means = torch.cat((data.train.values, data.validation.values)).double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64), rtol=0, atol=1e-4)
