"""The notebook: its cells run, in a shorter form, and what it claims is so."""

import json
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from tests.conftest import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "story.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_every_cell_has_been_run_and_none_failed() -> None:
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert "/home" not in json.dumps(NOTEBOOK)
    assert "/tmp" not in json.dumps(NOTEBOOK)


def test_what_the_story_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Executed by ``exec`` in one namespace, as a notebook does it, so that Jupyter is not needed."""
    monkeypatch.setattr(mpl, "interactive", lambda _: None)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    names: dict[str, Any] = {"__name__": "__main__"}
    state = torch.get_rng_state()
    for cell in CODE:
        source = "".join(cell["source"]).replace("STEPS = 300", "STEPS = 60").replace("1000, observed", "100, observed")
        exec(compile(source, "story.ipynb", "exec"), names)
    torch.set_rng_state(state)
    assert names["STEPS"] == 60
    assert names["exact"]["log of mean"] > names["exact"]["mean of logs"] + 10
    bounds, truth = names["bounds"], names["truth"]
    assert bounds == sorted(bounds)
    assert bounds[-1] < truth + 0.5
    assert names["bound"] + names["kl"] == pytest.approx(names["log_p"], abs=1e-3)
    assert float(names["elbo"](names["log_w_vae"]).mean()) < float(names["found"].value.mean())
    assert names["after"] / 512 > names["before"] / 4096
