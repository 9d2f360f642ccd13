"""One training and test for each combination of some settings, one after the other; a table and a picture of all."""

import argparse
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from lvm_lightning.command.children import STOPPED, clear_left_over, run_command
from lvm_lightning.command.words import SWEEP
from lvm_lightning.evaluation.layout import Screen, aligned
from lvm_lightning.evaluation.per_example import REPORT
from lvm_lightning.evaluation.plain import with_error, write_json
from lvm_lightning.studies.compare import Run
from lvm_lightning.support import PROGRAM, UserError
from lvm_lightning.support.files import expanded

LIST = re.compile(r"[^\[\]{}()'\"\s,]+(,[^\[\]{}()'\"\s,]+)+")
"""Values between commas, without brackets: those hold a list that is one value."""
COLUMNS = {
    "log_px": "log p(x)",
    "log_px_error": "its error",
    "bound": "bound",
    "elbo": "ELBO",
    "gap": "log p(x) − bound",
}
"""Tag → column of the table."""
DRAWN = ("log_px", "bound", "elbo")
RECORD, TABLE, PICTURE = "sweep.json", "sweep.txt", "sweep.png"


class Sweep(NamedTuple):
    """What is asked for.

    Attributes:
        fixed: arguments of every run.
        varied: option → its values.
        folder: of the runs, the table and the picture.
    """

    fixed: list[str]
    varied: dict[str, list[str]]
    folder: Path

    @classmethod
    def of(cls, words: Sequence[str]) -> "Sweep":
        """Read a command line.

        Raises:
            UserError: if no option has a list of values, or a list has a gap.
        """
        parser = argparse.ArgumentParser(f"{PROGRAM} sweep", allow_abbrev=False, add_help=False)
        parser.add_argument("--output")
        known, rest = parser.parse_known_args(words)
        rest = list(itertools.chain.from_iterable(w.split("=", 1) if re.match(r"--[\w.]+=", w) else [w] for w in rest))
        fixed, varied = list[str](), dict[str, list[str]]()
        for before, word in zip(["", *rest], rest, strict=False):
            if before.startswith("--") and LIST.fullmatch(word):
                varied[fixed.pop().removeprefix("--")] = word.split(",")
            elif before.startswith("--") and re.match(r"[^\[{(]*,", word):
                raise UserError(f"{before[2:]}: must be values between commas, with no gap, got {word}")
            else:
                fixed.append(word)
        if not varied:
            raise UserError("sweep: must vary a setting, got no list; as in --model.inner_samples 8,32,128")
        config = [b for a, b in itertools.pairwise(rest) if a in ("--config", "-c")]
        folder = known.output or f"runs/sweep_{Path(config[0].split(',')[0]).stem if config else 'model'}"
        return cls(fixed, varied, Path(expanded(folder)))

    def combinations(self) -> list[dict[str, str]]:
        """Option → value, for each run."""
        return [dict(zip(self.varied, values, strict=True)) for values in itertools.product(*self.varied.values())]

    def folder_of(self, chosen: Mapping[str, str]) -> Path:
        """Of a run: it is named by what is its own."""
        words = (f"{name.rpartition('.')[-1]}-{Path(value).stem or value}" for name, value in chosen.items())
        return self.folder / re.sub(r"[^\w.+-]", "_", "_".join(words))


def sweep(words: Sequence[str]) -> int:
    """Run what is not finished, then write the table and the picture; returns the exit status.

    Several processes may be given the same sweep, on machines that share its folder, as SLURM's job arrays start them:
    each takes the next run that no other has, and who ends last writes the table.
    """
    asked = Sweep.of(words)
    _claim(asked)
    runs, elsewhere = asked.combinations(), 0
    for number, chosen in enumerate(runs, start=1):
        told = f"run {number} of {len(runs)}, " + ", ".join(f"{name} {value}" for name, value in chosen.items())
        folder = asked.folder_of(chosen)
        try:
            with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
                status = _run(asked, chosen, told)
        except Timeout:
            elsewhere += 1
            print(f"{PROGRAM}: {told}: another process runs it", file=sys.stderr, flush=True)
            continue
        if status:
            if status in STOPPED:
                print(f"{PROGRAM}: the same command goes on with the sweep", file=sys.stderr)
            return status
    if elsewhere:
        print(f"{elsewhere} of {len(runs)} runs are still run by other processes; the last one writes the table")
    else:
        print(_written(asked))
    return 0


def _run(asked: Sweep, chosen: Mapping[str, str], told: str) -> int:
    """Train and test a run that is not finished; the status."""
    finished = (asked.folder_of(chosen) / REPORT).is_file()
    print(f"{PROGRAM}: {told}{': finished before' if finished else ''}", file=sys.stderr, flush=True)
    return 0 if finished else run_command(_arguments(asked, chosen))


