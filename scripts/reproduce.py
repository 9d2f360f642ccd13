"""Run the rows of a table of systems, and write what came out beside the published figures.

Each row is a config with overrides (scripts/table.yaml): it is trained, its best state on validation is tested, and
everything that it takes to read the number goes into results.md and results.json: the published value and its source,
ours with its standard error, ELBO, active units, data and their digest, steps, device, wall time, versions. A row that
was interrupted goes on when the same command is given again; a row that is finished is not run again, and is refused
where its recipe has changed since.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import torch
import yaml
from filelock import FileLock, Timeout
from jsonargparse import ArgumentError, ArgumentParser

from lvm_lightning.command.checkpoints import read_checkpoint
from lvm_lightning.command.children import STOPPED, clear_left_over, run_command
from lvm_lightning.evaluation.plain import digest_of, write_json
from lvm_lightning.studies.run_files import VALIDATION, from_events
from lvm_lightning.support import UserError
from lvm_lightning.support.files import replacing

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_name("table.yaml")
WHAT_IS_RUN = ("config", "overrides", "test_overrides", "data", "checkpoint", "weights_of")
"""What must not have changed in a row whose numbers are taken over."""
COLUMNS = (
    *("row", "system", "data", "log p(x)", "its own error", "", "like the published", "ELBO or bound", "active units"),
    *("published", "steps", "fit", "test"),
)
"""Of the table."""
LARGEST_PICTURE = 200_000
"""Bytes of a picture that is published."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A figure of the literature.

    Attributes:
        value: nats per image, as a log-likelihood: negative.
        of: what it is, in words.
        source: where it stands.
        elbo: the ELBO that stands beside it.
        active_units: the number of active latent dimensions that stands beside it.
    """

    value: float
    of: str
    source: str
    elbo: float | None = None
    active_units: int | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A system to run.

    Attributes:
        name: of the row, and of its folder.
        system: what it is, in words.
        config: file of its configuration.
        figure: name of the quantity that is its log p(x).
        overrides: arguments that fit and test both get.
        test_overrides: arguments that only test gets.
        data: ``larochelle_murray`` for the literature's copy; None for what the config names.
        checkpoint: which state is tested: ``best`` on validation, or the ``last``.
        weights_of: name of the row whose best state the training starts from.
        bound: name of the quantity that is its ELBO.
        published: the figure to stand beside.
        like_published: name of the quantity that is of the same kind as the published one, where ``figure`` is not.
        pictures: names of the figures that are published.
    """

    name: str
    system: str
    config: str
    figure: str
    overrides: list[str] = dataclasses.field(default_factory=list)
    test_overrides: list[str] = dataclasses.field(default_factory=list)
    data: Literal["larochelle_murray"] | None = None
    checkpoint: Literal["best", "last"] = "best"
    weights_of: str | None = None
    bound: str = "ELBO"
    published: Published | None = None
    like_published: str | None = None
    pictures: list[str] = dataclasses.field(default_factory=list)


class RowError(Exception):
    """A row cannot be run, or did not end; the message is one line."""


class WrongArgumentError(RowError):
    """An argument of this script is wrong: nothing has been run."""


class Stopped(Exception):  # noqa: N818
    """A signal asked for the end; the message is what was running.

    Args:
        status: exit status of the command that was stopped.
    """

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class Told:
    """Says of a row which of how many it is, what it does, and for how long it has been running.

    Args:
        number: of the row, from 1.
        of: how many rows there are.
        name: of the row.
    """

    def __init__(self, number: int, of: int, name: str) -> None:
        self._row, self._started = f"row {number} of {of}, {name}", time.monotonic()

    def __call__(self, what: str) -> None:
        """Say it in a line."""
        seconds = time.monotonic() - self._started
        print(f"{self._row}{f', after {duration(seconds)}' if seconds >= 1 else ''}: {what}", flush=True)


class Place(NamedTuple):
    """Where a row is run.

    Attributes:
        folder: of its run.
        amat: of Larochelle & Murray's files, where they are given.
    """

    folder: Path
    amat: Path | None


