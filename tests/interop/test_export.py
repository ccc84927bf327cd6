"""Exported programs: traced, written, read back, and as far from the model as they say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import iresnet
from iresnet.data.columns import Column
from iresnet.data.schema import Schema
from iresnet.errors import UserError
from iresnet.interop.export import Exported, export_flow, fixed_estimator
from iresnet.interop.frozen import FixedNoise, freeze
from iresnet.interop.graphs import read_metadata, run_file
from iresnet.interop.programs import Looped, Units, eliminate


def trained(flow: iresnet.Flow, x: Tensor, context: Tensor | None = None, amount: float = 0.3) -> iresnet.Flow:
    """``flow`` set up by x, with parameters as far from the identity as training leaves them."""
    flow.initialize(x, context)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            parameter += (0.05 if "log_scale" in name else amount) * torch.randn_like(parameter)
    return flow.eval()


SCHEMA = Schema(
    (
        Column("real", center=3.0, scale=2.0),
        Column("positive", support="positive", center=0.5, scale=0.7),
        Column("bounded", support="bounded", low=-1.0, high=4.0, scale=1.5),
    )
)


def table() -> tuple[iresnet.Flow, Tensor]:
    x = torch.randn(40, 3)
    return trained(iresnet.dense_flow(3, blocks=1, hidden=(8, 8)), x), x


def test_elimination_is_slogdet() -> None:
    """Also where pivots are needed, and for determinants beyond the range of numbers."""
    eye = torch.eye(6).double()[None]
    matrices = torch.cat([torch.randn(20, 6, 6).double(), eye.flip(1), 1e200 * eye])
    assert torch.allclose(eliminate(matrices), torch.linalg.slogdet(matrices).logabsdet, atol=1e-10)


def test_units_are_the_schema_s() -> None:
    z = torch.randn(9, 3).double()
    values = SCHEMA.decode(z, continuous=True)
    numbers = {
        key: torch.tensor([float(getattr(one, key)) for one in SCHEMA.columns]).double()
        for key in ("low", "high", "center", "scale")
    }
    places = {kind: torch.tensor([one.support == kind for one in SCHEMA.columns]) for kind in ("positive", "bounded")}
    units = Units(**numbers, **places)
    encoded, volume = units.encode(values)
    expected, jacobian = SCHEMA.encode(values, continuous=True)
    assert torch.allclose(encoded, expected) and torch.allclose(volume, jacobian, atol=1e-12)
    assert torch.allclose(units.decode(z), values)


@pytest.mark.parametrize("base", ["normal", "student", "mixture"])
@pytest.mark.parametrize("family", ["sandwich", "gram"])
def test_a_frozen_flow_is_the_flow(family: str, base: str) -> None:
    """Constrained once, at every context, in both precisions; and the fixed probes are evaluation's."""
    x, c = torch.randn(40, 3), torch.randn(40, 2)
    flow = trained(iresnet.dense_flow(3, 2, blocks=2, hidden=(8, 8), family=family, base=base, nonlinearity="elu"), x, c)
    for dtype, tol in ((torch.float32, 2e-5), (torch.float64, 1e-11)):
        frozen, model = freeze(flow, dtype), flow.to(dtype)
        for logdet in (iresnet.Exact(), iresnet.PowerSeries(terms=4, probes=2)):
            found = frozen.log_prob(x.to(dtype), c.to(dtype), logdet=logdet, noise=FixedNoise())
            assert torch.allclose(found, model.log_prob(x.to(dtype), c.to(dtype), logdet=logdet), rtol=tol, atol=tol)


def odd(decode: Callable[[torch.Tensor], list[torch.Tensor]], z: torch.Tensor) -> None:
    """What is no number has no guaranteed error, whatever stands beside it."""
    broken = z[:3].clone()
    broken[0, 1], broken[2, 0] = math.nan, math.inf
    (x, bound, error), (alone, its_bound, _) = decode(broken), decode(z[:3])
    assert math.isnan(x[0, 1]) and bound[[0, 2]].isinf().all() and not error[[0, 2]].isfinite().any()
    assert torch.allclose(x[1], alone[1]) and float(bound[1]) == pytest.approx(float(its_bound[1])) and float(bound[1]) < 1e-6


