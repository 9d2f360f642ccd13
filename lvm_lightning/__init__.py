"""Latent-variable models on PyTorch Lightning.

One sentence holds the whole package: a latent-variable model p(x, z) and a proposal q(z|x) give log
importance weights ``log_w = log p(x, z) − log q(z|x)``, and a bound is a pure function of ``log_w``.
"""

__version__ = "0.1.0"