def read_table(path: Path) -> list[Row]:
    """The rows of a table.

    Raises:
        WrongArgumentError: if the file is not there, or says something that a row does not have.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--rows", type=list[Row])
    try:
        rows: list[Row] = parser.instantiate(parser.parse_object({"rows": yaml.safe_load(path.read_text())})).rows
    except (OSError, ValueError, yaml.YAMLError, ArgumentError, TypeError, RecursionError) as error:
        raise WrongArgumentError(f"--table: cannot read {path}: {' '.join(str(error).split())}") from error
    return rows


def chosen(rows: Sequence[Row], names: Sequence[str], amat: Path | None) -> list[Row]:
    """The rows that are named, or all that can be run with the data that are given.

    Raises:
        WrongArgumentError: if a name is not in the table, or a row that is named needs data that are not given.
    """
    known = {row.name: row for row in rows}
    for name in names:
        if name not in known:
            raise WrongArgumentError(f"row: must be one of {', '.join(known)}, got {name}")
    wanted = [known[name] for name in names] or list(rows)
    lacking = [row.name for row in wanted if row.data and amat is None]
    if lacking and names:
        raise WrongArgumentError(
            f"--amat: {', '.join(lacking)} need{'s' * (len(lacking) == 1)} Larochelle & Murray's files, got no folder; "
            "name the one that holds binarized_mnist_{train,valid,test}.amat"
        )
    if lacking:
        print(f"left out, as they need --amat DIR: {', '.join(lacking)}", flush=True)
    return [row for row in wanted if row.name not in lacking]


def arguments_of(row: Row, place: Place) -> list[str]:
    """What fit and test both are told."""
    arguments = ["--config", row.config, *row.overrides]
    if row.data:
        arguments += ["--data.source", row.data, "--data.folder", str(place.amat)]
    folder = place.folder
    arguments += ["--trainer.logger.save_dir", str(folder.parent), "--trainer.logger.name", ""]
    return [*arguments, "--trainer.logger.version", folder.name]


def command(arguments: Sequence[str]) -> None:
    """Run ``lvm-lightning`` with these arguments, in a process of its own.

    Raises:
        Stopped: if a signal ended it.
        RowError: if it failed; it has said why.
    """
    status = run_command(arguments, ROOT)
    if status in STOPPED:
        raise Stopped(status)
    if status < 0:
        raise RowError(f"'lvm-lightning {arguments[0]}' was ended by {signal.Signals(-status).name}; short of memory?")
    if status != 0:
        raise RowError(f"'lvm-lightning {arguments[0]}' ended with status {status}, see above")


def run(row: Row, place: Place, told: Callable[[str], None] = lambda what: None) -> dict[str, Any]:
    """Train, test and describe a row, going on from what an interrupted run left.

    Args:
        row: the row.
        place: where it is run.
        told: is told what is done next.

    Raises:
        RowError: if a command fails, the folder holds another run, or another process is running the row.
        Stopped: if a signal ended it.
    """
    place.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place.folder.with_name(f".{row.name}.lock"), timeout=0):
            return run_alone(row, place, told)
    except Timeout as error:
        raise RowError(f"another process is running it in {place.folder}") from error


def run_alone(row: Row, place: Place, told: Callable[[str], None]) -> dict[str, Any]:
    """:func:`run` in a folder that no other process writes to."""
    record, last = place.folder / "row.json", place.folder / "checkpoints" / "last.ckpt"
    settings = digest_of_settings(row)
    done: dict[str, Any] = read_json(record, {})
    if done:
        if any(done["row"].get(name) != getattr(row, name) for name in WHAT_IS_RUN):
            raise RowError(f"{place.folder} holds the run of another row; name another --output")
        if done.get("settings") != settings:
            raise RowError(
                f"{place.folder} was run before {row.config} got the settings that it has now; "
                "move it away, or name another --output"
            )
        told("was finished before")
        return done | described(row, place.folder)
    if not last.exists():
        try:
            clear_left_over(place.folder)
        except UserError as error:
            raise RowError(str(error)) from error
    arguments = arguments_of(row, place)
    told(f"goes on after {duration(seconds_of_training(last))} of training" if last.exists() else "training")
    command(["fit", *arguments, *(["--ckpt_path", str(last)] if last.exists() else first_weights(row, place))])
    state = place.folder / "checkpoints" / f"{row.checkpoint}.ckpt"
    started = time.monotonic()
    told("test")
    command(["test", *arguments, *row.test_overrides, "--ckpt_path", str(state)])
    took = {
        "settings": settings,
        "test_seconds": time.monotonic() - started,
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
    }
    done = described(row, place.folder) | took
    write_json(record, done)
    told("finished")
    return done


def seconds_of_training(checkpoint: Path) -> float:
    """How long the training has taken that a checkpoint comes from."""
    return float(read_checkpoint(checkpoint)["callbacks"].get("Timer", {}).get("time_elapsed", {}).get("train", 0.0))


def first_weights(row: Row, place: Place) -> list[str]:
    """What fit is told of the row whose weights it starts from.

    Raises:
        RowError: if that row is not finished.
    """
    if row.weights_of is None:
        return []
    folder = place.folder.with_name(row.weights_of)
    if not (folder / "row.json").exists():
        raise RowError(f"its training starts from the weights of {row.weights_of}, which is not finished; run it first")
    return ["--weights_from", str(folder / "checkpoints" / "best.ckpt")]


def digest_of_settings(row: Row) -> str:
    """SHA-256 of what the row's config says, whatever its comments and the order of its lines.

    Raises:
        RowError: if the config cannot be read.
    """
    try:
        return digest_of(yaml.safe_load((ROOT / row.config).read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise RowError(f"config: cannot read {row.config}: {' '.join(str(error).split())}") from error


def read_json(path: Path, otherwise: Any) -> Any:
    """What a file holds, or something else where there is none.

    Raises:
        RowError: if it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return otherwise
    except (OSError, ValueError, RecursionError) as error:
        raise RowError(f"{path} cannot be read ({type(error).__name__}); move it away") from error


