"""Learning-rate schedules that span the training, against torch's, and over all configs."""

import doctest
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from lvm_lightning.modules import GaussianVAE
from lvm_lightning.modules.optimizing import make_optimizer
from lvm_lightning.networks import Cosine, MultiStep, OneCycle, schedules
from lvm_lightning.networks.schedules import TrainingSchedule
from tests.conftest import ROOT, commands_in
from tests.small import D, SmallImages, small_trainer
from tests.test_loading import small_network

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PUBLISHED: dict[str, tuple[float, int, float, int]] = {
    "prior_iwae": (0.008, 1250, 0.07, 0),
    "prior_iwae_long": (0.008, 10000, 0.05, 0),
    "prior_iwae_k8": (0.008, 5000, 0.05, 0),
    "latent_mixture": (0.005, 400, 0.05, 0),
    "flow_prior": (0.008, 20000, 0.05, 5000),
    "mean_field_vae": (0.004, 15000, 0.05, 7500),
    "iaf_vae": (0.004, 15000, 0.05, 7500),
    "burda_vae": (0.008, 60000, 0.05, 15000),
    "burda_iwae_5": (0.008, 40000, 0.05, 10000),
    "burda_iwae": (0.008, 40000, 0.05, 10000),
    "gaussian_iwae": (0.004, 3000, 0.05, 1000),
}
"""max_lr, total_steps and pct_start of OneCycleLR, and steps of the KL's warm-up, with which rows were published."""


def optimizer_of(rate: float, *, kind: Any = SGD) -> Optimizer:
    optimizer: Optimizer = kind([torch.zeros(1, requires_grad=True)], lr=rate)
    return optimizer


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    """The rate of each step, as a training would see it."""
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def spanning(schedule: TrainingSchedule, steps: int) -> TrainingSchedule:
    schedule.train_for(steps)
    return schedule


@pytest.mark.parametrize("steps", [2, 3, 10, 20, 100, 333])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_one_cycle_is_torchs_bit_for_bit(steps: int, warmup: float, shape: Any) -> None:
    ours = rates(spanning(OneCycle(optimizer_of(0.3), warmup, shape), steps), steps)
    assert max(ours) <= 0.3
    strategy: Any = {"cosine": "cos", "linear": "linear"}[shape]
    torchs = partial(OneCycleLR, max_lr=0.3, total_steps=steps, pct_start=warmup, cycle_momentum=False)
    if warmup * steps == 1:
        assert ours[0] == 0.3  # a phase of no length, which torch divides by
    elif not (warmup == 1 and steps > 1):  # torch's second phase has no length
        assert ours == rates(torchs(optimizer_of(0.3), anneal_strategy=strategy), steps)
    else:
        assert ours == sorted(ours)


