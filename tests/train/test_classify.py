"""Classification: its figures and gradients, what it shares with a density, and real digits told apart and found again."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from iresnet import Exact, UserError, certify, load, save
from iresnet.bases import ClassNormal
from iresnet.bijections import Residual
from iresnet.classifier import Classifier
from iresnet.config import build_config
from iresnet.models import dense_classifier, dense_flow, dense_resnet, image_classifier, image_flow, image_resnet, resnet164
from iresnet.numerics.noise import Noise
from iresnet.runs import RunFolder, evaluate_run, reconstruct_run, train_run
from iresnet.settings import Settings
from iresnet.tasks.classify import Classify, class_figures, class_sums
from iresnet.tasks.hybrid import Hybrid
from iresnet.tasks.rows import Rows
from iresnet.testing import randomized
from iresnet.train import Trainer


def classifier(features: int = 3, classes: int = 4, seed: int = 0, **more: object) -> Classifier:
    """Small, in float64, with random parameters everywhere."""
    torch.manual_seed(seed)
    made = dense_classifier(features, classes, **{"blocks": 2, "hidden": (6, 5), **more}).double()  # type: ignore[arg-type]
    made.flow.train_logdet = Exact()
    return randomized(made, 0.7, seed)


def labelled(count: int, features: int = 3, classes: int = 4, seed: int = 1) -> Rows:
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=made, dtype=torch.float64)
    return Rows(x, labels=torch.randint(classes, (count,), generator=made))


def test_figures_are_counts_and_means() -> None:
    """Against a loop over rows, also when the sums are made in parts; no mistake among N rows has an error all the same."""
    made = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(40, 5, generator=made), torch.randint(5, (40,), generator=made)
    each = [float(torch.logsumexp(row.double(), 0) - row.double()[y]) for row, y in zip(logits, labels, strict=True)]
    wrong = sum(int(row.argmax()) != int(y) for row, y in zip(logits, labels, strict=True)) / 40
    found = class_figures(class_sums(logits[:13], labels[:13]) + class_sums(logits[13:], labels[13:]))
    assert found["error"] == pytest.approx(wrong) and found["stderr_error"] == pytest.approx(math.sqrt(wrong * (1 - wrong) / 40))
    assert found["cross_entropy"] == pytest.approx(sum(each) / 40)
    assert found["stderr_cross_entropy"] == pytest.approx(float(torch.tensor(each).std()) / math.sqrt(40), rel=1e-6)
    right = class_figures(class_sums(torch.eye(5), torch.arange(5)))
    assert right["error"] == 0.0 and right["stderr_error"] == pytest.approx(math.sqrt(0.2 * 0.8 / 5))


def test_goodness_is_rows_classified_rightly_then_cross_entropy() -> None:
    task = Classify(dense_resnet(2, 3, blocks=1, hidden=(4,)))
    sums = [[100, 3, 90.0, 200.0], [100, 3, 95.0, 200.0], [100, 4, 1.0, 2.0]]
    goodness = [task.judge(torch.tensor(part, dtype=torch.float64)).goodness for part in sums]
    assert goodness == sorted(goodness, reverse=True) and len(set(goodness)) == 3


def test_smoothing_is_in_the_loss_and_not_in_what_is_told() -> None:
    network, batch = classifier(), labelled(20).all(torch.zeros((), dtype=torch.float64))
    logits = network(batch.x)
    loss, told = Classify(network, smoothing=0.2)(batch, Noise())
    plain, uniform = cross_entropy(logits, batch.classes, reduction="sum"), -logits.log_softmax(1).mean(1).sum()
    assert torch.allclose(loss, 0.8 * plain + 0.2 * uniform)
    assert torch.allclose(told[0], plain.detach()) and told[1] == (logits.argmax(1) != batch.classes).sum()
    with pytest.raises(ValueError, match=r"in \[0, 1\), got 1"):
        Classify(network, smoothing=1.0)


def test_a_hybrid_step_is_the_sum_of_both_gradients() -> None:
    """One pass over shared features, against two separate ones."""
    network, batch = classifier().train(), labelled(20).all(torch.zeros((), dtype=torch.float64))
    noise = Noise(5, torch.arange(20))
    loss, told = Hybrid(network, weight=0.5)(batch, noise)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    nats = network.flow.log_prob(batch.x, noise=noise).sum()
    cross = cross_entropy(network(batch.x), batch.classes, reduction="sum")
    twin = torch.autograd.grad(-nats + 0.5 * 3 * cross, list(network.parameters()))
    for one, other in zip(gradients, twin, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert torch.allclose(told[:3], torch.stack((1.5 * cross - nats, nats, cross)).detach())


def test_a_hybrid_needs_a_density() -> None:
    with pytest.raises(ValueError, match="without padding"):
        Hybrid(image_classifier((1, 8, 8), 3, (1,), (4,), pad=1))
    with pytest.raises(ValueError, match="without padding"):
        Hybrid(dense_resnet(3, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be positive, got 0"):
        Hybrid(classifier(), weight=0.0)


def test_samples_of_a_class_are_those_of_the_joint_density() -> None:
    """E[x | y] by rejection, against p(x)'s own samples weighted with p(y | x)."""
    network = classifier(2, 3, whiten=True).eval()
    draws = 4000
    with torch.no_grad():
        x = network.flow.sample(draws, noise=Noise(1, torch.arange(draws)))
        share = network(x).softmax(1)[:, 1]
        given = network.sample(1, draws, noise=Noise(2, torch.arange(draws)))
    weighted = (share[:, None] * x).sum(0) / share.sum()
    effective = float(share.sum() ** 2 / share.square().sum())
    error = (given.var(0) * (1 / draws + 1 / effective)).sqrt()
    assert ((given.mean(0) - weighted).abs() < 4 * error).all()
    assert ((x.mean(0) - weighted).abs() > 4 * error).any(), "a class that looks like all rows would prove nothing"
    again = network.sample(1, 7, noise=Noise(2, torch.arange(3, 10)))
    assert torch.allclose(again, given[3:10], atol=1e-9), "a row is a function of its number"
    with pytest.raises(ValueError, match="from 0 to 2, got 3"):
        network.sample(3, 1)
    with torch.no_grad():
        network.linear.bias[2] = -50.0
    with pytest.raises(ValueError, match="class 2 is too rare: 5 of 5 draws found none in 20 tries"):
        network.sample(2, 5, tries=20)


