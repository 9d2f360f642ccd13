#!/usr/bin/env bash
# Make a virtual environment, install, train the default model, test it, and say where everything is.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

echo "Installing into .venv (PyTorch is large: some minutes the first time) …"
prepare_environment .

started=$SECONDS
lvm-lightning fit --config configs/prior_iwae.yaml --test_after_fit true
run=$(ls -td runs/prior_iwae/version_* | head -n 1)

cat <<END

Trained and tested in $((SECONDS - started)) s. Everything lies in $run:
  figures/          samples, Bernoulli means, decoded grid, training curve
  evaluation.json   the numbers above
  checkpoints/      best.ckpt and last.ckpt

Watch it:      .venv/bin/tensorboard --logdir runs
Draw images:   .venv/bin/lvm-lightning sample $run
END
