"""Optimizers, the groups of parameters they step, and the learning rate over the run."""

from simclr.optim.muon import Muon
from simclr.optim.optimizers import LARS, parameter_groups
from simclr.optim.schedule import learning_rate

__all__ = ["LARS", "Muon", "learning_rate", "parameter_groups"]
