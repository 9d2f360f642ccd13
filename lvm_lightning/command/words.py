"""What the command says of itself and of Lightning's subcommands."""

from lvm_lightning.support import PROGRAM

COMMAND = (
    f"Latent-variable models on PyTorch Lightning. '{PROGRAM} configs' lists what can be trained, as in '{PROGRAM} fit "
    f"--config prior_iwae'; '{PROGRAM} test RUN' measures a run in its folder, '{PROGRAM} fit RUN' goes on with it, "
    f"'{PROGRAM} compare RUN RUN …' puts runs side by side. '{PROGRAM} log_space' shows why log space, '{PROGRAM} "
    f"my_module.MyStudy' runs a study of your own."
)
LIGHTNINGS = {
    "fit": "Train a model, or go on with the training of a run.",
    "validate": "Measure the training bound on the validation images.",
    "test": "Measure log p(x) and what belongs to it on the test images.",
    "predict": "Write what the model says of each test image: its bound, and where its latent lies.",
}
"""Lightning's subcommands, and what they do here."""
SWEEP = "Train and test once for each combination of some settings, and put all runs in one table and one picture."