def test_a_base_with_a_context_for_each_row_draws_again_for_rows_that_are_left() -> None:
    torch.manual_seed(0)
    network = Classifier(image_flow((1, 4, 4), 3, (1,), 4).double(), 2).double().eval()
    given, base = torch.eye(3).double()[torch.arange(9) % 3], network.flow.base
    assert isinstance(base, ClassNormal)
    with torch.no_grad():  # narrow, so that a latent tells its class
        base.log_scale -= 5.0
        base.mean += torch.linspace(-2, 2, 3, dtype=torch.float64).reshape(3, *[1] * len(base.shape))
    found = network.encode(network.sample(0, 9, given, noise=Noise(1, torch.arange(9))), given)
    assert torch.allclose(found, (given @ base.mean.flatten(1)).unflatten(1, base.shape), atol=0.1)


@pytest.mark.parametrize("pad", [0, 2])
@pytest.mark.parametrize("split", [False, True])
def test_images_are_found_again_from_their_features(pad: int, split: bool) -> None:
    torch.manual_seed(0)
    network = image_classifier((1, 12, 8), 3, (2, 1), (6, 6), pad=pad, split=split, lipschitz=0.7).double()
    x = 256 * torch.rand(6, 1, 12, 8, dtype=torch.float64)
    network.initialize(x)
    network = randomized(network, 0.3, 0).eval()
    assert network.shape == (1, 12, 8) and network(x).shape == (6, 3) and certify(network.flow, network.widen(x)).holds
    found = network.invert(network.encode(x).detach())
    assert found.value.shape[1] == 1 + pad and (found.value - network.widen(x)).abs().max() < 1e-6
    with pytest.raises(ValueError, match="has no density") if pad else pytest.raises(ValueError, match="got 9"):
        network.sample(9, 1)