def _claim(asked: Sweep) -> None:
    """Keep what was asked for in the folder, or find that it is the same.

    Raises:
        UserError: if the folder is another sweep's.
    """
    record, words = asked.folder / RECORD, [asked.fixed, asked.varied]
    try:
        held = json.loads(record.read_text())["arguments"] if record.is_file() else words
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"output: {record} cannot be read ({type(error).__name__}); name another --output") from error
    if held != words:
        raise UserError(f"output: must be the folder of the same sweep, got {asked.folder} of another; name another")
    asked.folder.mkdir(parents=True, exist_ok=True)
    if not record.is_file():
        write_json(record, {"arguments": words})


def _arguments(asked: Sweep, chosen: Mapping[str, str]) -> list[str]:
    """What trains and tests a run, or goes on with it; what has no checkpoint yet starts anew."""
    folder = asked.folder_of(chosen)
    then = ["--test_after_fit", "true"]
    if (folder / "checkpoints" / "last.ckpt").is_file():
        return ["fit", str(folder), *then]
    clear_left_over(folder)
    place = {"save_dir": folder.parent.parent, "name": folder.parent.name, "version": folder.name}
    own = [word for name, value in chosen.items() for word in (f"--{name}", value)]
    where = [word for name, value in place.items() for word in (f"--trainer.logger.init_args.{name}", str(value))]
    return ["fit", *asked.fixed, *own, *where, *then]


def _written(asked: Sweep) -> str:
    """Write the table, the values and the picture of all runs; returns the table and where everything is."""
    runs = [(chosen, Run(asked.folder_of(chosen))) for chosen in asked.combinations()]
    tags = [tag for tag in COLUMNS if any(tag in run.names for _, run in runs)]
    head = [*(name.rpartition(".")[-1] for name in asked.varied), *(COLUMNS[tag] for tag in tags)]
    rows = [[*chosen.values(), *(_cell(run, tag) for tag in tags)] for chosen, run in runs]
    values = []
    for chosen, run in runs:
        found = {tag: run.quantities[name]._asdict() for tag, name in run.names.items()}
        values.append({"settings": chosen, "folder": str(run.path), "values": found})
    write_json(asked.folder / RECORD, {"arguments": [asked.fixed, asked.varied], "runs": values})
    units = dict.fromkeys(run.quantities[run.names[tag]].unit for _, run in runs for tag in tags if tag in run.names)
    told = f"unit: {', '.join(units)}"
    (asked.folder / TABLE).write_text(f"{aligned([head, *rows])}\n\n{told}\n", encoding="utf-8")
    left = [RECORD, TABLE, *_drawn(asked, runs, ", ".join(units))]
    where = " and ".join(str(asked.folder / name) for name in left)
    return f"{aligned([head, *rows], Screen.here())}\n\n{told}\n\nwritten to {where}"


def _cell(run: Run, tag: str) -> str:
    if tag not in run.names:
        return "—"
    found = run.quantities[run.names[tag]]
    return with_error(found.value, found.stderr)


def _drawn(asked: Sweep, runs: Sequence[tuple[Mapping[str, str], Run]], unit: str) -> list[str]:
    """Draw the values over the first option whose values are numbers; a curve for each choice of the others."""
    numeric = next((name for name, values in asked.varied.items() if all(map(_is_number, values))), None)
    if numeric is None:
        return []
    from lvm_lightning.figures.curves import sweep_curves
    from lvm_lightning.figures.pictures import save_figure

    curves: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for chosen, run in runs:
        others = ", ".join(f"{n.rpartition('.')[-1]} {value}" for n, value in chosen.items() if n != numeric)
        for tag in DRAWN:
            if tag in run.names:
                found = run.quantities[run.names[tag]]
                point = (float(chosen[numeric]), found.value, found.stderr)
                curves.setdefault((COLUMNS[tag], others), []).append(point)
    save_figure(sweep_curves(curves, numeric.rpartition(".")[-1], unit), asked.folder / PICTURE)
    return [PICTURE]


def _is_number(word: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", word, re.IGNORECASE) is not None


def page() -> str:
    """Its help."""
    parser = argparse.ArgumentParser(f"{PROGRAM} sweep", description=SWEEP, epilog=EPILOG)
    parser.add_argument("--output", help="folder of the runs, the table and the picture (runs/sweep_CONFIG)")
    parser.add_argument("--NAME", metavar="A,B,…", help="any option of fit: one run for each of the values")
    parser.add_argument("--OTHER", metavar="VALUE", help="any option of fit: the same in every run")
    return parser.format_help()


EPILOG = (
    f"'{PROGRAM} sweep --config prior_iwae --model.inner_samples 8,32,128 --seed_everything 0,1' trains and tests six "
    "runs. Values in brackets, as [512, 512], are one value. Stopped, the same command goes on; finished runs are kept."
)
