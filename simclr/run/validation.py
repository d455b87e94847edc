"""The score while training goes on, on images kept from training. The test set is never looked at before the end."""

import torch

from simclr.config import TrainConfig
from simclr.data import ImageSet, load_source, place
from simclr.data.embed import embed_images
from simclr.data.left_out import LeftOut
from simclr.distributed import derive_seed
from simclr.errors import DataError
from simclr.model.contrastive import ContrastiveModel
from simclr.neighbours import nearest_neighbour_vote
from simclr.objectives import Objective

__all__ = ["OnlineScore", "make_online_score"]

_NEIGHBOURS, _QUERIES = 10_000, 2_000


class OnlineScore:
    """A figure or two of a model in training, by name.

    With validation images (``data.validation``) and an objective that predicts: its accuracy on them, or its mean
    absolute error for numbers. Else the accuracy of kNN (k = 20, temperature 0.1) of the features, on the validation
    images or on a fixed seeded part of the labelled training images. Files that break meanwhile are left out of it, with
    ``data.broken="skip"``. Where there are several processes all of them must call it; they share the work.
    """

    def __init__(
        self,
        images: ImageSet,
        config: TrainConfig,
        validation: ImageSet | None = None,
        left_out: LeftOut | None = None,
    ) -> None:
        self.augment, self.left_out = config.augment, left_out
        generator = torch.Generator().manual_seed(derive_seed(config.data.split_seed, "online"))
        known = torch.ones(len(images), dtype=torch.bool) if images.labels is None else images.labels >= 0
        labelled = known.nonzero().flatten()
        order = labelled[torch.randperm(len(labelled), generator=generator)]
        held_out = min(_QUERIES, len(order) // 5) if validation is None else 0
        self.validation = validation
        self.queries = images.subset(order[:held_out]) if validation is None else validation
        self.bank = images.subset(order[held_out:][:_NEIGHBOURS])

    @torch.no_grad()
    def __call__(self, model: ContrastiveModel, objective: Objective, device: torch.device) -> dict[str, float]:
        """The figures of ``model``; the modules' modes are as before afterwards."""
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            if self.validation is not None:
                predicted = self._predictions(model, objective, device)
                if predicted is not None:
                    return predicted
            backbone = model.backbone
            bank, known = embed_images(self.bank, backbone, self.augment, device, self.left_out)
            queries, asked = embed_images(self.queries, backbone, self.augment, device, self.left_out)
            assert self.bank.labels is not None and self.queries.labels is not None
            found = nearest_neighbour_vote(bank, self.bank.labels[known].to(device), queries)
            name = "online_knn" if self.validation is None else "validation_knn"
            return {name: (found.cpu() == self.queries.labels[asked]).float().mean().item()}
        finally:
            for module, training in modes.items():
                module.training = training

    def _predictions(
        self, model: ContrastiveModel, objective: Objective, device: torch.device
    ) -> dict[str, float] | None:
        assert self.validation is not None
        z, rows = embed_images(
            self.validation, lambda images: model(images[None])[0], self.augment, device, self.left_out
        )
        numbers, scores = objective.numbers(z), objective.scores(z)
        if numbers is not None:
            target = self.validation.values if self.validation.labels is None else self.validation.labels
            assert target is not None
            return {"validation_error": (numbers.cpu() - target[rows]).abs().mean().item()}
        if scores is None or self.validation.labels is None:
            return None
        right = scores.argmax(1).cpu() == self.validation.labels[rows]
        return {"validation_accuracy": right.float().mean().item()}


def make_online_score(
    images: ImageSet, config: TrainConfig, device: torch.device, left_out: LeftOut | None = None
) -> OnlineScore | None:
    """The score that ``config`` asks for, or None: no labels, or ``train.knn_every`` is 0.

    Raises:
        DataError: validation images that do not decode, or none of which has a label.
    """
    if not config.train.knn_every or (images.labels is None and images.values is None):
        return None
    if config.data.validation:
        say = (left_out or LeftOut()).say
        validation = place(load_source(config.data, "validation"), device, config.data.device_resident, say).labelled()
        if not len(validation):
            raise DataError(
                f"none of the validation images of {images.name} has a label to compare with; label some, or set "
                f"--data.validation 0"
            )
        return OnlineScore(images, config, validation, left_out)
    return OnlineScore(images, config, left_out=left_out) if images.labels is not None else None
