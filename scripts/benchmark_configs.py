"""A training step of every config on fresh and on trained weights: python scripts/benchmark_configs.py --help.

Each config is trained by the command itself, at its own highest rate. When the training ends, the forward and backward
pass of one batch takes turns between the weights that it started from and those that it ended with; both should take
the same time. A step on the trained weights is then taken apart. ``products`` are matrix products and convolutions,
``likelihood`` is what else a Bernoulli likelihood does (others are in ``rest``), ``log-sum-exp`` the weights;
``denormals`` counts the numbers of the step that a processor may compute slowly, ``state`` those that the optimiser
keeps; ``kept`` is the share of samples that a step's last backward pass took, on fresh and on trained weights, where
some may be left out: a step that keeps fewer is faster, whatever its numbers. ``of rate`` is the speed of the products'
operations, the whole step's time taken, as a share of that of one large product in the same turn. Prints a table, and
writes JSON.
"""

import argparse
import importlib
import logging
import math
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from benchmark import PRODUCT, State, Step, Times, clock, fail, machine, product, ratio, require, run_fit, spread, write
from counters import Denormals, Operations, denormal
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from lvm_lightning.data.loader import Batch
from lvm_lightning.modules.base import LatentVariableModule

CONFIGS = {path.stem: path for path in sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))}
LONG_ENOUGH = 0.3
"""Seconds that a work has in a turn, at least."""
STRETCHES = 9
"""Parts of a turn, so that what else the machine does falls on all works alike."""
KINDS = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "conv"),
    "likelihood": ("_NaturalLogProb",),
    "log-sum-exp": ("_LogSumExp", "softmax", "_softmax", "_softmax_backward_data", "amax", "maximum", "logsumexp"),
}
"""Kinds of operations by their names, or those of what they stand inside. Convolutions have many names."""


def step_of(trainer: pl.Trainer, module: LatentVariableModule, batch: Batch) -> Step:
    """Forwards and backwards on a batch, in the trainer's precision."""

    def step() -> None:
        module.zero_grad()
        with trainer.precision_plugin.train_step_context():
            output = module.training_step(batch, 0)
        assert isinstance(output, dict)
        output["loss"].backward()

    return step