def test_cosine_and_multi_step_are_torchs_up_to_rounding() -> None:
    pairs: list[tuple[TrainingSchedule, LRScheduler]] = [
        (spanning(Cosine(optimizer_of(0.3)), 50), CosineAnnealingLR(optimizer_of(0.3), 50)),
        (spanning(MultiStep(optimizer_of(0.3), [0.1, 0.5], 0.3), 50), MultiStepLR(optimizer_of(0.3), [5, 25], 0.3)),
    ]
    for ours, torchs in pairs:
        assert rates(ours, 50) == pytest.approx(rates(torchs, 50), rel=1e-12, abs=1e-16)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_row_keeps_its_rates_and_its_warm_up(name: str) -> None:
    """The digests of settings in results.json were renewed when torch's schedules became ours: nothing else changed."""
    config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    peak, steps, warmup, rising = PUBLISHED[name]
    settings = config["model"]["init_args"]
    assert config["trainer"]["max_steps"] == steps
    assert settings["optimizer"]["init_args"]["lr"] == peak
    assert settings["lr_scheduler"]["class_path"] == "lvm_lightning.networks.OneCycle"
    assert schedules.steps_of_share(settings.get("kl_warmup", 0.0), steps, "kl_warmup") == rising
    ours = spanning(OneCycle(optimizer_of(peak), **settings["lr_scheduler"]["init_args"]), steps)
    torchs = OneCycleLR(optimizer_of(peak), peak, steps, pct_start=warmup, cycle_momentum=False)
    for step in {*range(0, steps, max(1, steps // 400)), *range(steps // 20 - 2, steps // 20 + 2), steps - 1}:
        ours.last_epoch = torchs.last_epoch = step
        torchs._get_lr_called_within_step = True  # as its step does
        assert ours.get_lr() == torchs.get_lr()


def test_the_milestones_of_the_published_recipe_are_its_epochs() -> None:
    config = yaml.safe_load((ROOT / "configs" / "burda_published.yaml").read_text())
    shares = config["model"]["init_args"]["lr_scheduler"]["init_args"]["shares"]
    steps = config["trainer"]["max_steps"]
    assert [round(share * steps) for share in shares] == [2500 * sum(3**i for i in range(k)) for k in range(1, 8)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_rate_of_every_config_is_the_optimisers_and_its_length_the_trainings(path: Path) -> None:
    """The knobs do something: twice the rate is twice the rate at every step, half the steps are a whole cycle."""
    config = yaml.safe_load(path.read_text())
    settings, steps = config["model"]["init_args"], config["trainer"]["max_steps"]
    if (given := settings.get("lr_scheduler")) is None:
        pytest.skip("the rate is constant")
    words: dict[str, Any] = {"class_path": given} if isinstance(given, str) else given
    kind = {cls.__name__: cls for cls in (OneCycle, Cosine, MultiStep)}[words["class_path"].rpartition(".")[-1]]
    peak = settings["optimizer"]["init_args"]["lr"]
    arguments = words.get("init_args", {})

    def at(rate: float, length: int, share: float) -> float:
        schedule: TrainingSchedule = kind(optimizer_of(rate), **arguments)
        _, made = make_optimizer([], lambda _: optimizer_of(rate), lambda o: kind(o, **arguments), length)
        assert isinstance(made, TrainingSchedule)
        schedule.train_for(length)
        schedule.last_epoch = made.last_epoch = round(share * length)
        assert schedule.get_lr() == made.get_lr()
        return float(made.get_lr()[0])

    shares = [0.0, 0.04, 0.2, 0.5, 0.9]
    whole = [at(peak, steps, share) for share in shares]
    assert max(whole) <= peak
    assert [at(2 * peak, steps, share) for share in shares] == pytest.approx([2 * rate for rate in whole])
    assert [at(peak, steps // 2, share) for share in shares] == pytest.approx(whole, abs=0.03 * peak)


def test_a_run_that_goes_on_is_at_its_place_in_a_training_of_the_new_length(tmp_path: Path) -> None:
    whole = spanning(OneCycle(optimizer_of(0.3, kind=Adam)), 40)
    expected = rates(whole, 40)
    halted = spanning(OneCycle(optimizer_of(0.3, kind=Adam)), 40)
    assert rates(halted, 15) == expected[:15]
    states = halted.state_dict(), halted.optimizer.state_dict()
    assert "total_steps" not in states[0]
    for length, rest in ((40, expected[15:]), (80, rates(spanning(OneCycle(optimizer_of(0.3)), 80), 80)[15:])):
        again = spanning(OneCycle(optimizer_of(0.3, kind=Adam)), length)
        again.optimizer.load_state_dict(states[1])
        again.load_state_dict(states[0])
        assert rates(again, length - 15) == rest


def test_groups_keep_their_ratio() -> None:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in (0.1, 0.2)]
    schedule = spanning(OneCycle(SGD(groups)), 10)
    for _ in range(12):  # two steps after the end, as a trainer's last step does
        low, high = (group["lr"] for group in schedule.optimizer.param_groups)
        assert high == pytest.approx(2 * low)
        schedule.optimizer.step()
        schedule.step()


@pytest.mark.parametrize("kind", [OneCycle, Cosine, lambda optimizer: MultiStep(optimizer, [0.5])])
def test_a_training_without_an_end_is_one_line(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"lr_scheduler: needs a training that has an end, got none; set trainer.max"):
        make_optimizer([], lambda _: optimizer_of(0.1), kind, math.inf)
    with pytest.raises(ValueError, match=r"kl_warmup: needs a training that has an end"):
        schedules.steps_of_share(0.1, math.inf, "kl_warmup")
    assert schedules.steps_of_share(0.0, math.inf, "kl_warmup") == 0


@pytest.mark.parametrize("length", [{"max_steps": 6}, {"max_epochs": 2, "max_steps": -1}])
def test_the_length_is_the_trainers(length: dict[str, int], tmp_path: Path) -> None:
    """Steps or epochs: the plain Trainer's own count."""
    seen: list[tuple[float, float]] = []

    class Watched(GaussianVAE):
        def on_train_batch_end(self, *arguments: Any) -> None:
            optimizer = self.optimizers()
            assert isinstance(optimizer, Optimizer)
            seen.append((optimizer.param_groups[0]["lr"], self.kl_weight))

    model = Watched(
        latent_dim=2, data_dim=D, encoder=small_network, decoder=small_network, kl_warmup=0.5, lr_scheduler=Cosine
    )
    trainer = small_trainer(tmp_path, limit_val_batches=0, **length)
    trainer.fit(model, SmallImages(batch_size=200))
    steps = trainer.global_step
    assert model.training_steps == steps
    assert [weight for _, weight in seen][: steps // 2] == pytest.approx(
        [min(1.0, (i + 2) / (steps // 2)) for i in range(steps // 2)]
    )
    assert seen[-1][0] == pytest.approx(1e-3 * (1 + math.cos(math.pi * (steps - 1) / steps)) / 2)


def test_twice_the_rate_and_half_the_steps_change_a_run_of_the_command(tmp_path: Path) -> None:
    from tests.command import SMALL_FIT

    commands_in(
        tmp_path,
        [*SMALL_FIT, "--trainer.logger.init_args.version", "a"],
        [*SMALL_FIT, "--model.optimizer.lr", 0.016, "--trainer.logger.init_args.version", "b"],
        [*SMALL_FIT, "--trainer.max_steps", 15, "--trainer.logger.init_args.version", "c"],
    )
    found = []
    for run in "abc":
        folder = tmp_path / "runs" / "prior_iwae" / run
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        rate = state["optimizer_states"][0]["param_groups"][0]["lr"]
        found.append((config["model"]["init_args"]["optimizer"]["init_args"]["lr"], config["trainer"]["max_steps"]))
        assert rate == pytest.approx(found[-1][0] / 25e4)  # the cycle came to its end
    assert found == [(0.008, 30), (0.016, 30), (0.008, 15)]
    weights = [
        torch.load(tmp_path / "runs" / "prior_iwae" / run / "checkpoints" / "last.ckpt", weights_only=True)
        for run in "ab"
    ]
    first, second = (state["state_dict"] for state in weights)
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_the_docstrings_examples_run() -> None:
    found = doctest.testmod(schedules, extraglobs={"torch": torch})
    assert (found.failed, found.attempted) == (0, 4)
