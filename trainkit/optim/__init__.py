"""Optimizers over one flat buffer."""
