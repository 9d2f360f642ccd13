"""The command as a user meets it: every subcommand, every config, and what wrong input says."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lvm_lightning.callbacks.board import TITLES
from lvm_lightning.evaluation import Quantity, table
from tests.command import SMALL_FIT, command
from tests.conftest import ROOT, Run, arrays, commands_in

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
CONFIG = ROOT / "configs" / "prior_iwae.yaml"
VAE = ROOT / "configs" / "burda_iwae.yaml"
SMALL = ["--model.decoder.hidden", "[8]", "--model.inner_samples", "4", "--evaluation.spacing", "0.2"]
SHORT = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "2"]
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
FIT = ["fit", "--config", CONFIG, *SMALL, *SHORT, *QUIET]
RUN = Path("runs/prior_iwae/version_0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small model was trained once."""
    folder = tmp_path_factory.mktemp("trained")
    commands_in(folder, FIT)
    return folder


@pytest.fixture
def after_fit(run: Run, trained: Path, tmp_path: Path) -> Run:
    """``run``, in a folder of its own with the trained run."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return run


def scalars(folder: Path) -> dict[str, list[float]]:
    """Values by tag, of a run or of one curve of its chart."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_fit_leaves_a_run_folder(trained: Path) -> None:
    run = trained / RUN
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {path.name for path in (run / "figures").iterdir()} == {
        "latent_grid.png",
        "means.png",
        "samples.png",
        "training_bound.png",
    }
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["inner_samples"] == 4
    lines = (run / "training_bound.csv").read_text().splitlines()
    assert lines[0] == "step,bound_nats_per_image"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4"]


def test_fit_logs_the_bound_in_nats_to_tensorboard(trained: Path) -> None:
    logged = scalars(trained / RUN)
    bounds = [float(line.split(",")[1]) for line in (trained / RUN / "training_bound.csv").read_text().splitlines()[1:]]
    train, val = (scalars(trained / RUN / f"bound_{split}")["bound"] for split in ("train", "validation"))
    assert train == pytest.approx([sum(bounds[:2]) / 2, sum(bounds[2:]) / 2], abs=1e-3)
    assert logged["train/pixel_likelihood"] == pytest.approx([np.exp(b / 784) for b in train])
    assert len(val) == len(logged["val/bound_stderr"]) == 2
    assert set(logged) == {"train/pixel_likelihood", "val/bound_stderr", "lr-Adam"}
    pictures = EventAccumulator(str(trained / RUN), size_guidance={"images": 0}).Reload().Tags()["images"]
    names = ("samples", "means", "latent_grid", "training_bound")
    assert set(pictures) == {f"figures/{TITLES[name]}" for name in names}


def test_checkpoint_loads_without_running_code_and_rebuilds_the_module(trained: Path) -> None:
    from lvm_lightning.modules import PriorIWAE

    path = trained / RUN / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"] > 0
    weights = checkpoint["state_dict"]
    module = PriorIWAE.load_from_checkpoint(path)
    assert module.N == 4
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, weights[name])


