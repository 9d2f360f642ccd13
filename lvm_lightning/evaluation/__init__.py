"""Labelled quantities in nats with their standard errors, and how they are computed."""
