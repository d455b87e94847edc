"""The score while training goes on, on images kept from training. The test set is never looked at before the end."""

from collections.abc import Callable

import torch
from torch import Tensor

from augment import AugmentConfig
from simclr.config import DataConfig
from simclr.data import ImageSet, load_source
from simclr.data.embed import embed_images
from simclr.data.groups import count_groups, divide_groups
from simclr.data.left_out import LeftOut
from simclr.data.sources import has_validation
from simclr.data.splits import divide_training
from simclr.distributed import derive_seed
from simclr.errors import DataError
from simclr.model.contrastive import ContrastiveModel
from simclr.model.modes import evaluating
from simclr.neighbours import nearest_neighbour_vote
from simclr.objectives import Objective
from simclr.run.division import Division, place_part

__all__ = ["ValidationScore", "make_validation_score"]

_NEIGHBOURS, _QUERIES = 10_000, 2_000


class ValidationScore:
    """A figure or two of a model in training, by name.

    With validation images (a part of the set's own, or ``data.validation``) and an objective that predicts: its accuracy on
    them, or its mean absolute error for numbers. Else the accuracy of kNN (k = 20, temperature 0.1) of the features, on the
    validation images or on a fixed seeded part of the labelled training images. Files that break meanwhile are left out of
    it, with ``data.broken="skip"``. Where there are several processes all of them must call it; they share the work.
    """

    def __init__(
        self,
        images: ImageSet,
        augment: AugmentConfig,
        split_seed: int,
        validation: ImageSet | None = None,
        left_out: LeftOut | None = None,
        workers: int = 0,
    ) -> None:
        self.augment, self.left_out, self.workers = augment, left_out, workers
        generator = torch.Generator().manual_seed(derive_seed(split_seed, "online"))
        known = torch.ones(len(images), dtype=torch.bool) if images.labels is None else images.labels >= 0
        labelled = known.nonzero().flatten()
        order = labelled[torch.randperm(len(labelled), generator=generator)]
        held_out = min(_QUERIES, len(order) // 5) if validation is None else 0
        self.validation = validation
        self.queries = images.subset(order[:held_out]) if validation is None else validation
        if self.validation is None and images.groups is not None and held_out:
            # The nearest neighbour of a frame is the next frame of its video: whole groups ask, others answer.
            among = images.subset(order)
            assert among.groups is not None
            if count_groups(among.groups) > 1:
                asks = divide_groups(among.labels, among.groups, held_out / len(order), split_seed)
                self.queries, order, held_out = among.subset(asks.nonzero().flatten()[:_QUERIES]), order[~asks], 0
        self.bank = images.subset(order[held_out:][:_NEIGHBOURS])

    @torch.no_grad()
    def __call__(self, model: ContrastiveModel, objective: Objective, device: torch.device) -> dict[str, float]:
        """The figures of ``model``; the modules' modes are as before afterwards."""
        with evaluating(model):
            if self.validation is not None:
                predicted = self._predictions(model, objective, device)
                if predicted is not None:
                    return predicted
            bank, known = self._embedded(self.bank, model.backbone, device)
            queries, asked = self._embedded(self.queries, model.backbone, device)
            assert self.bank.labels is not None and self.queries.labels is not None
            found = nearest_neighbour_vote(bank, self.bank.labels[known].to(device), queries)
            name = "online_knn" if self.validation is None else "validation_knn"
            return {name: (found.cpu() == self.queries.labels[asked]).float().mean().item()}

    def _embedded(
        self, images: ImageSet, module: Callable[[Tensor], Tensor], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        return embed_images(images, module, self.augment, device, self.left_out, workers=self.workers)

    def _predictions(
        self, model: ContrastiveModel, objective: Objective, device: torch.device
    ) -> dict[str, float] | None:
        assert self.validation is not None
        z, rows = self._embedded(self.validation, lambda images: model(images[None])[0], device)
        numbers, scores = objective.numbers(z), objective.scores(z)
        if numbers is not None:
            target = self.validation.values if self.validation.labels is None else self.validation.labels
            assert target is not None
            return {"validation_error": (numbers.cpu() - target[rows]).abs().mean().item()}
        if scores is None or self.validation.labels is None:
            return None
        right = scores.argmax(1).cpu() == self.validation.labels[rows]
        return {"validation_accuracy": right.float().mean().item()}


def make_validation_score(
    images: ImageSet,
    data: DataConfig,
    augment: AugmentConfig,
    device: torch.device,
    left_out: LeftOut,
    division: Division | None = None,
) -> ValidationScore | None:
    """The score of a run on ``images``, or None where there is neither a label nor a number to compare with.

    ``division`` says how the run's images were divided.

    Raises:
        DataError: validation images that do not decode, or none of which has a label.
    """
    if images.labels is None and images.values is None:
        return None
    if has_validation(data):
        whole = None if division is None else division.given
        kept = None if division is None else division.kept
        found = load_source(data, "validation", kept) if whole is None else divide_training(whole, data, "validation")
        validation = place_part(found, device, data.device_resident, left_out).labelled()
        if not len(validation):
            raise DataError(
                f"none of the validation images of {images.name} has a label to compare with; label some, or set "
                f"--data.validation 0"
            )
        return ValidationScore(images, augment, data.split_seed, validation, left_out, data.workers)
    if images.labels is None:
        return None
    return ValidationScore(images, augment, data.split_seed, left_out=left_out, workers=data.workers)
