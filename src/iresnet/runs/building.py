"""From a configuration to a network and its task: what a run trains, and the weights it starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import models
from ..bases import NormalMixture
from ..checkpoint import Network, load
from ..classifier import Classifier
from ..config import Config, ModelConfig
from ..data import Augmentation, Dataset, ImageSchema
from ..errors import UserError
from ..fitting import start
from ..flow import Flow
from ..literals import parse_logdet
from ..models.classifiers import constraint
from ..tasks.base import Task
from ..tasks.classify import Classify
from ..tasks.density import Density
from ..tasks.hybrid import Hybrid
from ..tasks.rows import Rows
from .folder import RunFolder, rows_of

__all__ = ["begin", "build_network", "build_task", "flow_of", "model_of", "pixel_alpha", "training_rows"]


_ENTRIES = 2**22  # numbers of images that ActNorm is set from
_SIDES = 14  # shifts go up to a fourteenth of an image's side: two pixels of MNIST, none of 8 x 8

# The papers' alpha for MNIST and for natural images, the share of black and white pixels that decides, and of how many images.
_SHARP, _SOFT, _MANY, _SOME = 1e-6, 0.05, 0.1, 1000


def build_network(config: Config, dataset: Dataset) -> Network:
    """The untrained network that a configuration asks for; its weights are a function of the seed.

    Raises
    ------
    UserError
        If the task does not go with the data or with the model.
    """
    if config.task != "density":
        _need_classes(config, dataset)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        try:
            network = _assemble(config, dataset)
        except ValueError as error:
            raise UserError(f"cannot build the model: {error}") from error
    flow = flow_of(network)
    if config.train.logdet is not None and flow is not None:
        flow.train_logdet = parse_logdet(config.train.logdet)
    return network


def _need_classes(config: Config, dataset: Dataset) -> None:
    if dataset.label is None:
        images = "put images into a folder for each class, or y_train beside x_train"
        told = images if dataset.kind == "images" else "give --label COLUMN, a column of classes"
        raise UserError(f"{config.task} needs classes, and {dataset.name} names none: {told}")
    if len(dataset.levels) < 2:
        only = "".join(dataset.levels)
        raise UserError(f"{dataset.label} of {dataset.name} is always {only}: {config.task} needs two classes or more")


def _assemble(config: Config, dataset: Dataset) -> Network:
    model = config.model
    if config.task != "classify":
        for name, told in (("kind", model.kind != "iresnet"), ("lipschitz", model.lipschitz == "free"), ("pad", model.pad > 0)):
            if told:
                value = getattr(model, name)
                raise ValueError(f"task {config.task} needs a network with a density: model.{name}={value} is for classify")
    if config.train.penalty and model.kind != "iresnet":
        raise ValueError("train.penalty is for residual branches, and an ordinary ResNet has none that it knows")
    if isinstance(dataset.schema, ImageSchema):
        return _assemble_images(config, dataset, dataset.schema)
    features, context, classes = dataset.features, dataset.schema.context_width, len(dataset.levels)
    if model.kind == "resnet164" or model.pad:
        raise ValueError("model.kind=resnet164 and model.pad are for images")
    shared: dict[str, Any] = {"blocks": model.blocks, "hidden": tuple(model.hidden)}
    if model.kind == "resnet":
        if context:
            raise ValueError("an ordinary ResNet takes no --context")
        return models.dense_resnet(features, classes, **shared)
    shared |= {"context": context, "whiten": model.whiten, "nonlinearity": model.nonlinearity}
    shared |= {"base": model.base, "components": model.components}
    lipschitz = None if model.lipschitz == "free" else model.lipschitz
    if config.task != "density":
        return models.dense_classifier(
            features, classes, lipschitz=lipschitz, per=model.lipschitz_per, family=model.family, **shared
        )
    constant, family = constraint(lipschitz, model.lipschitz_per, len(model.hidden) + 1, model.family)
    return models.dense_flow(features, lipschitz=constant, family=family, **shared)


def _assemble_images(config: Config, dataset: Dataset, schema: ImageSchema) -> Network:
    model, classes = config.model, len(dataset.levels)
    shape, blocks, hidden = schema.shape, blocks_of(model), tuple(model.hidden)
    if model.kind == "resnet164":
        return models.resnet164(shape, classes, levels=schema.levels)
    if model.kind == "resnet":
        return models.image_resnet(shape, classes, blocks, hidden, model.pad, schema.levels)
    shared: dict[str, Any] = {
        "split": model.split,
        "dense": model.dense,
        "alpha": pixel_alpha(config, dataset, schema),
        "levels": schema.levels,
        "base": model.base,
        "preactivate": model.preactivate,
    }
    lipschitz = None if model.lipschitz == "free" else model.lipschitz
    if config.task != "density":
        shared |= {"per": model.lipschitz_per, "pad": model.pad, "head": model.head}
        shared |= {"family": model.family, "nonlinearity": model.nonlinearity}
        return models.image_classifier(shape, classes, blocks, hidden, lipschitz, **shared)
    if schema.context and len(dataset.levels) < 2:
        raise ValueError(f"{dataset.label} of {dataset.name} is always {''.join(dataset.levels)}: leave --label out")
    constant, family = constraint(lipschitz, model.lipschitz_per, len(hidden) + 1, model.family)
    return models.image_flow(shape, schema.context_width or None, blocks, hidden, constant, family, model.nonlinearity, **shared)


def pixel_alpha(config: Config, dataset: Dataset, schema: ImageSchema) -> float | None:
    """The alpha of the logit. Where many pixels are black or white, a density has to tell them from what is nearly so."""
    given = config.model.alpha
    if given == "none":
        return None
    if given != "auto":
        return given
    some = dataset.train.values[:_SOME]
    extreme = float(((some == 0) | (some == schema.levels - 1)).float().mean())
    return _SHARP if config.task != "classify" and extreme > _MANY else _SOFT


def blocks_of(model: ModelConfig) -> tuple[int, ...]:
    """The blocks of each stage of an image flow; a single number is one stage."""
    return (model.blocks,) if isinstance(model.blocks, int) else tuple(model.blocks)


def build_task(config: Config, network: Network) -> Task:
    """The task that a configuration asks for."""
    train = config.train
    if isinstance(network, Flow):
        return Density(network)
    if config.task == "hybrid" and isinstance(network, Classifier):
        return Hybrid(network, train.weight, train.smoothing)
    return Classify(network, train.smoothing)


def training_rows(config: Config, dataset: Dataset) -> tuple[Rows, Rows]:
    """The rows to train on, and those held out to choose the best weights."""
    data, settled = config.data, config.task == "classify"
    train, validation = (rows_of(dataset, split, settled=settled) for split in ("train", "validation"))
    if data.crop or data.flip:
        if not isinstance(dataset.schema, ImageSchema):
            raise UserError("data.crop and data.flip are for images")
        crop = min(dataset.schema.shape[1:]) // _SIDES if data.crop == "auto" else data.crop
        train = replace(train, augment=Augmentation(crop, data.flip)) if crop or data.flip else train
    return train, validation.spread(config.train.validation_rows)


def flow_of(network: Network) -> Flow | None:
    """The invertible part of a network, if it has one."""
    if isinstance(network, Classifier):
        return network.flow
    return network if isinstance(network, Flow) else None


def begin(network: Network, train: Rows, init: str | Path | None, seed: int) -> None:
    """All that fits from another run; what is then not set (whitening, ActNorm, a mixture base) from the training rows."""
    if init is not None:
        _take_over(network, init)
    flow = flow_of(network)
    unset = flow is not None and isinstance(flow.base, NormalMixture) and not bool(flow.base.initialized)
    if flow is None or not (init is None or unset):
        return
    most = max(_ENTRIES // train.values[0].numel(), 16) if train.values.dim() > 2 else 50_000
    batch = train.all(torch.zeros((), dtype=torch.float64), most=most)
    x = batch.x.to(network.anchor.device)
    start(flow, network.widen(x) if isinstance(network, Classifier) else x, batch.context, seed=seed)


def model_of(init: str | Path) -> dict[str, Any]:
    """The settings ``model.*`` of another run, whose weights fit no other model; of a folder that is no run nothing."""
    if not (Path(init) / "run.json").is_file():
        return {}
    folder = RunFolder(Path(init))
    found = {f"model.{key}": value for key, value in folder.config().model.model_dump().items() if value is not None}
    arguments = folder.status().get("model", {}).get("arguments", {})
    return found | ({"model.alpha": arguments["alpha"]} if "alpha" in arguments else {})  # as it was found in those data


def _take_over(network: Network, init: str | Path) -> None:
    """All weights of a run, or those of its bijection where only heads and bases differ."""
    other = load(init, device=network.anchor.device)
    if repr(other) == repr(network):
        network.load_state_dict(other.state_dict())
        return
    mine, theirs = flow_of(network), flow_of(other)
    if mine is None or theirs is None or repr(mine.bijection) != repr(theirs.bijection) or repr(mine.embed) != repr(theirs.embed):
        raise UserError(
            f"--init {init}: that run has another architecture{_difference(mine, theirs)}; "
            "give the same --set model.* values and data columns"
        )
    # From one task to another: what maps data to latents is the same, heads and bases are not.
    mine.bijection.load_state_dict(theirs.bijection.state_dict())
    if mine.embed is not None and theirs.embed is not None:
        mine.embed.load_state_dict(theirs.embed.state_dict())


def _difference(mine: Flow | None, theirs: Flow | None) -> str:
    """The first line in which two bijections differ, so that one sees which setting it was."""
    if mine is None or theirs is None:
        return ", and an ordinary ResNet has no weights that an invertible network could use"
    pairs = zip(repr(mine.bijection).splitlines(), repr(theirs.bijection).splitlines(), strict=False)
    ours, other = next(((a.strip(), b.strip()) for a, b in pairs if a != b), ("", ""))
    return f" ({other} there, {ours} here)" if ours else " (one is deeper)"
