"""Every number that a subcommand prints has the unit of what it is: log-densities name the scale of the data.

Differences of log-densities, and divergences, do not hang on that scale: they are in plain nats.
"""

import json
from pathlib import Path

import pytest
import torch

from lvm_lightning.evaluation import Given
from lvm_lightning.evaluation.standard import WithoutLatent
from lvm_lightning.modules import PriorIWAE
from tests.conftest import ROOT, Run
from tests.small import batch_of
from tests.test_evaluators import network

PLAIN = ["--model.decoder.hidden", "[8]"]
BOTH = [*PLAIN, "--model.encoder.hidden", "[8]"]
NETWORK = "lvm_lightning.networks.MLP"
MLPS = ["--model.encoder", NETWORK, "--model.decoder", NETWORK, *BOTH]
CONFIGS: dict[str, tuple[list[str], str, str]] = {
    "prior_iwae": (PLAIN, "nats per image", "nats per image"),
    "burda_vae": ([*BOTH, "--model.latent_dim", "2"], "nats per image", "nats per image"),
    "gaussian_vae": (MLPS, "nats per image (density on [-1, 1])", "nats per image"),
    "gaussian_iwae": (BOTH, "nats per image (density on [0, 1])", "nats per image"),
    "exponential_posterior": ([], "nats (density on the scale of the data)", "nats"),
}
FEW: list[object] = [
    *["--trainer.max_steps", 2, "--trainer.limit_val_batches", 1, "--trainer.limit_test_batches", 1],
    *["--trainer.val_check_interval", 2, "--trainer.enable_progress_bar", "false"],
    *["--trainer.enable_model_summary", "false", "--evaluation.samples", 25, "--evaluation.spacing", 0.2],
]
DIFFERENCES = (" − ", "KL", "I_q", "width", "error of", "256 grey levels")
OTHER = ("active units", "effective sample size", "Pareto", "signal-to-noise", "θ")


@pytest.mark.parametrize("name", CONFIGS)
def test_units_of_every_subcommand(name: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    own, density, difference = CONFIGS[name]
    arguments = ["--config", ROOT / "configs" / f"{name}.yaml", *own, *FEW]
    if name != "exponential_posterior":
        arguments += ["--data.eval_batch_size", 100]
    folder = Path("runs") / name / "version_0"
    assert run("fit", *arguments) == 0
    arguments += ["--ckpt_path", "last"]
    anneal = ["--simulated", 4, "--steps", 4, "--chains", 2, "--leapfrog", 1, "--importance_samples", 10]
    studies: dict[str, list[object]] = {
        "evaluation": ["test"],
        "diagnosis": ["diagnose", "--images", 6, "--samples", 20, "--gradient_repeats", 2],
        "annealing": ["anneal", "--images", 6, *anneal],
    }
    for file, word in studies.items():
        assert run(word[0], *arguments, *word[1:]) == 0
        for q in json.loads((folder / f"{file}.json").read_text())["quantities"]:
            if not q["name"].startswith(OTHER):
                apart = any(words in q["name"].replace("log p(x) ≥ L", "") for words in DIFFERENCES)
                assert q["unit"] == (difference if apart else density), q["name"]
            if q["kind"] == "exact" or "quadrature" in q["name"]:
                assert q["samples"] == 0, q["name"]
            if name == "exponential_posterior" and q["split"] != "simulated":
                assert q["images"] == 1, q["name"]
    assert run("tightness", *arguments, "--images", 6, "--largest", 4) == 0
    printed = capsys.readouterr().out
    assert f"L_N ± standard error ({density})  log p(x) − L_N ({difference})  Var[w]/(2 N p²) ({difference})" in printed
    found = json.loads((folder / "tightness.json").read_text())
    assert (found["unit"], found["gap_unit"]) == (density, difference)
    assert "± nan" not in printed
    assert "± 0.0000 " not in printed


def test_pixels_that_training_never_has_on_are_told() -> None:
    x = torch.tensor([[0.0, 1, 1, 0], [1, 1, 0, 0], [0, 1, 1, 1]])
    evaluator, model = WithoutLatent(torch.tensor([0.5, 1.0, 0.25, 0.0])), PriorIWAE(data_dim=4, decoder=network)
    found = {m.name: m for m in evaluator.measure(Given(model.model, model.propose(x), batch_of(x), torch.Generator()))}
    (note,) = evaluator.notes(found)
    assert note.startswith(
        "1 of the 3 images have a pixel on that is never on in training, or off that always is: the "
    )
    assert note.endswith("; each of these 1 pixels costs 13.8 nats")
    seen = {
        m.name: m for m in evaluator.measure(Given(model.model, model.propose(x), batch_of(x[:2]), torch.Generator()))
    }
    assert evaluator.notes(seen) == []
