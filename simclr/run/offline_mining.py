"""Offline mining inside the loop: every few epochs embed a subset with the latest weights and train on its triplets."""

from collections.abc import Callable

import torch
from torch import distributed as dist

from simclr.config import TrainConfig
from simclr.data import ImageSet
from simclr.data.embed import embed_images
from simclr.data.left_out import LeftOut
from simclr.data.samplers import MinedSampler, random_triplets
from simclr.distributed import derive_seed, world_size
from simclr.mining.offline import offline_triplets
from simclr.model.contrastive import ContrastiveModel

__all__ = ["OfflineMiner"]


class OfflineMiner:
    """Puts fresh triplets into ``sampler`` when it is called with a step: a pure function of weights, seed and step.

    The subset is drawn afresh each time. Where no triplet of it is inside the margin, random ones take their place.
    """

    def __init__(
        self,
        sampler: MinedSampler,
        images: ImageSet,
        model: ContrastiveModel,
        config: TrainConfig,
        device: torch.device,
        say: Callable[[str], None],
        left_out: LeftOut | None = None,
    ) -> None:
        self.sampler, self.images, self.model, self.left_out = sampler, images, model, left_out
        self.config, self.device, self.say = config, device, say

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Mine with the model's present weights, for the steps from ``step`` to the next mining."""
        labels, settings = self.images.labels, self.config.sampler
        assert labels is not None
        seed = derive_seed(self.config.seed, "offline", step)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        subset = order[: settings.mine_images].sort().values
        was_training = self.model.training
        self.model.eval()
        chosen = self.images.subset(subset)
        z, rows = embed_images(
            chosen, lambda x: self.model(x[None])[0], self.config.augment, self.device, self.left_out
        )
        self.model.train(was_training)
        subset = subset[rows]
        objective = self.config.objective
        found = offline_triplets(
            z,
            labels[subset].to(self.device),
            seed=seed,
            strategy=settings.mine_strategy,
            margin=settings.mine_margin,
            distance=getattr(objective, "distance", "euclidean"),
            normalize=getattr(objective, "normalize", True),
        ).cpu()
        words = f"step {step}: {len(found)} triplets inside the margin among {len(subset)} images"
        if not len(found):
            found = random_triplets(labels[subset], self.sampler.batch_size, seed)
            words += "; random ones are taken"
        if world_size() > 1:  # GPUs may round differently, and every process has to see the same triplets
            box = [found]
            dist.broadcast_object_list(box, src=0)
            found = box[0]
        self.sampler.triplets = subset[found]
        self.say(words)
