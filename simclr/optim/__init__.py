"""Optimizers, the groups of parameters they step, and the learning rate over the run."""