def test_test_writes_labelled_quantities(after_fit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["test", "--config", CONFIG, *SMALL, *QUIET, "--ckpt_path", "last"]
    assert after_fit(*arguments) == 0
    printed = capsys.readouterr().out
    content = json.loads((RUN / "evaluation.json").read_text())
    quantities, about = content["quantities"], content["provenance"]
    assert (about["seed"], about["data"]["source"], about["data"]["binarisation"]) == (0, "MNIST", "static")
    assert len(about["data"]["digest"]) == len(about["configuration"]) == len(about["weights"]) == 64
    assert about["versions"]["torch"] in torch.__version__
    assert [q["name"] for q in quantities] == [
        "log p(x) by quadrature",
        "error of the quadrature",
        "image-independent Bernoulli",
        "bound (J=1, N=4, i.i.d.)",
        "log p(x) − bound",
    ]
    for q in quantities:
        assert set(q) == {"name", "value", "stderr", "unit", "kind", "split", "samples", "images"}
        assert q["images"] == 10_000
        assert q["split"] == "test"
        assert q["unit"] == "nats per image"
        assert q["stderr"] > 0
    assert table([Quantity(**q) for q in quantities]) in printed
    log_p, bound = quantities[0], quantities[3]
    assert (bound["kind"], bound["samples"], log_p["kind"]) == ("lower bound", 4, "exact")
    assert bound["value"] < log_p["value"]
    assert scalars(RUN)["test/log_px"] == pytest.approx([log_p["value"]])
    assert after_fit(*arguments) == 0
    assert json.loads((RUN / "evaluation.json").read_text()) == content
    assert not (RUN / "evaluation.part").exists()


def test_fit_can_go_on_to_test_the_model_that_it_ends_with(after_fit: Run) -> None:
    assert after_fit("test", "--config", CONFIG, *SMALL, *QUIET, "--ckpt_path", "last") == 0
    apart = json.loads((RUN / "evaluation.json").read_text())
    shutil.rmtree("runs")
    assert after_fit(*FIT, "--test_after_fit", "true") == 0
    assert json.loads((RUN / "evaluation.json").read_text()) == apart


def test_validate_and_predict_use_the_checkpoint(after_fit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--config", CONFIG, *SMALL, *QUIET, "--ckpt_path", "best"]
    assert after_fit("predict", *common) == 0
    predictions = arrays(RUN / "predictions.npz")
    assert {name: predictions[name].shape for name in predictions} == {
        "bound": (10_000,),
        "z_mean": (10_000, 2),
        "z_mean_error": (10_000, 2),
        "label": (10_000,),
    }
    assert "10,000 images written" in capsys.readouterr().out
    before = points(RUN / "bound_validation", "bound")
    assert after_fit("validate", *common) == 0
    printed = capsys.readouterr().out
    assert points(RUN / "bound_validation", "bound") == [*before, pytest.approx(before[-1], abs=1e-3)]
    assert "val/bound" not in scalars(RUN)
    row = next(line for line in printed.splitlines() if line.startswith("bound (J=1, N=4)"))
    assert f"{before[-1][1]:.2f} ± " in row
    assert "nats per image  lower bound  val" in row


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Steps and values of a tag."""
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def test_last_is_the_last_state_even_where_an_earlier_one_was_better(run: Run) -> None:
    still = ["--model.lr_scheduler", "null", "--model.optimizer.lr", "0.0", "--trainer.limit_val_batches", "1"]
    assert run(*FIT, *still, "--trainer.max_steps", "5") == 0  # validations after 2 and 4 steps find the same bound
    steps = {name: torch.load(RUN / f"checkpoints/{name}.ckpt", weights_only=True)["global_step"]
             for name in ("best", "last")}  # fmt: skip
    assert steps == {"best": 2, "last": 5}


def test_sample_writes_a_grid_and_an_array(after_fit: Run) -> None:
    arguments = ["sample", "--config", CONFIG, *SMALL, "--ckpt_path", "last", "--count", "10", "--output", "new"]
    assert after_fit(*arguments) == 0
    first = arrays("new/samples.npz")
    assert first["x"].shape == first["mean"].shape == (10, 28, 28)
    assert first["z"].shape == (10, 2)
    assert set(np.unique(first["x"])) == {0, 1}
    assert Path("new/samples.png").read_bytes().startswith(b"\x89PNG")
    assert after_fit("sample", RUN, "--count", "10") == 0  # the command that quickstart.sh prints
    assert after_fit(*arguments, "--seed", "1") == 0
    assert not np.array_equal(first["z"], arrays("new/samples.npz")["z"])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains_validates_and_tests(config: Path, run: Run) -> None:
    first = config.read_text().splitlines()[0]
    assert first == f"# lvm-lightning fit --config configs/{config.name}"
    few = ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1", *QUIET]
    few += ["--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1", "--evaluation.spacing", "0.2"]
    images = "StaticMNIST" in config.read_text()
    if images:
        few += ["--data.batch_size", "8", "--data.eval_batch_size", "8"]
    if yaml.safe_load(config.read_text())["model"]["init_args"].get("inner_samples", 1) > 1000:  # minutes
        few += ["--model.inner_samples", "500"]
    assert run("fit", "--config", config, *few, "--trainer.max_steps", "2") == 0
    for subcommand in ("validate", "test"):
        assert run(subcommand, "--config", config, *few, "--ckpt_path", "last") == 0
    quantities = json.loads((Path("runs") / config.stem / "version_0" / "evaluation.json").read_text())["quantities"]
    assert quantities[0]["images"] == (8 if images else 1)


def test_a_model_with_an_encoder_draws_its_posterior(run: Run) -> None:
    small = ["--model.encoder.hidden", "[8]", "--model.decoder.hidden", "[8]", "--model.inner_samples", "2"]
    arguments = ["fit", "--config", VAE, *small, *SHORT, *QUIET, "--trainer.limit_val_batches", "1"]
    assert run(*arguments, "--trainer.logger.name", "vae") == 0
    folder = Path("runs/vae/version_0")
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    assert drawn == {"samples", "means", "reconstructions", "latents", "units", "training_bound"}
    logged = scalars(folder)
    for tag in ("val/bound_stderr", "val/reconstruction", "val/kl", "val/active_units"):
        assert len(logged[tag]) == 2
    tags = EventAccumulator(str(folder)).Reload().Tags()
    assert set(tags["histograms"]) == {"latents/kl_per_dimension_nats", "latents/activity"}
    assert {f"figures/{TITLES[name]}" for name in drawn} == set(tags["images"])


def test_grey_samples_are_not_cut_to_bits(run: Run) -> None:
    config = ROOT / "configs" / "gaussian_vae.yaml"
    arguments = ["--config", config, *QUIET, "--trainer.limit_val_batches", "1", "--data.batch_size", "8"]
    assert run("fit", *arguments, "--trainer.max_steps", "1", "--trainer.val_check_interval", "1") == 0
    assert run("sample", "--config", config, "--ckpt_path", "last", "--count", "4", "--output", "new") == 0
    drawn = arrays("new/samples.npz")
    assert drawn["x"].dtype == np.float32
    assert 0.9 < (drawn["x"] - drawn["mean"]).std() < 1.1  # unit variance
    assert drawn["x"].shape == (4, 28, 28)


def test_another_models_checkpoint_is_refused(after_fit: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert after_fit("test", "--config", CONFIG, "--ckpt_path", "last", *QUIET, *SMALL[:2]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "model.inner_samples: the checkpoint was trained with 4, the configuration says 128; use" in error
    assert after_fit("test", "--config", RUN / "config.yaml", "--ckpt_path", "last") == 0


def test_truncated_data_file_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lvm_lightning.data import mnist

    truncated = tmp_path / "mnist.xz"
    truncated.write_bytes(mnist.packaged_file().read_bytes()[:1_000_000])
    monkeypatch.setattr(mnist, "packaged_file", lambda: truncated)
    assert run(*FIT) == 1
    assert re.search(r"error: .*mnist\.xz: the file must have SHA-256", capsys.readouterr().err.splitlines()[-1])


def test_fast_dev_run_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    assert run(*FIT, "--trainer.fast_dev_run", "true") == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("steps", "told"), [(1, r"1 of 1 steps: -\d+\.\d\d nats"), (2, r"2 of 2 steps: -\d+\.\d\d ± \d")]
)
def test_fit_ends_with_the_training_bound(tmp_path: Path, steps: int, told: str) -> None:
    """And its standard error, which a single step does not have."""
    finished = command(tmp_path, *SMALL_FIT, "--trainer.max_steps", steps, "--trainer.val_check_interval", 1)
    assert finished.status == 0
    assert re.search("training bound, mean of the last " + told, finished.err)


def test_a_limit_of_one_batch_is_not_all_batches(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict")]
    for given, parsed in [("1", 1), ("3", 3), ("0.5", 0.5)]:
        limits = [word for name in names for word in (f"--trainer.{name}", given)]
        assert run(*FIT, *limits, "--print_config") == 0
        trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
        for name in names:
            assert trainer[name] == parsed
            assert type(trainer[name]) is type(parsed)


def test_help_lists_every_subcommand(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert run("sample", "--help") == 0
    printed = capsys.readouterr().out
    for word in ("fit", "validate", "test", "predict", "sample", "--count", "--model.help"):
        assert word in printed