def test_torch_programs(tmp_path: Path) -> None:
    """The user's units in and out, batches of another size, what a file says of itself, and honest errors."""
    flow, x = table()
    found = export_flow(flow, tmp_path / "flow.pt2", x, kind="torch", schema=SCHEMA, about={"run": "mine"})
    assert [one.program for one in found] == ["encode", "log_prob", "decode"] and all(one.holds for one in found)
    assert all(one.difference < 1e-12 for one in found) and [one.rows for one in found] == [40] * 3
    values = SCHEMA.decode(torch.randn(7, 3), continuous=True)
    z, (log_prob, stderr, bias) = run_file(found[0].path, [values])[0], run_file(found[1].path, [values])
    rows, volume = SCHEMA.encode(values, continuous=True)
    model = flow.double()
    assert torch.allclose(z, model.encode(rows)) and torch.allclose(log_prob, model.log_prob(rows) + volume)
    assert not stderr.any() and float(bias.max()) < 1e-10
    back, bound, error = run_file(found[2].path, [z[:1]])  # one row alone
    assert torch.allclose(back, values[:1], atol=1e-9)
    assert float(bound) < 1e-9 and float(error) < 1e-8
    odd(lambda z: run_file(found[2].path, [z]), z)
    assert [one.shape for one in run_file(found[2].path, [z[:0]])] == [(0, 3), (0,), (0,)]
    told = read_metadata(found[1].path)
    assert told["names"] == ["real", "positive", "bounded"] and told["units"] == "the columns'" and told["run"] == "mine"
    assert told["inputs"] == ["x"] and told["dtype"] == "float64" and told["certified"] and told["lipschitz"] == [0.97]
    assert Schema.from_dict(told["schema"]) == SCHEMA


def test_estimated_determinants_are_exported_with_their_error(tmp_path: Path) -> None:
    flow, x = table()
    [one] = export_flow(
        flow, tmp_path / "p.pt2", x, kind="torch", programs=["log_prob"], logdet=iresnet.PowerSeries(terms=3, probes=4)
    )
    assert one.holds and one.path == tmp_path / "p.pt2"
    value, stderr, bias = run_file(one.path, [x.double()])
    truth = flow.double().log_prob(x.double())
    assert float(stderr.min()) > 0
    assert bool(((value - truth).abs() <= 8 * stderr + bias).all())


def test_the_number_of_terms_is_found() -> None:
    flow, x = table()
    found = fixed_estimator(iresnet.Krylov(probes=3), flow, x)
    assert isinstance(found, iresnet.PowerSeries) and found.probes == 3 and found.terms is not None
    assert float(flow.estimate(x, logdet=found).bias.max()) <= 1e-3
    coarse = fixed_estimator(iresnet.Krylov(probes=3), flow, x, tol=1e3)
    assert isinstance(coarse, iresnet.PowerSeries) and coarse.terms == 4


def test_the_loop_is_certified() -> None:
    """Each row within its stated bound, given up where steps are not enough, and the same alone."""
    bound = iresnet.contract.SandwichBranch(3, (8, 8), 0.9).double()
    with torch.no_grad():
        for parameter in bound.parameters():
            parameter += torch.randn_like(parameter)
        function = bound.bind()
        x = 3 * torch.randn(20, 3).double()
        y = x + function(x)
        found = Looped(1e-10)(function, y)
        error = (found.value - x).norm(dim=1)
        assert bool(found.converged.all()) and bool((error <= found.error_bound).all())
        assert torch.allclose(Looped(1e-10)(function, y[3:5]).value[0], found.value[3], atol=1e-13)
        assert int(found.steps.min()) > 3
        short = Looped(1e-10, max_steps=3)(function, y)
        assert not bool(short.converged.any()) and short.steps.tolist() == [3] * 20
        assert bool(((short.value - x).norm(dim=1) <= short.error_bound).all())


