"""Models on the Hugging Face hub, or in a folder like one: weights as safetensors, a card with figures and certificate.

>>> from iresnet.interop.hub import HubModel                                      # doctest: +SKIP
>>> HubModel.of_run("runs/moons-1").push_to_hub("owner/moons")                    # doctest: +SKIP
>>> flow = HubModel.from_pretrained("owner/moons").network                        # doctest: +SKIP

A folder that ``save_pretrained`` wrote is read by :func:`iresnet.load` too. Nothing is pickled, written or read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..certify import certify
from ..checkpoint import Network, load, load_extra, save
from ..classifier import Classifier
from ..errors import UserError
from ..files import read_json, write_json
from ..flow import Flow
from ..runs import RunFolder, certify_run
from .card import card_of

try:
    from huggingface_hub import ModelCard, ModelHubMixin, constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
except ImportError as error:
    raise UserError("iresnet.interop.hub needs huggingface_hub: pip install 'iresnet[hub]'") from error

__all__ = ["HubModel"]

_MODEL = "model.safetensors"
_ABOUT = ("evaluation.json", "certificate.json")  # what a run knows of itself, beside the weights


class HubModel(ModelHubMixin, library_name="iresnet", tags=["invertible-residual-network", "normalizing-flow"]):
    """A network as the hub keeps it, with ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` of ``ModelHubMixin``.

    Parameters
    ----------
    network : a flow or a classifier that a checkpoint can name, or, built by hand, any that ``iresnet.load(into=)`` is to fill.
    extra : what belongs to the model, as in :func:`iresnet.save`: of a run, the schema of its data.
    about : JSON values for the card: "evaluation" and "certificate" as a run writes them, "data" and "steps" of its training.
    """

    def __init__(self, network: Network, extra: dict[str, Any] | None = None, about: dict[str, Any] | None = None) -> None:
        self.network, self.extra, self.about = network, extra or {}, about or {}

    @classmethod
    def of_run(cls, folder: str | Path) -> HubModel:
        """The best weights of a run, with its figures and its certificate.

        Raises
        ------
        UserError
            If there is no run, or it has saved no weights.
        """
        run = RunFolder.open(folder)
        network, _ = run.network()
        status, about = run.status(), {}
        for name in _ABOUT:
            if (run.path / name).is_file():
                about[name.removesuffix(".json")] = read_json(run.path / name)
        if "certificate" not in about:
            about["certificate"] = certify_run(run)
        data = {
            key: status["data"][key] for key in ("name", "kind", "rows") if key in status["data"]
        }  # a path is nobody's business
        about |= {"data": data, "steps": status.get("step")}
        return cls(network, load_extra(run.path), about)

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.network, save_directory, extra=self.extra)
        for name in _ABOUT:
            if (content := self.about.get(name.removesuffix(".json"))) is not None:
                write_json(save_directory / name, content)
        told = {key: value for key, value in self.about.items() if f"{key}.json" not in _ABOUT}
        write_json(save_directory / "config.json", {"library": "iresnet", "about": told})

    @classmethod
    def _from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, *, model_id: str, about: dict[str, Any] | None = None, **options: Any
    ) -> HubModel:
        """From a folder, or downloaded into the hub's cache."""
        folder, about = Path(model_id), dict(about or {})
        options = {key: value for key, value in options.items() if key not in ("extra", "network")}
        if not folder.is_dir():
            folder = Path(hf_hub_download(model_id, _MODEL, **options)).parent
            for name in _ABOUT:
                try:
                    hf_hub_download(model_id, name, **options)
                except EntryNotFoundError:  # a model that was not of a run
                    continue
        for name in _ABOUT:
            if (folder / name).is_file():
                about[name.removesuffix(".json")] = read_json(folder / name)
        return cls(load(folder), load_extra(folder), about)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> HubModel:  # type: ignore[override]
        """The model of a folder, or of the hub's ``owner/name``; options as in ``ModelHubMixin.from_pretrained``.

        Raises
        ------
        UserError
            If there is none, it is damaged, or the hub cannot be reached.
        """
        name = str(pretrained_model_name_or_path)
        if not Path(name).is_dir() and (name.count("/") != 1 or name.startswith((".", "/"))):
            raise UserError(f"{name} is neither a folder nor a name on the hub, such as owner/name")
        try:
            return super().from_pretrained(name, **options)  # type: ignore[return-value]
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{name} cannot be had from {constants.ENDPOINT}: {_first(error)}") from error

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # type: ignore[override]
        """Upload weights, figures and card to ``owner/name``; the address of the commit. Options as ``ModelHubMixin``'s.

        Raises
        ------
        UserError
            If the hub cannot be reached or refuses.
        """
        try:
            return super().push_to_hub(repo_id, **options)
        except UserError:
            raise
        except Exception as error:
            told = f"cannot push to {repo_id} at {constants.ENDPOINT}: {_first(error)}"
            raise UserError(f"{told}; see that the network is there and that `hf auth login` has been run") from error

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card: what the model is, how to use it, its figures with their errors, and what is guaranteed of each block."""
        about = self.about
        if "certificate" not in about:
            flow = self.network.flow if isinstance(self.network, Classifier) else self.network
            about = about | ({"certificate": certify(flow).to_dict()} if isinstance(flow, Flow) else {})
        data = self._hub_mixin_info.model_card_data.to_dict()
        return ModelCard(card_of(self.network, self.extra, about, data))


def _first(error: Exception) -> str:
    """An error's first line, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
