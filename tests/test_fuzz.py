"""Any configuration is a run or one line."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.command import command

Config = dict[str, Any]


def network(hidden: list[int]) -> Config:
    return {"class_path": "lvm_lightning.networks.MLP", "init_args": {"hidden": hidden, "activation": "Tanh"}}


OPTIMISER = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
PRIOR_IWAE = {"latent_dim": 2, "inner_samples": 4, "decoder": network([8])}
VAE = {"latent_dim": 3, "inner_samples": 2, "encoder": network([8]), "decoder": network([8])}
MODELS: dict[str, Config] = {"PriorIWAE": PRIOR_IWAE, "GaussianVAE": VAE}

# What a user may write for anything, sensible or not. Large numbers are left out where they would only be slow.
ANYTHING = st.one_of(
    st.sampled_from(
        [None, True, False, "", "auto", "null", "nan", "inf", "-inf", "1e3", "0x10", "ünï", "a: b", "[1", "{}"]
    ),
    st.integers(-3, 300),
    st.floats(width=32),
    st.lists(st.integers(-1, 9), max_size=3),
    st.dictionaries(st.sampled_from(["class_path", "init_args", "x"]), st.sampled_from(["x", 1, None]), max_size=2),
    st.text(max_size=6),
)
NUMBERS = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, 0.5, 0, 1, 2, 3]), st.floats(width=32))
COUNTS = st.one_of(st.integers(-1, 9), st.sampled_from([1.0, 2.5, "3", "4.0", 64]))
FLAGS = st.sampled_from([True, False, "yes", 1, None])


def words(*known: object) -> st.SearchStrategy[object]:
    return st.sampled_from([*known, "nothing", 3])


KEYS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "PriorIWAE": {
        **{
            "model.outer_samples": COUNTS,
            "model.points": words("iid", "sobol", "lattice"),
            "model.share_points": FLAGS,
        },
        **{"model.output_bias": words("logit", "log", "zero"), "evaluation.spacing": NUMBERS},
    },
    "GaussianVAE": {
        **{
            "model.outer_samples": COUNTS,
            "model.bound": words("Renyi", "Jackknife", "CUBO", "lvm_lightning.objectives.elbo"),
            "model.free_bits": NUMBERS,
            "model.encoder_dropout": NUMBERS,
            "model.likelihood": words("Bernoulli", "Gaussian", "PixelwiseGaussian"),
        },
        **{"model.estimator": words("pathwise", "sticking_the_landing", "doubly_reparameterised")},
        **{"model.decoder_bound": words("same", "pooled"), "model.kl_warmup": NUMBERS},
        **{"model.posterior": words("GaussianPosterior", "InverseAutoregressiveFlow"), "evaluation.widen": NUMBERS},
        **{"model.prior": words("StandardNormal", "FlowPrior"), "model.output_bias": words("pixel_means", "zero")},
        **{"model.encoder.init_args.hidden": st.lists(COUNTS, max_size=3), "model.encoder": ANYTHING},
    },
}
SHARED: dict[str, st.SearchStrategy[Any]] = {
    **{"model.latent_dim": COUNTS, "model.inner_samples": COUNTS, "model.data_dim": st.sampled_from([12, 11, 0, "12"])},
    **{"model.decoder": ANYTHING, "model.decoder.init_args.hidden": st.lists(COUNTS, max_size=3)},
    **{"model.decoder.init_args.activation": words("ELU", "ReLU", "SiLU"), "model.optimizer": ANYTHING},
    **{"model.optimizer.init_args.lr": NUMBERS, "model.optimizer.init_args.betas": st.lists(NUMBERS, max_size=3)},
    **{
        "model.optimizer.class_path": words(
            "torch.optim.SGD", "torch.optim.RMSprop", "torch.optim.Muon", "torch.optim.LBFGS"
        )
    },
    **{"model.lr_scheduler": ANYTHING, "seed_everything": st.one_of(st.integers(-2, 2**33), FLAGS, ANYTHING)},
    **{"data.batch_size": COUNTS, "data.eval_batch_size": COUNTS, "data.seed": COUNTS, "data.threshold": NUMBERS},
    **{"data.binarisation": words("static", "dynamic", "threshold", "none"), "data.dequantise": FLAGS},
    **{
        "data.pixel_range": words("0..1", "-1..1"),
        "data.source": words("MNIST", "larochelle_murray", "larochelle_murrey"),
    },
    **{"trainer.max_steps": st.integers(-2, 3), "trainer.min_steps": COUNTS, "trainer.log_every_n_steps": COUNTS},
    **{
        "trainer.val_check_interval": st.one_of(COUNTS, NUMBERS),
        "trainer.limit_val_batches": st.one_of(COUNTS, NUMBERS),
    },
    **{"trainer.limit_train_batches": st.one_of(COUNTS, NUMBERS), "trainer.accumulate_grad_batches": COUNTS},
    **{"trainer.gradient_clip_val": NUMBERS, "trainer.gradient_clip_algorithm": words("norm", "value")},
    **{"trainer.precision": words(16, 32, 64, "16-mixed", "bf16-mixed", "64-true", "bf16-true", "16-true")},
    **{"trainer.accelerator": words("cpu", "auto", "gpu"), "trainer.devices": st.sampled_from([1, "1", 0, "x", [0]])},
    **{
        "trainer.logger": ANYTHING,
        "trainer.callbacks": ANYTHING,
        "trainer.plugins": ANYTHING,
        "trainer.fast_dev_run": COUNTS,
    },
    **{
        "trainer.num_sanity_val_steps": COUNTS,
        "trainer.overfit_batches": COUNTS,
        "trainer.enable_checkpointing": FLAGS,
    },
    **{
        "checkpoint.save_top_k": COUNTS,
        "checkpoint.monitor": words("val/bound", None),
        "checkpoint.filename": ANYTHING,
    },
    **{"checkpoint.every_n_train_steps": COUNTS, "checkpoint.last_every_seconds": NUMBERS, "pictures.side": COUNTS},
    **{
        "model": ANYTHING,
        "data": ANYTHING,
        "trainer": ANYTHING,
        "pictures": ANYTHING,
        "test_after_fit": FLAGS,
        "x": ANYTHING,
    },
}


def start(model: str) -> Config:
    """A configuration that works."""
    return {
        "model": {
            "class_path": f"lvm_lightning.modules.{model}",
            "init_args": {"data_dim": 12, "optimizer": OPTIMISER, **MODELS[model]},
        },
        "data": {"class_path": "tests.small.SmallImages", "init_args": {"batch_size": 50, "eval_batch_size": 50}},
        "trainer": {
            "max_steps": 2,
            "max_epochs": 1,
            "accelerator": "cpu",
            "limit_val_batches": 1,
            "val_check_interval": 1,
        },
        "pictures": {"side": 2},
    }


def put(config: Config, key: str, value: object) -> None:
    """Set ``a.b.c``; below ``model`` and ``data`` the arguments lie under ``init_args``."""
    *path, last = key.split(".")
    if path and path[0] in ("model", "data") and "init_args" not in (path[1:2] or [last]):
        path.insert(1, "init_args")
    for name in path:
        below = config.setdefault(name, {})
        if not isinstance(below, dict):
            return  # an earlier change has put something else there
        config = below
    config[last] = value


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    """A working configuration with one to three keys changed."""
    model = draw(st.sampled_from(sorted(MODELS)))
    config = copy.deepcopy(start(model))
    keys = SHARED | KEYS[model]
    for key in draw(st.lists(st.sampled_from(sorted(keys)), min_size=1, max_size=3, unique=True)):
        put(config, key, draw(keys[key]))
    return config


def run_or_one_line(config: Config) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        folder.mkdir()
        (folder / "fuzzed.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
        limits = ["--trainer.max_time", "00:00:00:10", "--trainer.enable_progress_bar", "false"]
        finished = command(folder, "fit", "--config", "fuzzed.yaml", *limits)
    assert finished.status in (0, 1, 2), finished.err
    assert "Traceback" not in finished.err, finished.err
    errors = [line for line in finished.err.splitlines() if "lvm-lightning: error: " in line]
    assert len(errors) == (finished.status != 0), finished.err
    if finished.status:
        assert finished.err.splitlines()[-1] == errors[0], finished.err
        assert len(errors[0]) > len("lvm-lightning: error: ") + 10, finished.err
    return finished.status


FUZZING: dict[str, Any] = {
    **{
        "deadline": None,
        "derandomize": True,
        "database": None,
        "phases": [Phase.explicit, Phase.generate, Phase.shrink],
    },
    **{"suppress_health_check": list(HealthCheck), "print_blob": False},
}


@pytest.mark.parametrize("model", MODELS)
def test_the_configuration_that_is_changed_works(model: str) -> None:
    assert run_or_one_line(start(model)) == 0


@settings(max_examples=20, **FUZZING)
@given(configurations())
def test_a_configuration_is_a_run_or_one_line(config: Config) -> None:
    """The short form of the soak test below."""
    run_or_one_line(config)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_five_hundred_configurations_are_runs_or_one_line() -> None:
    found: list[int] = []

    @settings(max_examples=500, **FUZZING)
    @given(configurations())
    def fuzz(config: Config) -> None:
        found.append(run_or_one_line(config))

    fuzz()
    assert len(found) >= 500
    assert 50 < found.count(0) < 450, "too few runs, or too few mistakes, to say much"