def test_refusals(tmp_path: Path) -> None:
    flow, x = table()
    for named, message in (
        ({"kind": "tensorflow"}, "the format is onnx or torch"),
        ({"programs": ["samples"]}, "what can be exported is encode, log_prob, decode, not 'samples'"),
        ({"programs": []}, "not nothing"),
        ({"precision": "bfloat16"}, "float32 or float64, got 'bfloat16'"),
        ({"logdet": iresnet.PowerSeries(roulette="adaptive")}, "cannot be exported; give Exact"),
        ({"solver": iresnet.Anderson()}, "Picard's iteration"),
    ):
        with pytest.raises(UserError, match=message):
            export_flow(flow, tmp_path / "f", x, **{"kind": "torch"} | named)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="two rows or more, got 1"):
        export_flow(flow, tmp_path / "f", x[:1], kind="torch")
    with pytest.raises(UserError, match=r"ends in .onnx, but files of the format torch end in .pt2"):
        export_flow(flow, tmp_path / "f.onnx", x, kind="torch", programs=["encode"])
    free = trained(iresnet.dense_flow(3, blocks=1, hidden=(8,), family="free"), x, amount=5.0)
    with pytest.raises(UserError, match="not certainly invertible .* leave decode out"):
        export_flow(free, tmp_path / "f", x, kind="torch")
    assert list(tmp_path.iterdir()) == []


def test_a_difference_above_the_tolerance_is_told(tmp_path: Path) -> None:
    flow, x = table()
    [one] = export_flow(flow, tmp_path / "f", x, kind="torch", programs=["encode"], precision="float32", tol=1e-12)
    assert not one.holds and "ABOVE 1e-12" in str(one)
    assert not Exported("encode", one.path, 2, float("inf"), 1e300).holds


@pytest.mark.slow
def test_onnx_of_a_table(tmp_path: Path) -> None:
    """By ONNX Runtime without torch: NumPy in and out, in the user's units, with a context."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    x, c = torch.randn(40, 3), torch.randn(40, 2)
    flow = trained(iresnet.dense_flow(3, 2, blocks=1, hidden=(8, 8), nonlinearity="elu", base="student"), x, c)
    found = export_flow(flow, tmp_path / "flow.onnx", x, c, schema=SCHEMA)
    assert all(one.holds and one.difference < 1e-7 for one in found), found
    rows, context = SCHEMA.decode(torch.randn(5, 3), continuous=True).numpy(), np.random.randn(5, 2)
    session = onnxruntime.InferenceSession(found[1].path)
    (log_prob,) = session.run(["log_prob"], {"x": rows, "context": context})
    encoded, volume = SCHEMA.encode(torch.from_numpy(rows), continuous=True)
    truth = flow.double().log_prob(encoded, torch.from_numpy(context)).detach() + volume
    assert np.allclose(log_prob, truth, atol=1e-6)
    decode = onnxruntime.InferenceSession(found[2].path)
    latent = flow.encode(encoded, torch.from_numpy(context)).detach()

    def run(z: torch.Tensor) -> list[torch.Tensor]:
        given = {"z": z.numpy(), "context": np.resize(context, (len(z), 2))}
        return [torch.from_numpy(one) for one in decode.run(["x", "block_bound", "latent_error"], given)]

    odd(run, latent)
    told = json.loads(session.get_modelmeta().custom_metadata_map["iresnet"])
    assert told == read_metadata(found[1].path) and told["inputs"] == ["x", "context"]
    assert [one.shape[1:] for one in session.get_inputs()] == [[3], [2]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_digits_in_float32(kind: str, tmp_path: Path) -> None:
    """64 columns of levels, exact determinants by elimination or LAPACK, within 1e-5 of the model in float32."""
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    rows = iresnet.data.load("digits", seed=0).train
    x = (rows.values[:300].double() + torch.rand(300, 64).double()).float()
    flow = trained(iresnet.dense_flow(64, blocks=1, hidden=(32, 32)), x, amount=0.1)
    found = export_flow(flow, tmp_path / "digits", x[:64], kind=kind, precision="float32")
    assert all(one.difference <= 1e-5 for one in found), found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_images_of_mnist_s_shape(kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    x = 256 * torch.rand(16, 1, 28, 28)
    flow = trained(iresnet.image_flow((1, 28, 28), blocks=(1,), hidden=8), x, amount=0.1)
    found = export_flow(flow, tmp_path / "images", x, kind=kind)
    assert all(one.difference <= 1e-5 for one in found), found
