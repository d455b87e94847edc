"""The projection head: features h (N, F) to embeddings z (N, D), where the contrastive loss lives; and a predictor."""

import itertools

from torch import nn

from simclr.config import HeadConfig

__all__ = ["predictor", "projection_head"]


def projection_head(features: int, config: HeadConfig) -> nn.Module:
    """MLP of ``config.layers`` linear layers with BatchNorm and ReLU between them (SimCLR, Chen et al. 2020, sec. 4.2).

    As in the paper's code the last layer is linear and its BatchNorm has no shift; a linear layer that a BatchNorm
    follows has no bias, which the BatchNorm would cancel.

    Args:
        features: width F of the encoder's features.
        config: number of layers, widths, BatchNorm or not. With 0 layers the head is the identity.

    Returns:
        A module (N, F) -> (N, ``config.out_dim``).
    """
    if config.layers == 0:
        return nn.Identity()
    hidden = config.hidden_dim or features
    widths = [features] + [hidden] * (config.layers - 1) + [config.out_dim]
    layers: list[nn.Module] = []
    for depth, (n_in, n_out) in enumerate(itertools.pairwise(widths), start=1):
        last = depth == config.layers
        layers.append(nn.Linear(n_in, n_out, bias=not config.batch_norm))
        if config.batch_norm:
            norm = nn.BatchNorm1d(n_out)
            if last:
                # Frozen at zero rather than absent, so that the module stays a plain BatchNorm1d.
                norm.bias.requires_grad_(False)
            layers.append(norm)
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def predictor(dim: int, hidden_dim: int, last_norm: bool = True) -> nn.Module:
    """Embeddings (N, ``dim``) to predictions of another network's embeddings, of the same shape (MoCo v3, section 4.3).

    An MLP of two layers with BatchNorm, the last without scale and shift, or without the last as the paper's code has it for
    ResNets; with ``hidden_dim`` 0 the identity.
    """
    if hidden_dim == 0:
        return nn.Identity()
    layers = [
        nn.Linear(dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, dim, bias=False),
    ]
    return nn.Sequential(*layers, *([nn.BatchNorm1d(dim, affine=False)] if last_norm else []))