def make_folders(**folders: Path | None) -> None:
    """Make the folders that the arguments of these names ask for.

    Raises:
        WrongArgumentError: if one cannot be written to.
    """
    for name, folder in folders.items():
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
        except OSError as error:
            raise WrongArgumentError(
                f"--{name}: must be a folder that can be written to, got {folder} ({error.strerror}); name another one"
            ) from error


def described(row: Row, folder: Path) -> dict[str, Any]:
    """What the run's files say of it.

    Raises:
        RowError: if the row's figure was not measured.
    """
    evaluation = json.loads((folder / "evaluation.json").read_text())
    quantities = {q["name"]: q for q in evaluation["quantities"]}
    if row.figure not in quantities:
        raise RowError(f"figure: must be one of {', '.join(quantities)}, got {row.figure!r}")
    last = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    tested = read_checkpoint(folder / "checkpoints" / f"{row.checkpoint}.ckpt")
    units = quantities.get("active units")
    return {
        "row": dataclasses.asdict(row),
        "command": f"python scripts/reproduce.py {row.name}{' --amat DIR' if row.data else ''}",
        "log_p": quantities[row.figure],
        "bound": quantities.get(row.bound) or first_bound(evaluation["quantities"], row.figure),
        "like_published": quantities.get(row.like_published or ""),
        "active_units": None if units is None else int(units["value"]),
        "steps": last["global_step"],
        "epochs": last["epoch"] + 1,
        "tested_step": tested["global_step"],
        "validation": validation(folder),
        "fit_seconds": last["callbacks"].get("Timer", {}).get("time_elapsed", {}).get("train"),
        **evaluation,
    }


def first_bound(quantities: Sequence[Mapping[str, Any]], figure: str) -> Mapping[str, Any]:
    """The first lower bound that is not the figure itself, or else the figure."""
    named = {q["name"]: q for q in quantities}
    return next((q for q in quantities if q["kind"] == "lower bound" and q["name"] != figure), named[figure])


def own_error(result: Mapping[str, Any]) -> str:
    """How far log p(x) itself may be off in the mean: the quadrature's error, or what half of the samples lack."""
    figure = re.sub(r"^log [pP]\(.*?\) (≥ |by )?| \+ D log Δ$", "", result["log_p"]["name"])
    for q in result["quantities"]:
        if q["name"] in (f"error of {figure}", f"error of the {figure}"):
            return f"{q['value']:.1g}" if q["value"] < 1e-3 else f"{q['value']:.3f}"
    return ""


def validation(folder: Path) -> list[list[float]]:
    """Step and validation bound, in nats, of each validation: the curve that the tested state was chosen from."""
    return [[int(step), bound] for step, bound in from_events(folder)[VALIDATION]]


