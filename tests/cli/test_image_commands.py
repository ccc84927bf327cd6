"""Images from the command line: train, evaluate, sample, score, reconstruct, interpolate, resume, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shell import answer, iresnet, leftovers, refused

from iresnet import load
from iresnet.checkpoint import load_extra
from iresnet.data import load as load_data
from iresnet.models import image_flow
from iresnet.runs import RunFolder
from iresnet.runs.between import slerp
from iresnet.runs.folder import rows_of
from iresnet.runs.gallery import nearest
from iresnet.tasks.density import evaluate

SETTINGS = ("model.blocks=[1, 1]", "model.hidden=[6, 6]", "train.batch_size=32", "train.validation_rows=40")
SMALL = tuple(word for setting in SETTINGS for word in ("--set", setting))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images of two classes: a bright upper or lower half."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    images = rng.integers(0, 60, (120, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:4] += (150 * label).astype(np.uint8)
        image[4:] += (150 * (1 - label)).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "halves.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images[:30], y_test=labels[:30])
    return path


@pytest.fixture(scope="module")
def run(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "halves"
    told = answer("train", archive, "--steps", 40, *SMALL, "--set", "train.pictures=2", "--out", folder)
    assert told["status"] == "finished"
    return folder


@pytest.fixture(scope="module")
def conditional(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "conditional"
    answer("train", archive, "--steps", 40, *SMALL, "--label", "label", "--out", folder)
    return folder


def test_training_leaves_a_run_with_figures_pictures_and_a_report(run: Path) -> None:
    found = json.loads((run / "evaluation.json").read_text())
    bits, nats = found["bits_per_dim"], found["log_prob"]
    assert found["rows"] == 30 and bits["value"] == pytest.approx(-nats["value"] / (64 * math.log(2)))
    assert 5 < bits["value"] < 8 and found["nats_above_gaussian"] is None and "independent pixels" in found["baselines"]
    assert found["roundtrip"]["max_error_user"] < 0.5 and found["roundtrip"]["latent_backward_error"] < 1e-5
    names = {path.name for path in (run / "pictures").iterdir()}
    drawn = {"samples_after_0000020_steps.png", "samples_after_0000040_steps.png"}
    assert names == {"samples.png", "neighbours.png", "reconstruction.png"} | drawn
    page = (run / "report.html").read_text()
    for told in ("Validation bits per dimension, with a band", "three training images nearest", "Samples after 20 steps."):
        assert told in page
    assert not leftovers(run)
    validation = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"validation"' in line]
    assert validation[-1]["log_prob"] > validation[0]["log_prob"]


def test_the_figure_is_that_of_the_exact_log_determinant_within_its_errors(run: Path) -> None:
    default = json.loads((run / "evaluation.json").read_text())["log_prob"]
    krylov = answer("evaluate", run, "--logdet", "Krylov(probes=2)")["log_prob"]
    exact = answer("evaluate", run, "--logdet", "Exact()")["log_prob"]
    assert default == exact  # 64 dimensions: exact is the default
    assert abs(krylov["value"] - exact["value"]) <= 4 * krylov["stderr_estimator"] + krylov["bias"] + exact["bias"]
    assert krylov["stderr_estimator"] > 0


def test_single_precision_is_judged_by_double(run: Path) -> None:
    """Presets of images evaluate in float32; the bias says what that costs, measured on some rows."""
    folder = RunFolder.open(run)
    assert folder.config().evaluate.precision == "float32"
    narrow, flow = json.loads((run / "evaluation.json").read_text())["log_prob"], folder.flow()[0]
    wide, _ = evaluate(flow, rows_of(folder.dataset(), "test"))
    assert 0 < abs(narrow["value"] - wide.value) <= narrow["bias"] < 1e-2 and narrow["bias"] > wide.bias


def test_independent_pixels_are_counted(run: Path) -> None:
    dataset = RunFolder.open(run).dataset()
    train, test = dataset.train.values[:, 0].numpy(), dataset.test.values[:, 0].numpy()
    total = 0.0
    for image in test:
        for i in range(8):
            for j in range(8):
                total += math.log((np.sum(train[:, i, j] == image[i, j]) + 1) / (len(train) + 256))
    found = json.loads((run / "evaluation.json").read_text())["baselines"]["independent pixels"]
    assert found == pytest.approx(total / len(test))


def test_samples_as_arrays_and_as_a_picture(run: Path, tmp_path: Path) -> None:
    told = answer("sample", run, "-n", 6, "--out", tmp_path / "some.npz")
    assert told["rows"] == 6 and told["shape"] == [1, 8, 8]
    images = np.load(tmp_path / "some.npz")["images"]
    assert images.shape == (6, 8, 8) and images.dtype == np.uint8
    answer("sample", run, "-n", 9, "--out", tmp_path / "more.npz")
    assert (np.load(tmp_path / "more.npz")["images"][:6] == images).all()
    answer("sample", run, "-n", 6, "--continuous", "--out", tmp_path / "fine.npz")
    fine = np.load(tmp_path / "fine.npz")["images"]
    assert (np.clip(np.floor(fine), 0, 255) == images).all() and (fine % 1 > 0).any()
    answer("sample", run, "-n", 9, "--out", tmp_path / "more.png")
    shown = np.asarray(Image.open(tmp_path / "more.png"))
    factor = shown.shape[1] // 26
    assert (shown[::factor, ::factor][:8, :8] == images[0]).all()
    cold = answer("sample", run, "-n", 200, "--temperature", 0.1, "--continuous", "--out", tmp_path / "cold.npz")
    answer("sample", run, "-n", 200, "--continuous", "--out", tmp_path / "warm.npz")
    spread = [np.load(tmp_path / f"{name}.npz")["images"].std(0).mean() for name in ("cold", "warm")]
    assert cold["rows"] == 200 and spread[0] < 0.4 * spread[1]


def test_the_default_file_of_samples_is_a_picture(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "4 images in samples.png" in iresnet("sample", run, "-n", 4, "-q").stdout
    assert (tmp_path / "samples.png").exists()


def test_samples_of_a_class(conditional: Path, tmp_path: Path) -> None:
    upper = {}
    for label in ("0", "1"):
        answer("sample", conditional, "-n", 40, "--context", f"label={label}", "--out", tmp_path / f"{label}.npz")
        found = np.load(tmp_path / f"{label}.npz")
        assert set(found["label"]) == {label}
        upper[label] = found["images"][:, :4].mean() - found["images"][:, 4:].mean()
    assert upper["1"] > upper["0"] + 20
    answer("sample", conditional, "-n", 40, "--out", tmp_path / "both.npz")
    assert set(np.load(tmp_path / "both.npz")["label"]) == {"0", "1"}
    flow = load(conditional)
    assert flow.recipe["name"] == "image_flow" and flow.context == 2  # type: ignore[index]
    assert load_extra(conditional)["schema"]["shape"] == [1, 8, 8]


def test_samples_of_every_class(run: Path, conditional: Path, tmp_path: Path) -> None:
    told = answer("sample", conditional, "--per-class", 5, "--seed", 3, "--out", tmp_path / "each.npz")
    found = np.load(tmp_path / "each.npz")
    assert told["rows"] == 10 and told["classes"] == ["0", "1"] and found["label"].tolist() == ["0"] * 5 + ["1"] * 5
    for place, label in enumerate("01"):  # those of class k are what seed + k draws of it alone
        words = ("-n", 5, "--context", f"label={label}", "--seed", 3 + place)
        answer("sample", conditional, *words, "--out", tmp_path / "one.npz")
        assert (np.load(tmp_path / "one.npz")["images"] == found["images"][5 * place : 5 * place + 5]).all()
    answer("sample", conditional, "--per-class", 5, "--seed", 3, "--out", tmp_path / "each.png")
    shown = np.asarray(Image.open(tmp_path / "each.png"))
    factor = shown.shape[1] // (5 * 9 - 1)
    assert shown.shape[0] // factor == 2 * 9 - 1 and (shown[::factor, ::factor][9:17, :8] == found["images"][5]).all()
    assert "one row of them for each class" in (conditional / "report.html").read_text()
    out = ("--out", tmp_path / "x.png")
    assert "is conditional on nothing" in refused("sample", run, "--per-class", 2, *out)
    assert "--per-class must be at least 1" in refused("sample", conditional, "--per-class", 0, *out)


def test_a_run_to_start_from_brings_its_model(archive: Path, tmp_path: Path) -> None:
    """From a classifier to a density without naming a setting of the model: alpha and depth are those of the classifier."""
    answer("train", archive, "--task", "classify", "--steps", 3, *SMALL, "--out", tmp_path / "seen")
    few = ("--steps", 2, "--set", "train.validation_rows=20", "--set", "train.batch_size=32")
    answer("train", archive, "--init", tmp_path / "seen", *few, "--out", tmp_path / "run")
    ours, theirs = load(tmp_path / "run"), load(tmp_path / "seen")
    assert repr(ours.bijection) == repr(theirs.flow.bijection)  # type: ignore[union-attr]
    told = refused("train", archive, "--init", tmp_path / "seen", "--preset", "tiny", *few, "--out", tmp_path / "other")
    assert "another architecture" in told


def test_scores_are_those_of_the_flow(run: Path, archive: Path, tmp_path: Path) -> None:
    told = answer("score", run, archive, "--draws", 4, "--out", tmp_path / "scores.npz")
    found = np.load(tmp_path / "scores.npz")
    assert told["rows"] == 30 and found["log_prob"].shape == (30,) and (found["stderr"] > 0).all()
    evaluated = json.loads((run / "evaluation.json").read_text())["log_prob"]
    assert abs(found["log_prob"].mean() - evaluated["value"]) < 5 * evaluated["stderr_data"]


def test_reconstruct_and_interpolate(run: Path, conditional: Path, tmp_path: Path) -> None:
    found = answer("reconstruct", run, "--rows", 12)
    whole = answer("reconstruct", run, "--rows", "all")
    assert whole["rows"] == 30 and whole["latent_backward_error"] < 1e-5 and whole["max_error_user"] < 0.5
    assert "--rows most: it is a number of rows, or all" in refused("reconstruct", run, "--rows", "most")
    assert found["rows"] == 12 and found["max_error_user"] < 1e-3 and found["worst_block_bound"] > 0 and found["steps_mean"] > 0
    told = answer("interpolate", run, "--pairs", 3, "--steps", 5, "--out", tmp_path / "way.npz")
    way = np.load(tmp_path / "way.npz")["images"].reshape(3, 5, 8, 8)
    test = load_data(json.loads((run / "run.json").read_text())["data"]["path"], seed=0).test
    places = [test.rows.tolist().index(row) for row in told["rows"]]
    ends = test.values[places, 0].numpy().reshape(3, 2, 8, 8)
    assert (way[:, 0] == ends[:, 0]).all() and (way[:, -1] == ends[:, 1]).all()
    assert told["latent_backward_error"] < 1e-5
    answer("interpolate", run)
    assert (run / "pictures" / "interpolation.png").exists() and "latent space" in (run / "report.html").read_text()
    answer("interpolate", conditional, "--pairs", 2, "--out", tmp_path / "way.png")


def test_interpolation_of_a_table(tmp_path: Path) -> None:
    answer("train", "moons", "--steps", 4, "--set", "model.blocks=1", "--set", "model.hidden=[8]", "--out", tmp_path / "run")
    answer("interpolate", tmp_path / "run", "--pairs", 2, "--steps", 3, "--out", tmp_path / "way.csv")
    lines = (tmp_path / "way.csv").read_text().splitlines()
    assert lines[0] == '"pair","t","x1","x2"' and len(lines) == 7


def test_the_way_between_latents_keeps_to_the_sphere() -> None:
    a, b = torch.tensor([2.0, 0.0]).double(), torch.tensor([0.0, 4.0]).double()
    way = slerp(a, b, torch.linspace(0, 1, 5, dtype=torch.float64))
    torch.testing.assert_close(way.norm(dim=1), torch.tensor([2.0, 2.5, 3.0, 3.5, 4.0]).double())
    torch.testing.assert_close(way[[0, -1]], torch.stack((a, b)))
    torch.testing.assert_close(way[2], 3 * torch.tensor([0.5, 0.5]).double().sqrt())
    same = slerp(a, a, torch.tensor([0.0, 0.5]).double())
    torch.testing.assert_close(same, torch.stack((a, a)))


def test_nearest_images_by_a_naive_search() -> None:
    images, among = torch.rand(5, 1, 3, 3) * 255, torch.randint(0, 256, (70, 1, 3, 3), dtype=torch.uint8)
    places, distances = nearest(images, among, 3)
    for image, found, far in zip(images, places, distances, strict=True):
        naive = (among.float() - image).square().sum((1, 2, 3)).sqrt()
        assert found.tolist() == naive.argsort()[:3].tolist()
        torch.testing.assert_close(far, naive.sort().values[:3], rtol=1e-4, atol=1e-3)


def test_an_interrupted_run_goes_on_bit_for_bit(archive: Path, tmp_path: Path) -> None:
    from iresnet.config import build_config
    from iresnet.runs import train_run

    sets = [*SETTINGS, "data.crop=1", "data.flip=true", "train.pictures=2"]
    config = build_config(options={"data.name": str(archive), "train.steps": 12}, sets=sets)
    whole = train_run(config, tmp_path / "whole").folder
    asked = iter(range(100))
    part = train_run(config, tmp_path / "part", stop=lambda: next(asked) >= 5)
    assert not part.complete
    train_run(config, tmp_path / "part", resume=True)
    ours, theirs = load(whole.path).state_dict(), load(part.folder.path).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert {p.name for p in (whole.path / "pictures").iterdir()} == {p.name for p in (part.folder.path / "pictures").iterdir()}


def test_evaluation_of_some_rows_and_by_presets(archive: Path) -> None:
    from iresnet.config import build_config

    tiny = build_config(options={"data.name": str(archive)})
    assert tiny == build_config(preset="tiny", options={"data.name": str(archive)})
    assert isinstance(tiny.model.blocks, list)
    assert build_config(sets=["model.alpha=none"]).model.alpha == "none"
    for preset in ("tiny", "small", "paper"):
        model = build_config(preset=preset, options={"data.name": "mnist"}).model
        assert isinstance(model.blocks, list)
        with torch.device("meta"):
            flow = image_flow((1, 28, 28), None, model.blocks, model.hidden, model.lipschitz, model.family, model.nonlinearity)  # type: ignore[arg-type]
        assert flow.shape == (1, 28, 28)


def test_refusals(run: Path, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    out = ("--out", tmp_path / "run")
    assert "is a folder without images" in refused("train", tmp_path / "none", *out)
    assert "preset standard is for tables; for images there are tiny, small, paper" in refused(
        "train", archive, "--preset", "standard", *out
    )
    assert "preset tiny is for images; for tables there are quick" in refused("train", "moons", "--preset", "tiny", *out)
    assert "for tables" in refused("train", archive, "--dequantize", "auto", *out)
    assert "data.crop and data.flip are for images" in refused("train", "moons", "--set", "data.flip=true", *out)
    assert "cannot build the model: unknown family 'bjorck'" in refused("train", archive, "--set", "model.family=bjorck", *out)
    assert not (tmp_path / "run").exists()
    assert "images are written as .npz or as one picture, .png" in refused("sample", run, "--out", tmp_path / "a.csv")
    assert "--temperature 0 must be positive" in refused("sample", run, "--temperature", 0, "--out", tmp_path / "a.png")
    assert "needs at least one pair and two steps" in refused("interpolate", run, "--steps", 1)
    assert "train.accumulate=" in refused("train", archive, "--set", "train.batch_size=1000000000", *out)
    np.savez(tmp_path / "same.npz", x_train=np.zeros((40, 8, 8), np.uint8), y_train=np.zeros(40, np.int64))
    np.savez(tmp_path / "bare.npz", x_train=np.zeros((40, 8, 8), np.uint8))
    told = refused("train", tmp_path / "same.npz", "--label", "label", *out)
    assert "label of same is always 0: leave --label out" in told
    assert "put images into a folder for each class" in refused("train", tmp_path / "bare.npz", "--task", "classify", *out)
    assert "20 pairs need 40 test rows, and there are 30" in refused("interpolate", run, "--pairs", 20)
    np.savez(tmp_path / "wide.npz", images=np.zeros((10, 4, 8), np.uint8))
    assert "was trained on images of 8 x 8" in refused("score", run, tmp_path / "wide.npz", "--out", tmp_path / "a.csv")
