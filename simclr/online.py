"""The score while training goes on, on images kept from training. The test set is never looked at before the end."""

import torch

from simclr.config import TrainConfig
from simclr.data import ImageSet, load_source, place
from simclr.distributed import derive_seed
from simclr.embed import embed_images
from simclr.model import ContrastiveModel
from simclr.neighbours import nearest_neighbour_vote
from simclr.objectives import Objective

__all__ = ["OnlineScore", "make_online_score"]

_NEIGHBOURS, _QUERIES = 10_000, 2_000


class OnlineScore:
    """A figure or two of a model in training, by name.

    With validation images (``data.validation``) and an objective that predicts: its accuracy on them, or its mean
    absolute error for numbers. Else the accuracy of kNN (k = 20, temperature 0.1) of the features, on the validation
    images or on a fixed seeded part of the labelled training images.
    """

    def __init__(self, images: ImageSet, config: TrainConfig, validation: ImageSet | None = None) -> None:
        self.augment = config.augment
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
            bank = embed_images(self.bank, backbone, self.augment, device)
            queries = embed_images(self.queries, backbone, self.augment, device)
            assert self.bank.labels is not None and self.queries.labels is not None
            found = nearest_neighbour_vote(bank, self.bank.labels.to(device), queries)
            name = "online_knn" if self.validation is None else "validation_knn"
            return {name: (found.cpu() == self.queries.labels).float().mean().item()}
        finally:
            for module, training in modes.items():
                module.training = training

    def _predictions(
        self, model: ContrastiveModel, objective: Objective, device: torch.device
    ) -> dict[str, float] | None:
        assert self.validation is not None
        z = embed_images(self.validation, lambda images: model(images[None])[0], self.augment, device)
        numbers, scores = objective.numbers(z), objective.scores(z)
        if numbers is not None:
            target = self.validation.values if self.validation.labels is None else self.validation.labels
            assert target is not None
            return {"validation_error": (numbers.cpu() - target).abs().mean().item()}
        if scores is None or self.validation.labels is None:
            return None
        return {"validation_accuracy": (scores.argmax(1).cpu() == self.validation.labels).float().mean().item()}


def make_online_score(images: ImageSet, config: TrainConfig, device: torch.device) -> OnlineScore | None:
    """The score that ``config`` asks for, or None: no labels, or ``train.knn_every`` is 0."""
    if not config.train.knn_every or (images.labels is None and images.values is None):
        return None
    if config.data.validation:
        validation = place(load_source(config.data, "validation"), device, config.data.device_resident)
        return OnlineScore(images, config, validation.labelled())
    return OnlineScore(images, config) if images.labels is not None else None