def processor() -> str:
    """The processor's name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """The table, a line for each row."""
    head = "".join(f"| {name} " for name in COLUMNS) + "|"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    return "\n".join([*lines, *map(line_of, results)]) + "\n"


def line_of(result: Mapping[str, Any]) -> str:
    """A row of the table."""
    row, published, like = result["row"], result["row"]["published"], result.get("like_published")
    beside = ""
    if published:
        beside = f"{number(published['value'])} ({published['of']}; {published['source']})"
        if published["elbo"] is not None:
            beside += f", ELBO {number(published['elbo'])}"
        if published["active_units"] is not None:
            beside += f", {published['active_units']} active units"
    cells = [
        f"`{row['name']}`",
        row["system"],
        data_in_words(result["provenance"]["data"]),
        f"**{measured(result['log_p'])}**",
        own_error(result),
        meaning(result["log_p"]),
        f"{measured(like)} ({like['name'].removeprefix('log p(x) ≥ ')})" if like else "",
        f"{measured(result['bound'])} ({result['bound']['name']})",
        "" if result["active_units"] is None else str(result["active_units"]),
        beside,
        f"{result['steps']:,} (epochs: {result['epochs']:,})",
        duration(result["fit_seconds"]),
        duration(result["test_seconds"]),
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def meaning(quantity: Mapping[str, Any]) -> str:
    """What a quantity is: its name and its unit, where that is not the usual one."""
    unit = "" if quantity["unit"] == "nats per image" else f", {quantity['unit']}"
    return f"{quantity['name']}, {quantity['kind']}{unit}"


def data_in_words(data: Mapping[str, Any]) -> str:
    """The data set, and the beginning of its digest."""
    kind = "" if data.get("binarisation") in (None, "none") else f" {data['binarisation']}"
    return f"{data['source']}{kind} ({data['digest'][:8]})"


def measured(quantity: Mapping[str, Any]) -> str:
    """Value ± standard error."""
    error = f" ± {quantity['stderr']:.2f}" if quantity["stderr"] else ""
    return f"{number(quantity['value'])}{error}"


def number(value: float) -> str:
    """Two decimals and a true minus sign."""
    return f"{value:.2f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Minutes and seconds."""
    return "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


HEADING = "# All rows"
"""Of results.md."""


def write_results(results: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write ``results.md`` and ``results.json``."""
    write_json(folder / "results.json", results)
    with replacing(folder / "results.md") as file:
        file.write(f"{HEADING}\n\n{markdown(results)}".encode())


def publish(results: Sequence[Mapping[str, Any]], output: Path, folder: Path, order: Sequence[str]) -> None:
    """Write the results into another folder, where those of the table's other rows stay, with the small pictures.

    Raises:
        RowError: if a picture is missing or not small.
    """
    path = folder / "results.json"
    held = {old["row"]["name"]: old for old in read_json(path, [])}
    held |= {result["row"]["name"]: result for result in results}
    write_results([held[name] for name in order if name in held], folder)
    for result in results:
        name = result["row"]["name"]
        for picture in result["row"]["pictures"]:
            source = output / name / "figures" / f"{picture}.png"
            if not source.exists() or source.stat().st_size > LARGEST_PICTURE:
                raise RowError(f"pictures: {source} must be there and at most {LARGEST_PICTURE:,} bytes")
            (folder / name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name / source.name)


def fail(message: str, status: int = 1) -> NoReturn:
    """One line, and the status: 1, or 2 for a wrong argument."""
    print(f"reproduce.py: {message}", file=sys.stderr)
    sys.exit(status)


def main() -> None:
    """Run the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="*", help="rows to run; all by default")
    parser.add_argument("--amat", type=Path, metavar="DIR", help="folder of Larochelle & Murray's .amat files")
    parser.add_argument("--output", type=Path, default=Path("runs/table"), help="folder of the runs (%(default)s)")
    parser.add_argument("--publish", type=Path, metavar="DIR", help="folder for the table, its JSON and the pictures")
    parser.add_argument("--table", type=Path, default=TABLE, help="the table (scripts/table.yaml)")
    parser.add_argument("--list", action="store_true", help="list the rows and stop")
    options = parser.parse_args()
    amat = None if options.amat is None else options.amat.resolve()
    results, failed = [], []
    try:
        rows = read_table(options.table)
        if options.list:
            print("\n".join(f"{row.name:24} {row.system}" for row in rows))
            return
        wanted = chosen(rows, options.row, amat)
        make_folders(output=options.output, publish=options.publish)
        for number, row in enumerate(wanted, start=1):
            try:
                place, told = Place(options.output.resolve() / row.name, amat), Told(number, len(wanted), row.name)
                results.append(run(row, place, told))
            except RowError as error:
                failed.append(row.name)
                print(f"reproduce.py: {row.name}: {error}", file=sys.stderr, flush=True)
                continue
            write_results(results, options.output)
            if options.publish:
                publish(results, options.output, options.publish, [row.name for row in rows])
    except RowError as error:
        fail(str(error), 2 if isinstance(error, WrongArgumentError) else 1)
    except Stopped as stopped:
        print("reproduce.py: stopped; the same command goes on", file=sys.stderr)
        sys.exit(stopped.status)
    print(markdown(results))
    if failed:
        fail(f"not finished: {', '.join(failed)}")


if __name__ == "__main__":
    main()
