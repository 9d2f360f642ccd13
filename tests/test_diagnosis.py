"""Diagnostics against closed forms, runs side by side, and the subcommands that print them."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lvm_lightning.densities import DiagonalGaussian
from lvm_lightning.evaluation import Quantity
from lvm_lightning.evaluation.diagnostics import log_aggregate, mutual_information, signal_to_noise
from lvm_lightning.evaluation.per_example import write_per_example
from lvm_lightning.evaluation.report import Provenance, write_report
from lvm_lightning.studies import Compare
from lvm_lightning.support.errors import UserError
from tests.conftest import ROOT, Run, arrays, assert_within


def test_the_aggregate_is_the_mixture_of_the_proposals() -> None:
    z, mean, log_sigma = torch.randn(7, 3), torch.randn(1200, 3), 0.3 * torch.randn(1200, 3)
    parts = torch.distributions.Independent(torch.distributions.Normal(mean.double(), log_sigma.double().exp()), 1)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(1200).double()), parts)
    torch.testing.assert_close(log_aggregate(z, mean, log_sigma), mixture.log_prob(z.double()))


def test_mutual_information_of_gaussian_proposals_is_its_closed_form() -> None:
    """x ~ N(0, 1 − s²), q(z|x) = N(x, s²): the aggregate is N(0, 1) and I = −log s."""
    n, s = 4000, 0.5
    mean = math.sqrt(1 - s**2) * torch.randn(n, 1, dtype=torch.float64)
    log_sigma = torch.full((n, 1), math.log(s), dtype=torch.float64)
    z, log_q = DiagonalGaussian(mean, log_sigma).rsample(torch.randn(1, n, 1, dtype=torch.float64))
    information = mutual_information(z[0], log_q[0], mean, log_sigma)
    assert_within(information, -math.log(s))
    kl = DiagonalGaussian(mean, log_sigma).kl_per_dimension().mean()
    assert float(kl) == pytest.approx(-math.log(s), abs=0.03)  # the aggregate is the prior: all is information


def test_mutual_information_is_at_most_log_n() -> None:
    mean = 100 * torch.arange(50, dtype=torch.float64).unsqueeze(1)
    log_sigma = torch.zeros_like(mean)
    z, log_q = DiagonalGaussian(mean, log_sigma).rsample(torch.randn(1, 50, 1, dtype=torch.float64))
    torch.testing.assert_close(
        mutual_information(z[0], log_q[0], mean, log_sigma), torch.full((50,), math.log(50)).double()
    )


def test_signal_to_noise_is_mean_over_standard_deviation() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    noise = torch.randn(4000, 3)

    def loss(repeat: int) -> torch.Tensor:
        return (parameter * (torch.tensor([1.0, 2.0, 0.5]) + noise[repeat])).sum()

    assert signal_to_noise(loss, {"all": [parameter]}, 4000)["all"] == pytest.approx(3.5 / 3, rel=0.05)
    other = nn.Parameter(torch.zeros(3))

    def two(repeat: int) -> torch.Tensor:
        return loss(repeat) + (other * noise[repeat]).sum()

    both = signal_to_noise(two, {"first": [parameter], "second": [other]}, 4000)
    assert both["first"] == pytest.approx(3.5 / 3, rel=0.05)
    assert both["second"] < 0.1
    with pytest.raises(ValueError, match="gradient_repeats: must be at least 2, or 0 to leave it out, got 1"):
        signal_to_noise(loss, {"all": [parameter]}, 1)


# Runs side by side


def written_run(folder: Path, values: torch.Tensor, keep: bool = True, **data: Any) -> Path:
    quantity = Quantity.mean_of("ELBO", values, kind="lower bound", split="test", samples=1)
    about = {"source": "MNIST", "digest": "a", "eval_batch_size": 10} | data
    write_report(folder / "evaluation.json", [quantity], Provenance(0, about, "", "", "cpu", {}))
    if keep:
        write_per_example(folder, {"ELBO": values})
    return folder


def test_paired_differences_lose_the_spread_over_images(tmp_path: Path) -> None:
    images = 10 * torch.randn(1000, dtype=torch.float64)
    better = images + 1 + 0.1 * torch.randn(1000, dtype=torch.float64)
    first, second = written_run(tmp_path / "a", images), written_run(tmp_path / "b", better, eval_batch_size=20)
    line = Compare(first, second).run().splitlines()[-1]
    difference = better - images
    assert f"{float(difference.mean()):+.4f} ± {float(difference.std()) / 1000**0.5:.4f} paired" in line
    third = written_run(tmp_path / "c", better, keep=False)
    line = Compare(first, third).run().splitlines()[-1]
    stderr = math.hypot(float(images.std()), float(better.std())) / 1000**0.5
    assert f"± {stderr:.2f} unpaired" in line


def test_a_quantity_of_one_run_alone_is_a_dash(tmp_path: Path) -> None:
    first = written_run(tmp_path / "a", torch.randn(5))
    other = Quantity.mean_of("other", torch.randn(5), kind="exact", split="test", samples=1)
    write_report(
        tmp_path / "b" / "evaluation.json", [other], Provenance(0, {"source": "MNIST", "digest": "a"}, "", "", "", {})
    )
    lines = Compare(first, tmp_path / "b").run().splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["ELBO", "other"]
    assert all("—" in line for line in lines[2:])


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first = written_run(tmp_path / "a", torch.randn(5))
    other = written_run(tmp_path / "b", torch.randn(5), digest="b")
    nameless = [written_run(tmp_path / name, torch.randn(5), digest=None) for name in ("e", "f")]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "evaluation.json").write_text("{")
    for paths, message in [
        ([first], "RUN: must be at least two run folders, got 1"),
        ([first, other], "must be about the same data, got digest 'a' in .* and digest 'b' in .*; test both on one"),
        (nameless, "RUN: the data of a run must say what they are, got none in .*e; test it with a data module"),
        ([first, tmp_path / "d"], "no evaluation in .*d; run 'lvm-lightning test' on it first"),
        ([first, tmp_path / "c"], r"c/evaluation.json is not a readable evaluation \(JSONDecodeError\)"),
    ]:
        with pytest.raises(UserError, match=message):
            Compare(*paths).run()
        assert run("compare", *paths) == 2
        assert re.search(message, capsys.readouterr().err)
    assert run("compare") == 2
    assert run("compare", "--help") == 0
    assert "side by side" in capsys.readouterr().out


# The subcommands


QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
FIT = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "1", *QUIET]
FIT += ["--evaluation.spacing", "0.2"]
MODELS: dict[str, list[str]] = {
    "exponential_posterior": [],
    "prior_iwae": ["--model.decoder.hidden", "[8]"],
    "burda_vae": ["--model.decoder.hidden", "[8]", "--model.encoder.hidden", "[8]", "--model.latent_dim", "2"],
    "iaf_vae": ["--model.decoder.hidden", "[8]", "--model.encoder.hidden", "[8]", "--model.latent_dim", "3"],
    "gaussian_vae": [],
}


@pytest.mark.parametrize("name", MODELS)
def test_anneal_and_diagnose_serve_every_family(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", ROOT / "configs" / f"{name}.yaml", *MODELS[name], *FIT]
    folder = Path("runs") / name / "version_0"
    assert run("fit", *arguments) == 0
    few = ["--ckpt_path", "last", "--images", "6"]
    anneal = ["--simulated", "4", "--steps", "8", "--chains", "2", "--leapfrog", "2", "--importance_samples", "100"]
    assert run("anneal", *arguments, *few, *anneal) == 0
    found = json.loads((folder / "annealing.json").read_text())
    kinds = {q["name"]: q["kind"] for q in found["quantities"]}
    assert kinds["simulated data: annealed backwards"] == "upper bound"
    assert kinds["importance-weighted bound L_100"] == "lower bound"
    assert ("log p(x), exact" in kinds) == (name in ("exponential_posterior", "prior_iwae", "burda_vae"))
    assert found["provenance"]["data"]["digest"]
    assert run("diagnose", *arguments, *few, "--samples", "20", "--gradient_repeats", "3") == 0
    found = json.loads((folder / "diagnosis.json").read_text())
    names = [q["name"] for q in found["quantities"]]
    assert [n for n in names if n.endswith("ELBO")] == [f"{split}: ELBO" for split in ("train", "val", "test")]
    assert ("active units" in names) == (name in ("burda_vae", "gaussian_vae"))
    printed = capsys.readouterr().out
    assert "diagnosis.json" in printed
    if name == "burda_vae":
        assert run("anneal", *arguments, *few, *anneal, "--start", "encoder") == 0
    if name == "prior_iwae":
        assert run("anneal", *arguments, *few, *anneal, "--start", "encoder") == 2
        assert "start: PriorIWAE has no encoder to anneal from" in capsys.readouterr().err


def test_evaluation_fills_hyperparameters_and_keeps_each_image(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = ["--config", ROOT / "configs" / "burda_vae.yaml", *MODELS["burda_vae"], *FIT]
    arguments += ["--evaluation.samples", "30", "--data.eval_batch_size", "500", "--trainer.limit_test_batches", "2"]
    assert run("fit", *arguments) == 0
    assert run("test", *arguments, "--ckpt_path", "last", "--evaluation.save_per_example", "true") == 0
    folder = Path("runs/burda_vae/version_0")
    kept = arrays(folder / "evaluation_per_example.npz")
    content = {q["name"]: q for q in json.loads((folder / "evaluation.json").read_text())["quantities"]}
    assert kept["ELBO"].shape == (1000,)
    assert kept["ELBO"].mean() == pytest.approx(content["ELBO"]["value"])
    plugins = EventAccumulator(str(folder)).Reload().summary_metadata
    assert any("_hparams_" in tag for tag in plugins)
    assert run("compare", folder, folder) == 0
