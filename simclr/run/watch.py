"""What becomes of the features while training goes on: how far they are from those of the weights that it started from.

A run that starts from weights keeps them (``runs/NAME/start``, an encoder folder): a file may go or change, and what adapting
has done can only be told beside them.
"""

import torch
from torch import Tensor, nn

from simclr.data.embed import embed_images
from simclr.distributed import derive_seed
from simclr.exchange.description import read_description
from simclr.exchange.encoder import build_encoder, export_encoder
from simclr.files import AGAIN, refused
from simclr.model.contrastive import ContrastiveModel
from simclr.model.encoder import without_weights
from simclr.model.modes import evaluating
from simclr.objectives import Objective
from simclr.run.diagnostics import effective_rank, linear_cka
from simclr.run.parts import Run
from simclr.run.sharded import whole_model

__all__ = ["FeatureWatch", "keep_start", "open_watch"]

_IMAGES, _FEWEST = 1000, 100


class FeatureWatch:
    """Figures of the features of a few images, the same ones every time: those that the online score asks about (held-out
    images), or where these are few or none a part of the training images, drawn under a seed.

    ``start_cka``: linear CKA of the backbone's features with those of the weights that the run started from.
    ``online_rankme``: RankMe (Garrido et al. 2023), where weights are chosen by it.
    """

    def __init__(self, run: Run, start: nn.Module | None, ranks: bool) -> None:
        self.augment, self.left_out, self.ranks = run.config.augment, run.left_out, ranks
        self.workers = run.config.data.workers
        if run.validation is not None and len(run.validation.queries) >= _FEWEST:
            images = run.validation.queries
            self.images = images.subset(torch.arange(min(_IMAGES, len(images))))
        else:
            generator = torch.Generator().manual_seed(derive_seed(run.config.data.split_seed, "watch"))
            self.images = run.images.subset(torch.randperm(len(run.images), generator=generator)[:_IMAGES])
        self.start: tuple[Tensor, Tensor] | None = None
        if start is not None:
            self.start = self._features(start, run.accelerator.device)

    def __call__(self, model: ContrastiveModel, objective: Objective, device: torch.device) -> dict[str, float]:
        """The figures of ``model``. Where there are several processes all must call it; they share the work."""
        x, rows = self._features(model.backbone, device)
        figures = {"online_rankme": effective_rank(x).item()} if self.ranks else {}
        if self.start is not None:
            start, known = self.start  # a file may have gone since
            figures["start_cka"] = linear_cka(start[torch.isin(known, rows)], x[torch.isin(rows, known)])
        return figures

    def _features(self, backbone: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
        """(N, F) and the numbers (N,) of the images, in eval mode; the modules' modes are as before afterwards."""
        with evaluating(backbone):
            return embed_images(self.images, backbone, self.augment, device, self.left_out, workers=self.workers)


def open_watch(run: Run, model: ContrastiveModel) -> FeatureWatch | None:
    """The watch of a run whose ``model`` is as it was built, on its device; None where there is nothing to watch.

    Where the run goes on, the weights that it started from are read from its folder. A run of an earlier version kept none.
    """
    config, start = run.config, None
    if not config.train.knn_every:
        return None
    if config.starts_from_weights:
        kept = config.run_dir / "start"
        if run.checkpoint is None:
            start = whole_model(model).backbone
        elif (kept / "encoder.json").exists():
            start = build_encoder(kept, read_description(kept)).backbone.to(run.accelerator.device)
            if config.train.channels_last:  # as the model that was built then, or convolutions would round otherwise
                start = start.to(memory_format=torch.channels_last)
    ranks = config.train.by_score and run.validation is None
    return FeatureWatch(run, start, ranks) if start is not None or ranks else None


def keep_start(run: Run, model: ContrastiveModel) -> None:
    """Write the backbone of a run that starts from weights to the run's folder, before its first step. All processes call it.

    Raises:
        CheckpointError: the disk refuses.
    """
    config, folder = run.config, run.config.run_dir / "start"
    if not config.starts_from_weights or run.checkpoint is not None:
        return
    model = whole_model(model, torch.device("cpu"), main := run.accelerator.is_main_process)
    if not main:
        return
    with refused(folder, AGAIN):
        export_encoder(
            model.backbone,
            folder,
            config=without_weights(config.encoder),
            augment=config.augment,
            seed=derive_seed(config.seed, "init"),
            training={"run": None, "started_from": config.encoder.started_from},
            reader=run.images.reader,
            plugin=config.plugin,
        )