@pytest.mark.parametrize(("per", "expected"), [("branch", 0.9), ("layer", 0.9**3)])
@pytest.mark.parametrize("family", ["sandwich", "gram"])
def test_a_coefficient_is_per_branch_or_per_layer(per: str, expected: float, family: str) -> None:
    branches = [
        part.branch
        for made in (
            dense_classifier(3, 2, hidden=(8, 8), lipschitz=0.9, per=per, family=family, blocks=1),
            image_classifier((1, 8, 8), 2, (1,), (4, 4), 0.9, per, family),
        )
        for part in made.modules()
        if isinstance(part, Residual)
    ]
    assert [branch.lipschitz for branch in branches] == pytest.approx([expected, expected])
    with pytest.raises(ValueError, match="per 'branch' or per 'layer', got 'block'"):
        dense_classifier(3, 2, per="block")


@pytest.mark.parametrize("kind", ["dense", "image"])
def test_no_coefficient_is_no_guarantee(kind: str) -> None:
    network = dense_classifier(3, 2, lipschitz=None) if kind == "dense" else image_classifier((1, 8, 8), 2, (1,), lipschitz=None)
    blocks = certify(randomized(network, 3.0, 0).flow).blocks
    assert blocks and all(block.guarantee == "none" and not block.holds for block in blocks)


def layers(network: torch.nn.Module) -> list[tuple[int, int]]:
    """(inputs, outputs) of the weights of residual branches, in order, without shortcuts and heads."""
    shapes = [value.shape for key, value in network.named_parameters() if value.dim() in (2, 4) and "branch" in key]
    return [(shape[1], shape[0]) for shape in shapes]


def test_ordinary_networks_have_the_depth_and_widths_of_the_invertible_ones() -> None:
    dense = dense_classifier(5, 2, blocks=3, hidden=(8, 7), family="gram"), dense_resnet(5, 2, 3, (8, 7))
    image = image_classifier((1, 16, 16), 2, (2, 1), (8, 6), family="gram"), image_resnet((1, 16, 16), 2, (2, 1), (8, 6))
    for invertible, ordinary in (dense, image):
        assert layers(invertible) == layers(ordinary) and len(layers(ordinary)) == 9
        assert ordinary.classes == invertible.classes == 2
    large = resnet164((3, 32, 32), 10)
    convolutions = [part for part in large.modules() if isinstance(part, torch.nn.Conv2d)]
    assert len(convolutions) == 164 - 1 + 3, "three shortcuts beside 163 convolutions and the linear layer"
    assert 1.65e6 < sum(part.numel() for part in large.parameters()) < 1.75e6, "1.7 million, as published"
    with pytest.raises(ValueError, match="9 n . 2 layers, got 100"):
        resnet164((3, 32, 32), 10, depth=100)
    with pytest.raises(ValueError, match="takes no context"):
        dense_resnet(3, 2)(torch.zeros(1, 3), torch.zeros(1, 1))
    for wrong in (lambda: dense_resnet(3, 1), lambda: dense_classifier(3, 1)):
        with pytest.raises(ValueError, match="at least two classes, got 1"):
            wrong()


@pytest.mark.parametrize(
    "network",
    [
        lambda: dense_classifier(3, 2, blocks=1, hidden=(4,), base="student"),
        lambda: image_classifier((2, 8, 8), 3, (1,), (4,), pad=1),
        lambda: dense_resnet(3, 2, 1, (4,)),
        lambda: resnet164((3, 8, 8), 2, depth=11),
    ],
    ids=["dense", "image", "ordinary", "bottleneck"],
)
def test_saved_and_loaded_is_the_same(network, tmp_path: Path) -> None:
    made = randomized(network().double(), 0.5, 0).eval()
    save(made, tmp_path)
    found = load(tmp_path)
    x = torch.rand(3, *made.shape, dtype=torch.float64)
    assert type(found) is type(made) and torch.equal(found(x), made(x)) and repr(found) == repr(made)


def test_rows_without_labels_are_refused() -> None:
    task = Classify(classifier())
    with pytest.raises(ValueError, match="these rows have no labels"):
        Trainer(task, Rows(torch.randn(8, 3)), None, Settings(steps=1)).run()


