"""Help: a subcommand's own options first and in a page, and all of them where they are asked for."""

import pytest

from tests.conftest import Run

OWN = {
    "fit": "--weights_from",
    "test": "--ckpt_path",
    "predict": "--ckpt_path",
    "sample": "--count",
    "tightness": "--largest",
    "anneal": "--chains",
    "diagnose": "--gradient_repeats",
}


@pytest.mark.parametrize("subcommand", OWN)
def test_a_page_tells_what_is_the_subcommands_own(
    subcommand: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(subcommand, "--help") == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= 60
    assert page.startswith(f"usage: lvm-lightning {subcommand} [RUN]")
    assert page.index(OWN[subcommand]) < page.index("\noptions:")
    assert ("--weights_from" in page) == (subcommand == "fit")
    assert f"'lvm-lightning {subcommand} --help-all' tells all of them" in page
    assert "--trainer.max_steps" not in page


def test_everything_is_told_where_it_is_asked_for(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--help-all") == 0
    everything = capsys.readouterr().out
    for option in ("--trainer.max_steps", "--model.help", "--evaluation.log_p", "--weights_from", "--pictures.side"):
        assert option in everything
    assert run("fit", "--help") == 0
    assert len(capsys.readouterr().out.splitlines()) <= 60  # what was asked before leaves nothing behind
    assert run("fit", "--model.help", "PriorIWAE") == 0
    assert "inner_samples" in capsys.readouterr().out


def test_the_command_and_what_needs_no_model_keep_theirs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["compare", "--help"], ["configs", "--help"]):
        assert run(*arguments) == 0
        assert 10 < len(capsys.readouterr().out.splitlines()) <= 60
