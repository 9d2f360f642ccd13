"""A page for a run, or for several side by side."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lvm_lightning
from lvm_lightning.evaluation.plain import with_error
from lvm_lightning.evaluation.tags import tags_of
from lvm_lightning.figures.page import Headline, Page, Part, RunPart, Table
from lvm_lightning.studies.compare import Run, side_by_side
from lvm_lightning.studies.free import FreeStudy
from lvm_lightning.studies.run_files import PICTURE_BYTES, RunFiles, differing, read_run
from lvm_lightning.support import PROGRAM, UserError, replacing

PAGE, PAGE_OF_SEVERAL = "report.html", "comparison.html"
HEADLINES = ("log_px", "bound", "elbo", "iw_bound")
"""Tags of the numbers in large type, as far as a test has them."""
LARGE = 3
"""How many of them are shown."""


class Report(FreeStudy):
    """Write a page about a run, or about several side by side: one file that needs no network.

    It has the numbers of the last test, the curves, the pictures, the configuration and the command that makes the run
    again. Writes ``report.html`` into the run's folder. The page of several runs is ``comparison.html`` in the folder
    of the first; differences are paired where the tests kept each image's values (--evaluation.save_per_example true).

    The page of one run can also be asked about its model, where the prior is a standard normal and the decoder an MLP
    or a ResidualMLP for binary images: images along the latent plane, the posterior of an image, the bound over its
    samples; for K > 2 images along any two axes. For the toy model, densities.

    Args:
        run: folders of the runs.
        explorer: whether the page of one run holds what asks its model: it takes the checkpoint, and up to 5 MB.
        output: folder to write to instead.
    """

    def __init__(self, *run: Path, explorer: bool = True, output: Path | None = None) -> None:
        self.folders, self.explorer, self.output = [Path(folder) for folder in run], explorer, output

    def run(self) -> str:
        """Write it.

        Raises:
            UserError: if there is no run, one is no run's folder, or a file in it is damaged.
        """
        if not self.folders:
            raise UserError(f"RUN: must be the folder of a run, got none; as in '{PROGRAM} report runs/NAME/version_0'")
        path = (self.output or self.folders[0]) / (PAGE if len(self.folders) == 1 else PAGE_OF_SEVERAL)
        explorer = asked if self.explorer and len(self.folders) == 1 else None
        return f"written to {write_page(self.folders, path, explorer)}"


def write_page(folders: Sequence[Path], path: Path, explorer: Callable[[RunFiles], Part] | None) -> Path:
    """Write the page of some runs, with the part that asks the first one's model; the file is replaced in one step."""
    runs = [read_run(folder, PICTURE_BYTES // len(folders)) for folder in folders]
    content = page_of(runs, Part() if explorer is None else explorer(runs[0])).html()
    with replacing(path) as file:
        file.write(content.encode())
    return path


def asked(run: RunFiles) -> Part:
    """The part of a page that asks the run's model, where that is there."""
    if not any((run.folder / "checkpoints").glob("*.ckpt")):
        return Part(notes=("No explorer: this folder has no checkpoint.",))
    from lvm_lightning.studies.explorer import data_of, interactive  # what it imports takes time

    return interactive(lambda: lvm_lightning.load(run.folder), lambda: data_of(run.settings))


def page_of(runs: Sequence[RunFiles], part: Part) -> Page:
    """The page of some runs, with an interactive part."""
    runs[0].notes += part.notes
    names = [str(run.folder) for run in runs]
    units = [q["unit"] for run in runs for q in run.quantities if q["kind"] == "lower bound"]
    curves = [
        {"run": number, "tag": tag, "points": points}
        for number, run in enumerate(runs)
        for tag, points in run.curves.items()
    ]
    return Page(
        title=" and ".join(names),
        runs=[part_of(run) for run in runs],
        tables=[table for table in [*tables_of(runs)] if len(table.rows) > 1 or table.notes],
        data={"runs": names, "unit": units[0].partition(" (")[0] if units else "nats", "curves": curves, **part.data},
        parts=part.names,
    )


def part_of(run: RunFiles) -> RunPart:
    """What the page says of one run."""
    return RunPart(
        name=str(run.folder),
        headlines=headlines(run.quantities),
        pictures=run.pictures,
        configuration=run.configuration,
        provenance=facts(run.provenance),
        commands=commands(run),
        notes=run.notes,
    )


def headlines(quantities: Sequence[Mapping[str, Any]]) -> list[Headline]:
    """The first numbers of a test: value, kind, standard error, and how far the number itself may be off."""
    tags = {tag: name for name, tag in tags_of(str(q["name"]) for q in quantities).items()}
    named = {str(q["name"]): q for q in quantities}
    chosen = [tag for tag in HEADLINES if tag in tags][:LARGE] or [*tags][:LARGE]
    return [_headline(named[tags[tag]], named.get(tags.get(f"{tag}_error", ""))) for tag in chosen]


def _headline(q: Mapping[str, Any], own: Mapping[str, Any] | None) -> Headline:
    value, _, error = with_error(float(q["value"]), float(q["stderr"] or 0)).partition(" ± ")
    about = [str(q["kind"]) + (f", {q['samples']:,} samples" if q["samples"] else "")]
    if error:
        about.append(f"± {error} standard error over " + ("repeats" if q["images"] == 1 else f"{q['images']:,} images"))
    if own is not None:
        about.append(f"{float(own['value']):.2g} nats error of the number itself")
    return Headline(str(q["name"]), value, str(q["unit"]), about)


def tables_of(runs: Sequence[RunFiles]) -> list[Table]:
    """All numbers: of one run as its test prints them, of several side by side, and in which settings they differ."""
    if len(runs) == 1:
        rows = [["quantity", "value ± standard error", "unit", "kind", "split", "samples", "images"]]
        for q in runs[0].quantities:
            value = with_error(float(q["value"]), float(q["stderr"] or 0)).replace("-", "−")
            rows.append([q["name"], value, q["unit"], q["kind"], q["split"], f"{q['samples']:,}", f"{q['images']:,}"])
        return [Table("All numbers of the test", rows)]
    settings = Table(
        "Settings that differ", [["setting", *(str(r.folder) for r in runs)], *differing([r.settings for r in runs])]
    )
    try:
        compared = [Run(run.folder) for run in runs]
        notes = [run.note.removeprefix("note: ") for run in compared if run.note]
        return [Table("Side by side", side_by_side(compared), notes), settings]
    except UserError as error:  # the page has all the rest; why there is no comparison stands in its place
        return [Table("Side by side", [[""]], [f"Not compared: {str(error).removeprefix('RUN: ')}."]), settings]


def facts(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What a test's numbers are about, a line each."""
    names = {
        "seed": "seed of the test",
        "configuration": "SHA-256 of the configuration",
        "weights": "SHA-256 of the weights",
    }
    found = {name: str(provenance[key]) for key, name in names.items() if key in provenance}
    data = provenance.get("data") or {}
    if data:
        found["data"] = ", ".join(f"{name} {value}" for name, value in data.items() if value is not None)
    if provenance.get("device"):
        found["device"] = str(provenance["device"])
    versions = provenance.get("versions") or {}
    return found | ({"versions": ", ".join(f"{n} {v}" for n, v in versions.items())} if versions else {})


def commands(run: RunFiles) -> str:
    """The commands that train the run again, measure it, and write this page."""
    folder = shlex.quote(str(run.folder))
    config = shlex.quote(str(run.folder / "config.yaml"))
    train = f"{PROGRAM} fit --config {config}   # a new run with the same settings\n" if run.configuration else ""
    return (
        f"{train}{PROGRAM} test {folder}\n{PROGRAM} report {folder}   # this page; the model is in it where it can be"
    )
