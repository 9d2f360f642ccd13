"""What a test of each module reports: a user's evaluator too, and each number in the unit that the data say."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from lvm_lightning.data import ExponentialObservations
from lvm_lightning.data.loader import Batch
from lvm_lightning.data.protocol import Description
from lvm_lightning.densities import ContinuousBernoulli, Gaussian, PixelwiseGaussian
from lvm_lightning.evaluation import LOG_P, NATS, EvaluationSettings
from lvm_lightning.evaluation.quadrature import Exact
from lvm_lightning.modules import ExponentialPosterior, PriorIWAE
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.support.values import UNIT, Support
from tests.small import D, SmallImages, small_trainer
from tests.test_evaluators import Power, network, vae

MODULES: dict[str, Callable[[], tuple[LatentVariableModule, pl.LightningDataModule]]] = {
    "PriorIWAE": lambda: (PriorIWAE(inner_samples=4, data_dim=D, decoder=network), SmallImages(batch_size=300)),
    "GaussianVAE": lambda: (vae(), SmallImages(batch_size=300)),
    "ExponentialPosterior": lambda: (ExponentialPosterior(), ExponentialObservations([0.5, 2.0], steps_per_epoch=2)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_users_evaluator_is_reported_by_every_module(name: str, tmp_path: Path) -> None:
    module, data = MODULES[name]()
    module.settings = EvaluationSettings(samples=30, evaluators=[Power(1)])
    small_trainer(tmp_path).test(module, data, verbose=False)
    found = {q.name: q for q in module.evaluation}
    assert len(found) == len(module.evaluation) > 2
    x = torch.cat([batch.x for batch in data.test_dataloader()])
    power = found["power 1"]
    assert power.value == pytest.approx(float(x.sum(-1).double().mean()))
    assert (power.unit, power.kind, power.samples) == ("any", "exact", 1)
    assert power.images == (1 if name == "ExponentialPosterior" else 103)
    assert found["the number 1"].stderr == 0


def test_an_evaluator_that_lacks_something_is_refused_in_one_line(tmp_path: Path) -> None:
    module = vae(latent_dim=3)
    module.settings = EvaluationSettings(evaluators=[Exact(0.05)])
    message = (
        r"^evaluation.evaluators: Exact needs a standard normal prior of K ≤ 2 and a Bernoulli .*, got \S+; leave.*$"
    )
    with pytest.raises(ValueError, match=message):
        small_trainer(tmp_path).test(module, SmallImages(), verbose=False)


class Scaled(SmallImages):
    """Grey images that say where they lie."""

    def describe(self) -> Description:
        return dataclasses.replace(super().describe(), bin_width=0.5)


SCALES: dict[str, Support] = {"0..1": UNIT, "-1..1": Support(-1, 1)}
OF_LOG_P = {
    *("ELBO", "E_q log p(x|z)", "log p(x) ≥ L_5", "log p(x) ≥ L_5 (fitted proposals)", "bound (J=1, N=2)"),
    "log p(x) by quadrature",
}


def units_of(module: LatentVariableModule, data: SmallImages, folder: Path) -> dict[str, str]:
    """Units of what a test reports about images, by name."""
    module.settings = EvaluationSettings(samples=5)
    small_trainer(folder).test(module, data, verbose=False)
    return {q.name: q.unit for q in module.evaluation if q.name != "active units"}


@pytest.mark.parametrize("pixel_range", SCALES)
@pytest.mark.parametrize("likelihood", [ContinuousBernoulli, Gaussian, PixelwiseGaussian])
def test_densities_say_the_scale_of_the_data_and_differences_do_not(
    likelihood: Any, pixel_range: Any, tmp_path: Path
) -> None:
    module, data = vae(likelihood=likelihood, inner_samples=2), Scaled(binarisation="none", pixel_range=pixel_range)
    if likelihood is ContinuousBernoulli and pixel_range == "-1..1":
        with pytest.raises(ValueError, match=r"ContinuousBernoulli likelihood needs values in \[0, 1\], got values in"):
            module.check_data(data)
        return
    units, scale = units_of(module, data, tmp_path), f" (density on {SCALES[pixel_range]})"
    assert [*units][-2:] == [
        "log p(x) − ELBO ≥ L_5 (fitted proposals) − ELBO",
        "log P(256 grey levels) ≥ L_5 (fitted proposals) + D log Δ",
    ]
    assert units == {name: "nats per image" + (scale if name in OF_LOG_P else "") for name in units}
    assert len(OF_LOG_P & units.keys()) == 5


def test_probabilities_are_in_nats_per_image(tmp_path: Path) -> None:
    units = units_of(vae(inner_samples=2), SmallImages(), tmp_path)
    assert units.keys() > OF_LOG_P - {"log p(x) ≥ L_5 (fitted proposals)"}  # K = 2: exact
    module = PriorIWAE(inner_samples=2, data_dim=D, decoder=network)
    assert {*units.values(), *units_of(module, SmallImages(), tmp_path).values()} == {"nats per image"}


def test_observations_are_in_nats(tmp_path: Path) -> None:
    module, data = MODULES["ExponentialPosterior"]()
    small_trainer(tmp_path).test(module, data, verbose=False)
    density = "nats (density on the scale of the data)"
    assert module.units == {LOG_P: density, NATS: "nats"}
    assert {q.unit for q in module.evaluation} == {density, "nats", "1/unit of x"}
    assert {q.unit for q in module.evaluation if q.name.startswith(("ELBO", "log p(x)", "import"))} == {density}


@pytest.mark.parametrize("name", MODULES)
def test_a_bare_trainer_logs_the_training_bound(name: str, tmp_path: Path) -> None:
    module, data = MODULES[name]()
    trainer = small_trainer(tmp_path, max_steps=2, limit_val_batches=0)
    seen: list[Tensor] = []
    step = module.training_step

    def watched(batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        output: dict[str, Tensor] = step(batch, batch_idx)  # type: ignore[assignment]
        seen.append(output["bound"])
        return output

    module.training_step = watched  # type: ignore[method-assign]
    trainer.fit(module, data)
    for logged in (trainer.logged_metrics, trainer.callback_metrics):
        assert float(logged["train/bound"]) == pytest.approx(float(seen[-1]))
    assert len(seen) == 2
