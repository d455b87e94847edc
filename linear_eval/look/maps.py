"""Features in two dimensions: PCA, t-SNE, and UMAP where it is installed."""

import warnings
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from linear_eval.matching.similarity import prepare
from simclr.errors import ConfigError, DataError, MissingExtraError

__all__ = ["MAP_NAMES", "Method", "map_of", "pca_map", "tsne_map", "umap_map"]

Method = Literal["pca", "tsne", "umap"]

MAP_NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def map_of(x: Tensor, method: Method = "tsne", seed: int = 0) -> np.ndarray:
    """A place in the plane for each of ``x`` (N, F): (N, 2).

    Raises:
        ConfigError: another method.
        DataError: too few rows, or rows that are not finite.
        MissingExtraError: ``umap``, and it is not installed.
    """
    if method not in MAP_NAMES:
        raise ConfigError(f"unknown map {method!r}; expected one of {', '.join(MAP_NAMES)}")
    if method == "pca":
        return pca_map(x)[0]
    return tsne_map(x, seed=seed) if method == "tsne" else umap_map(x, seed=seed)


def pca_map(x: Tensor) -> tuple[np.ndarray, tuple[float, float]]:
    """The first two principal components of unit-length ``x`` (N, F): (N, 2) float64, and their shares of variance.

    A component's sign is fixed by its largest loading, which is positive, so maps of one set can be compared.
    """
    rows = prepare(x, torch.zeros(len(x), dtype=torch.int64)).rows.cpu()
    centred = rows - rows.mean(0)
    # F x F and not N x F: the decomposition costs the same for every number of images
    variances, axes = torch.linalg.eigh(centred.T @ centred)
    top = axes[:, -2:].flip(1)
    top = top * top.gather(0, top.abs().argmax(0, keepdim=True)).sign()
    spots = torch.zeros(len(x), 2, dtype=torch.float64)
    spots[:, : top.shape[1]] = centred @ top
    share = [*(variances.flip(0)[:2] / variances.sum().clamp_min(1e-300)).clamp_min(0).tolist(), 0.0]
    return spots.numpy(), (share[0], share[1])


def tsne_map(x: Tensor, *, perplexity: float = 30.0, seed: int = 0) -> np.ndarray:
    """t-SNE (van der Maaten & Hinton 2008, scikit-learn) of unit-length ``x`` (N, F): (N, 2) float32, started from PCA.

    The perplexity shrinks to a third of the rows where there are few. Use some thousand rows: time grows as N log N.

    Raises:
        DataError: fewer than 5 rows.
    """
    from sklearn.manifold import TSNE

    if len(x) < 5:
        raise DataError(f"t-SNE needs at least 5 rows, got {len(x)}")
    rows = prepare(x, torch.zeros(len(x), dtype=torch.int64)).rows.float().cpu()
    if rows.shape[1] > 50:  # the paper's own first step; it leaves near neighbours in place and saves most of the time
        centred = rows - rows.mean(0)
        rows = centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -50:]
    perplexity = min(perplexity, (len(x) - 1) / 3)
    # init from two columns of our own PCA: scikit-learn's warns on data without variance
    start = pca_map(x)[0]
    start = (start / max(float(start.std(axis=0)[0]), 1e-12) * 1e-4).astype(np.float32)
    return TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(rows.numpy())


def umap_map(x: Tensor, *, neighbours: int = 15, seed: int = 0) -> np.ndarray:
    """UMAP (McInnes et al. 2018, umap-learn) of unit-length ``x`` (N, F) by cosine: (N, 2) float32.

    Raises:
        DataError: fewer than 5 rows.
        MissingExtraError: it is not installed.
    """
    if len(x) < 5:
        raise DataError(f"UMAP needs at least 5 rows, got {len(x)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numba's, on import
            from umap import UMAP  # type: ignore[import-not-found,import-untyped,unused-ignore]  # an extra
    except ImportError as error:
        raise MissingExtraError(
            "umap-learn is not installed; pip install 'simclr-pipeline[umap]' brings it, and t-SNE needs none"
        ) from error
    rows = prepare(x, torch.zeros(len(x), dtype=torch.int64)).rows.float().cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread
        found: np.ndarray = UMAP(
            n_neighbors=min(neighbours, len(x) - 1), metric="cosine", random_state=seed
        ).fit_transform(rows)
    return found