def turns_of(works: dict[str, Step], turns: int, before: Callable[[str], object]) -> Times:
    """Seconds of one call of each work in each turn: the median over stretches between which the others have theirs.

    Args:
        works: what is timed.
        turns: how many.
        before: called with a work's name before each of its stretches, outside the time.
    """
    repeats = {}
    for name, work in works.items():
        before(name)
        work()
        repeats[name] = max(1, math.ceil(LONG_ENOUGH / clock(work, 1)))
    stretches = min(STRETCHES, *repeats.values())
    found: Times = {name: [] for name in works}
    for _ in range(turns):
        parts: Times = {name: [] for name in works}
        for _ in range(stretches):
            for name, work in works.items():
                before(name)
                parts[name].append(clock(work, max(1, repeats[name] // stretches)))
        for name, seconds in parts.items():
            found[name].append(statistics.median(seconds))
    return found


def kept(module: LatentVariableModule, step: Step) -> float | None:
    """Share of the samples that the step's last backward pass takes; None where it does not look."""
    module.kept.share = -1.0  # it looks where it can
    step()
    return None if module.kept.share < 0 else module.kept.share


def kind_of(event: Any) -> str:
    """The kind of an operation, its own or that of the nearest one that it stands inside."""
    while event is not None:
        name = event.name.removeprefix("aten::").removesuffix("Backward")
        for kind, names in KINDS.items():
            if name in names or ("conv" in name and kind == "products"):
                return kind
        event = event.cpu_parent
    return "rest"


def parts(step: Step) -> dict[str, float]:
    """Seconds of a step's kinds of operations, by the profiler's clock."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    found: Counter[str] = Counter()
    for event in profiler.events() or []:
        found[kind_of(event)] += event.self_cpu_time_total
    return {kind: found[kind] / 1e6 for kind in (*KINDS, "rest")}


def copied(module: pl.LightningModule) -> State:
    """The weights, as they are now."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def dtype_of(trainer: pl.Trainer) -> torch.dtype:
    """What the products of its steps are computed in."""
    return torch.bfloat16 if trainer.precision == "bf16-mixed" else torch.float32


class FreshAndTrained(pl.Callback):
    """At the end of a training, takes turns between the weights that it started from and those that it ended with.

    Args:
        turns: how many.
    """

    found: ClassVar[dict[str, Any]] = {}

    def __init__(self, turns: int = 5) -> None:
        self.turns, self.batch = turns, Batch.of(torch.zeros(1, 1))
        self.fresh: State = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights that the training starts from."""
        self.fresh = copied(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, out: Any, batch: Batch, i: int
    ) -> None:
        """Keep the first batch: an epoch's last may be smaller."""
        if trainer.global_step == 1:
            self.batch = batch

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure."""
        assert isinstance(pl_module, LatentVariableModule)
        pl_module.logs_bound = False  # no step is running that could log
        step, (optimizer,) = step_of(trainer, pl_module, self.batch), trainer.optimizers
        states = {"fresh": self.fresh, "trained": copied(pl_module)}
        shares = {}
        for name, state in states.items():
            pl_module.load_state_dict(state)
            shares[name] = kept(pl_module, step)

        def before(name: str) -> None:
            name = name if name in states else "trained"
            pl_module.load_state_dict(states[name])
            pl_module.kept.share = shares[name] or 0.0

        works = {"fresh": step, "trained": step, "product": product(dtype_of(trainer))}
        seconds = turns_of(works, self.turns, before)
        with Operations() as operations, Denormals() as counted:
            step()
        remembered = [leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor)]
        type(self).found = {
            **{"precision": trainer.precision, "steps": trainer.global_step, "seconds": seconds},
            **{"operations": operations.total, "denormals": counted.found, "numbers": counted.seen},
            **{"denormals_in_state": sum(map(denormal, remembered)), "kept": shares},
            **{"parts": [parts(step) for _ in range(self.turns)]},
        }
        seconds |= turns_of({"optimizer": optimizer.step}, self.turns, lambda _: None)
        pl_module.load_state_dict(states["trained"])


def measure(config: Path, train_seconds: int, turns: int) -> dict[str, Any]:
    """Train a config for so long, and measure its steps."""
    with tempfile.TemporaryDirectory() as folder:
        run_fit(
            Path(folder),
            *("--config", config, "--model.lr_scheduler", "null", "--trainer.max_steps", -1),
            *("--trainer.max_time", f"{{seconds: {train_seconds}}}", "--trainer.limit_val_batches", 0),
            *("--trainer.enable_model_summary", "false"),
            *("--trainer.callbacks+=benchmark_configs.FreshAndTrained", "--trainer.callbacks.turns", turns),
        )
    # this file under the name that the command knows it by
    found: dict[str, Any] = importlib.import_module("benchmark_configs").FreshAndTrained.found
    seconds, work = found["seconds"], found["operations"] / PRODUCT
    found["trained / fresh"] = ratio(seconds["trained"], seconds["fresh"])
    found["of_rate"] = [work * p / t for p, t in zip(seconds["product"], seconds["trained"], strict=True)]
    return found


COLUMNS = {
    **{"config": 26, "steps": 7, "fresh": 9, "trained": 9, "trained / fresh": 20, "denormals": 9, "state": 8},
    **{"kept": 13, "optimizer": 9, "products": 9, "likelihood": 10, "log-sum-exp": 11, "rest": 8, "of rate": 7},
}
"""Names and widths of the table's columns."""


def show(cells: dict[str, str]) -> None:
    """A line of the table, at once."""
    print("  ".join(f"{cells.get(name, ''):>{width}}" for name, width in COLUMNS.items()), flush=True)


def row(name: str, found: dict[str, Any]) -> dict[str, str]:
    """A config's line; times in milliseconds."""
    seconds = found["seconds"] | {kind: [part[kind] for part in found["parts"]] for kind in found["parts"][0]}
    return {
        **{what: f"{1e3 * statistics.median(values):.2f}" for what, values in seconds.items()},
        **{"config": name, "steps": f"{found['steps']:,}", "trained / fresh": spread(found["trained / fresh"], ".2f")},
        **{"denormals": f"{sum(found['denormals'].values()):,}", "state": f"{found['denormals_in_state']:,}"},
        **{"kept": ", ".join(f"{share:.1%}" for share in found["kept"].values() if share is not None)},
        **{"of rate": f"{statistics.median(found['of_rate']):.0%}"},
    }


def main() -> None:
    """Measure the configs that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="*", help="names in configs/, without .yaml; all by default")
    parser.add_argument("--train_seconds", type=int, default=30)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark_configs.json"))
    parser.add_argument("--list", action="store_true", help="list the configs and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CONFIGS))
        return
    for name in options.config:
        if name not in CONFIGS:
            fail(f"config: must be one of {', '.join(CONFIGS)}, got {name}")
    require(options, train_seconds=1, turns=1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own log
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    about = machine()
    print(f"{about['kind']}, torch {about['torch']}; milliseconds")
    show({name: name for name in COLUMNS})
    found = {}
    for name in options.config or CONFIGS:
        found[name] = measure(CONFIGS[name], options.train_seconds, options.turns)
        show(row(name, found[name]))
        write(options.output, about | {"train_seconds": options.train_seconds, "configs": found})
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