def rates(network: object, rows: Rows, steps: int = 60) -> Tensor:
    """Loss and error rate told of training."""
    told: list[dict] = []
    Trainer(Classify(network), rows, None, Settings(steps=steps, batch_size=50, lr=0.02, log_every=5), [told.append]).run()
    return torch.tensor([[record["loss"], record["error"]] for record in told])


def test_training_tells_error_and_cross_entropy() -> None:
    rows = labelled(200, classes=2)
    rows = replace(rows, labels=(rows.values[:, 0] > 0).long())
    found = rates(dense_classifier(3, 2, blocks=2, hidden=(8,)).double(), rows)
    assert found.shape == (12, 2) and found[0, 1] > 0.1 and found[-1, 1] < 0.05 and found[-1, 0] < found[0, 0] / 3


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Half of the default training, from the command's own settings."""
    config = build_config(options={"task": "classify", "data.name": "digits", "train.steps": 300, "evaluate.roundtrip": 180})
    return train_run(config, tmp_path_factory.mktemp("runs") / "digits").folder


def test_digits_are_told_apart_and_found_again(digits: RunFolder) -> None:
    """c = 0.9: at most 3 % of test rows wrong, and every test row reconstructed from its features."""
    assert digits.config().model.lipschitz == 0.9
    found = evaluate_run(digits)
    assert found["error"]["value"] <= 0.03 and found["rows"] == 180
    confusion = torch.tensor(found["confusion"])
    assert confusion.sum() == 180 and confusion.diagonal().sum() == round(180 * (1 - found["error"]["value"]))
    assert reconstruct_run(digits)["max_error"] < 1e-5
    with pytest.raises(UserError, match="trained to classify: it has no density"):
        digits.flow()


@pytest.mark.parametrize("task", ["density", "hybrid"])
def test_a_density_starts_from_a_classifier(digits: RunFolder, task: str, tmp_path: Path) -> None:
    """All that maps data to latents is copied, the head too if there is one; and the other way round."""
    source, _ = digits.network()
    assert isinstance(source, Classifier)
    keys, model = ("blocks", "hidden", "lipschitz", "nonlinearity", "whiten"), digits.config().model
    same = {f"model.{key}": getattr(model, key) for key in keys}
    options = {"task": task, "data.name": "digits", "train.steps": 1, "train.lr": 1e-12, "train.ema": 0.0, **same}
    run = train_run(build_config(options=options), tmp_path / "run", init=digits.path).folder
    made, _ = run.network()
    flow, _ = run.flow()
    for key, value in source.flow.bijection.state_dict().items():
        torch.testing.assert_close(flow.bijection.state_dict()[key], value, rtol=1e-5, atol=1e-8)
    if task == "hybrid":
        assert isinstance(made, Classifier) and torch.allclose(made.linear.weight, source.linear.weight, atol=1e-6)
    back = build_config(options=options | {"task": "classify"})
    again, _ = train_run(back, tmp_path / "back", init=run.path).folder.network()
    assert isinstance(again, Classifier)
    for key, value in source.flow.bijection.state_dict().items():
        torch.testing.assert_close(again.flow.bijection.state_dict()[key], value, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model.hidden": [64, 32]}, "another architecture .*64, 64.* there, .*64, 32.* here"),
        ({"model.blocks": 3}, "another architecture"),
        ({"model.kind": "resnet"}, "an ordinary ResNet has no weights"),
    ],
)
def test_another_architecture_is_no_start(digits: RunFolder, options: dict, told: str, tmp_path: Path) -> None:
    config = build_config(options={"task": "classify", "data.name": "digits", "train.steps": 1, **options})
    with pytest.raises(UserError, match=told):
        train_run(config, tmp_path / "run", init=digits.path)
    assert not (tmp_path / "run").exists()


def test_the_flow_of_a_classifier_is_the_flow_of_its_settings() -> None:
    one = dense_classifier(3, 2, blocks=2, hidden=(8,), whiten=True, family="gram")
    other = dense_flow(3, 0, 2, (8,), family="gram", nonlinearity="elu", lipschitz=0.9)
    assert repr(one.flow) == repr(other)
