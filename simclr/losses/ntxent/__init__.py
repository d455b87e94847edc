"""NT-Xent: the textbook form with its mask, and the tiled one that never holds N x N."""

from simclr.losses.ntxent.loss import NTXentConfig, NTXentLoss, nt_xent, nt_xent_reference

__all__ = ["NTXentConfig", "NTXentLoss", "nt_xent", "nt_xent_reference"]
