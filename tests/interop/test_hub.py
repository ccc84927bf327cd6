"""Models as the hub keeps them: the card, the way to a folder and back, and what an unreachable hub is answered with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import iresnet
from iresnet.config import build_config
from iresnet.data import read_schema
from iresnet.errors import UserError
from iresnet.files import read_json
from iresnet.rounding import lipschitz_text
from iresnet.runs import RunFolder, certify_run, evaluate_run, train_run

huggingface_hub = pytest.importorskip("huggingface_hub")

from iresnet.interop.hub import HubModel  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two columns, trained for a moment, evaluated and certified."""
    folder = tmp_path_factory.mktemp("hub") / "run"
    options = {"data.name": "moons", "data.n": 300, "model.blocks": 1, "model.hidden": [8], "train.steps": 3}
    train_run(build_config(preset="quick", options=options), folder)
    evaluate_run(RunFolder.open(folder))
    certify_run(RunFolder.open(folder))
    return folder


def test_a_run_goes_to_a_folder_and_back(run: Path, tmp_path: Path) -> None:
    HubModel.of_run(run).save_pretrained(tmp_path / "model")
    assert {"README.md", "model.safetensors", "config.json", "evaluation.json", "certificate.json"} <= {
        one.name for one in (tmp_path / "model").iterdir()
    }
    found, x = HubModel.from_pretrained(tmp_path / "model"), torch.randn(5, 2)
    for flow in (found.network, iresnet.load(tmp_path / "model")):
        assert torch.equal(flow(x), iresnet.load(run)(x))
    assert read_schema(found.extra["schema"]).features == 2
    found.save_pretrained(tmp_path / "again")
    for name in ("README.md", "model.safetensors", "config.json", "evaluation.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes(), name


def test_the_card_says_what_the_run_says(run: Path) -> None:
    card = HubModel.of_run(run).generate_model_card()
    evaluation, certificate = read_json(run / "evaluation.json"), read_json(run / "certificate.json")
    assert card.data.library_name == "iresnet" and "normalizing-flow" in (card.data.tags or [])
    [result] = card.data.eval_results or []
    assert result.metric_value == pytest.approx(evaluation["log_prob"]["value"], abs=1e-5)
    figures, block = evaluation["log_prob"], certificate["blocks"][0]
    assert (
        f"| log p, nats per row | {figures['value']:.4f} | {figures['stderr_estimator']:.3g} | {figures['stderr_data']:.3g} |"
        in card.text
    )
    assert "Every block is certified invertible" in card.text
    assert f"| {block['name']} | sandwich | sound | {lipschitz_text(block['bound'])} | " in card.text
    assert str(run.parent) not in str(card), "a card tells nothing of the machine"


def test_the_card_s_usage_runs(run: Path, tmp_path: Path) -> None:
    HubModel.of_run(run).save_pretrained(tmp_path / "model")
    found = re.search(r"```python\n(.*?)```", (tmp_path / "model" / "README.md").read_text(encoding="utf-8"), re.S)
    assert found is not None
    names = {"x": torch.randn(3, 2)}
    exec(found[1].replace("owner/name", str(tmp_path / "model")), names)
    assert names["log_prob"].shape == (3,) and names["x"].shape == (16, 2)  # type: ignore[attr-defined]


def test_a_flow_without_a_run_is_certified_for_its_card(tmp_path: Path) -> None:
    flow = iresnet.dense_flow(2, 3, blocks=1, hidden=(4,))
    HubModel(flow).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "log_prob(x, context)" in text and "certified invertible" in text and "held-out" not in text
    free = HubModel(iresnet.dense_flow(2, blocks=1, hidden=(4,), family="free"))
    assert "sound" not in free.generate_model_card().text


def test_a_classifier_has_a_card() -> None:
    network = iresnet.models.dense_classifier(4, 3, blocks=1, hidden=(8,))
    card = HubModel(network, about={"evaluation": {"rows": 10, "split": "test", "error": {"value": 0.25, "stderr": 0.1}}})
    text = str(card.generate_model_card())
    assert "logits = model.network(x)" in text and "| error rate | 0.2500 |" in text and "tabular-classification" in text


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor a name on the hub"):
        HubModel.from_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match="holds no flow"):
        HubModel.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="owner/nothing cannot be had from"):
        HubModel.from_pretrained("owner/nothing", local_files_only=True, cache_dir=tmp_path)
    with pytest.raises(UserError, match="not a run folder"):
        HubModel.of_run(tmp_path)


def test_an_unreachable_hub_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client, pointed to a port where nobody listens."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="^cannot push to owner/name at http://127.0.0.1:9: .*hf auth login.*$") as found:
        HubModel(iresnet.dense_flow(2, blocks=1, hidden=(4,))).push_to_hub("owner/name")
    assert "\n" not in str(found.value)
