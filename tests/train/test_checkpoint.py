"""Flows on disk: what comes back is what was saved, bit for bit, and what cannot be is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

import iresnet
from iresnet import Flow, UserError, dense_flow
from iresnet.bases import StandardNormal
from iresnet.bijections import ActNorm, Chain, Residual
from iresnet.checkpoint import load_extra
from iresnet.contract import FAMILIES, dense_branch
from iresnet.models import BASES
from iresnet.testing import randomized

FILE = "model.safetensors"


def rows(count: int = 40, columns: int = 3, seed: int = 0) -> Tensor:
    mix = torch.eye(columns) + 0.3 * torch.ones(columns, columns).tril()
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ mix.double()


def made(context: int = 0, dtype: torch.dtype = torch.float32, **more: object) -> Flow:
    """A flow whose every weight has moved."""
    flow = dense_flow(3, context, **{"blocks": 2, "hidden": (8,), **more}).to(dtype)  # type: ignore[arg-type]
    flow.initialize(rows(), rows(columns=context, seed=1) if context else None)
    state = {key: value.clone() for key, value in flow.state_dict().items()}
    randomized(flow, 0.3)
    # Whitening's statistics stay those of the rows: drawn at random they would be no whitening.
    flow.load_state_dict({key: value for key, value in state.items() if "0." in key[:14]}, strict=False)
    return flow.eval()


def same(left: Flow, right: Flow, context: int = 0) -> None:
    assert repr(left) == repr(right)
    mine, theirs = left.state_dict(), right.state_dict()
    assert list(mine) == list(theirs)
    for key, value in mine.items():
        assert value.dtype == theirs[key].dtype and torch.equal(value, theirs[key]), key
    given = rows(columns=context, seed=1) if context else None
    assert torch.equal(left.log_prob(rows(), given), right.log_prob(rows(), given))
    noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    certain = iresnet.certify(left).holds
    if certain:
        draws = [f.sample(5, None if given is None else given[0], generator=g) for f, g in zip((left, right), noise, strict=True)]
        assert torch.equal(*draws)


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(tmp_path: Path, family: str, base: str, context: int) -> None:
    flow = made(context, family=family, base=base)
    iresnet.save(flow, tmp_path)
    found = iresnet.load(tmp_path)
    assert not found.training
    same(flow, found, context)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("more", [{"nonlinearity": "elu"}, {"hidden": (8, 4, 6)}, {"lipschitz": 0.5}, {"whiten": False}])
def test_round_trip_of_arguments_and_precision(tmp_path: Path, dtype: torch.dtype, more: dict) -> None:
    flow = made(dtype=dtype, **more)
    iresnet.save(flow, tmp_path)
    found = iresnet.load(tmp_path)
    assert found.base.anchor.dtype == dtype
    same(flow, found)


def test_a_flow_whitened_from_rows_needs_no_rows_to_come_back(tmp_path: Path) -> None:
    flow = dense_flow(3, blocks=1, hidden=(8,), whiten=rows()).eval()
    iresnet.save(flow, tmp_path)
    same(flow, iresnet.load(tmp_path))


def test_into_a_flow_that_exists(tmp_path: Path) -> None:
    flow, other = made(), dense_flow(3, blocks=2, hidden=(8,))
    iresnet.save(flow, tmp_path)
    assert iresnet.load(tmp_path, into=other) is other
    same(flow, other)
    with pytest.raises(UserError, match="weights do not fit this flow"):
        iresnet.load(tmp_path, into=dense_flow(3, blocks=3, hidden=(8,)))
    with pytest.raises(UserError, match="weights do not fit this flow: size mismatch"):
        iresnet.load(tmp_path, into=dense_flow(3, blocks=2, hidden=(9,)))


def by_hand() -> Flow:
    parts: list[nn.Module] = [ActNorm(3), Residual(dense_branch("gram", 3, (8,), 0.9, "elu", 0)), ActNorm(3)]
    flow = Flow(Chain(parts), StandardNormal(3))  # type: ignore[arg-type]
    flow.initialize(rows())
    return flow.eval()


def test_a_flow_built_by_hand(tmp_path: Path) -> None:
    flow = by_hand()
    iresnet.save(flow, tmp_path)
    with pytest.raises(UserError, match="built by hand; build it again and load with into=flow"):
        iresnet.load(tmp_path)
    same(flow, iresnet.load(tmp_path, into=by_hand()))


def test_what_belongs_to_the_model_comes_along(tmp_path: Path) -> None:
    iresnet.save(made(), tmp_path)
    assert load_extra(tmp_path) == {}
    extra = {"schema": {"columns": ["a", "b"], "scale": [0.1, 1e-300]}}
    iresnet.save(made(), tmp_path, extra=extra)
    assert load_extra(tmp_path) == extra
    told = json.loads((tmp_path / "recipe.json").read_text())
    assert told["recipe"] == {"name": "dense_flow", "arguments": {"features": 3, "context": 0, "blocks": 2, "hidden": [8]}}
    assert told["version"] == iresnet.__version__ and told["dtype"] == "float32"


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    """Anyone can read it, and nothing in it can run."""
    flow = made()
    iresnet.save(flow, tmp_path)
    with safe_open(tmp_path / FILE, "pt") as file:
        assert set(file.keys()) == set(flow.state_dict())
        assert "iresnet" in file.metadata()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [FILE, "recipe.json"]
    for name in files:
        content = (tmp_path / name).read_bytes()
        assert not content.startswith((b"\x80", b"PK")), f"{name} looks like a pickle or an archive of one"


def changed(folder: Path, **changes: object) -> None:
    """Write the file again with other entries in its header."""
    data = (folder / FILE).read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    header = json.loads(metadata["iresnet"]) | changes
    (folder / FILE).write_bytes(save_bytes(load_bytes(data), {"iresnet": json.dumps(header)}))


def test_another_version_that_builds_another_model(tmp_path: Path) -> None:
    iresnet.save(made(), tmp_path)
    changed(tmp_path, version="0.0.1")
    iresnet.load(tmp_path)  # an older version whose model is the same is welcome
    changed(tmp_path, repr="Flow(something else)", version="0.0.1")
    with pytest.raises(UserError, match=r"builds another model than 0\.0\.1 did; use that version"):
        iresnet.load(tmp_path)


@pytest.mark.parametrize("name", ["no_such_assembly", "__import__", "BASES", "annotations"])
def test_only_assemblies_are_called(tmp_path: Path, name: str) -> None:
    iresnet.save(made(), tmp_path)
    changed(tmp_path, recipe={"name": name, "arguments": {}})
    with pytest.raises(UserError, match=f"no assembly '{name}'"):
        iresnet.load(tmp_path)


BAD = {
    "unknown argument": {"recipe": {"name": "dense_flow", "arguments": {"features": 3, "wings": 2}}},
    "wrong type": {"recipe": {"name": "dense_flow", "arguments": {"features": "three"}}},
    "impossible value": {"recipe": {"name": "dense_flow", "arguments": {"features": 3, "lipschitz": 2.0}}},
    "no arguments": {"recipe": {"name": "dense_flow"}},
    "no recipe at all": {"recipe": 3},
    "strange precision": {"dtype": "nn"},
}


@pytest.mark.parametrize("case", BAD)
def test_recipes_that_build_nothing(tmp_path: Path, case: str) -> None:
    iresnet.save(made(), tmp_path)
    changed(tmp_path, **BAD[case])
    with pytest.raises(UserError, match=FILE):
        iresnet.load(tmp_path)


def test_missing_and_additional_weights(tmp_path: Path) -> None:
    flow = made()
    iresnet.save(flow, tmp_path)
    data = (tmp_path / FILE).read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    tensors = load_bytes(data)
    name = next(iter(tensors))
    (tmp_path / FILE).write_bytes(save_bytes({k: v for k, v in tensors.items() if k != name}, metadata))
    with pytest.raises(UserError, match="Missing key"):
        iresnet.load(tmp_path)
    (tmp_path / FILE).write_bytes(save_bytes(tensors | {"wings": torch.zeros(2)}, metadata))
    with pytest.raises(UserError, match="Unexpected key"):
        iresnet.load(tmp_path)


def test_folders_without_a_flow(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        iresnet.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no flow"):
        iresnet.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        iresnet.save(made(), tmp_path / "file" / "folder")
