"""Offline mining inside the loop: every few epochs embed a subset with the latest weights and train on its triplets."""

from collections.abc import Callable

import torch
from torch import distributed as dist

from augment import AugmentConfig
from simclr.config import SamplerConfig
from simclr.data import Batches, ImageSet
from simclr.data.embed import embed_images
from simclr.data.left_out import LeftOut
from simclr.data.samplers import MinedSampler, random_triplets
from simclr.distances import DistanceName
from simclr.distributed import derive_seed, world_size
from simclr.mining.offline import offline_triplets
from simclr.model.contrastive import ContrastiveModel
from simclr.objectives import ObjectiveConfig
from simclr.run.parts import Run
from simclr.run.sharded import whole_model

__all__ = ["OfflineMiner", "mine_offline"]


class OfflineMiner:
    """Puts fresh triplets into ``sampler`` when it is called with a step: a pure function of weights, seed and step.

    The subset is drawn afresh each time. Where no triplet of it is inside the margin, random ones take their place.
    """

    def __init__(
        self,
        sampler: MinedSampler,
        images: ImageSet,
        model: ContrastiveModel,
        settings: SamplerConfig,
        augment: AugmentConfig,
        objective: ObjectiveConfig,
        *,
        seed: int,
        device: torch.device,
        say: Callable[[str], None],
        left_out: LeftOut | None = None,
        workers: int = 0,
    ) -> None:
        self.sampler, self.images, self.model, self.left_out = sampler, images, model, left_out
        self.workers = workers
        self.settings, self.augment, self.seed, self.device, self.say = settings, augment, seed, device, say
        self.distance: DistanceName = getattr(objective, "distance", "euclidean")
        self.normalize = getattr(objective, "normalize", True)

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Mine with the model's present weights, for the steps from ``step`` to the next mining."""
        labels, settings = self.images.labels, self.settings
        assert labels is not None
        seed = derive_seed(self.seed, "offline", step)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        subset = order[: settings.mine_images].sort().values
        model, was_training = whole_model(self.model), self.model.training
        model.eval()
        chosen = self.images.subset(subset)
        z, rows = embed_images(
            chosen,
            lambda x: model(x[None])[0],
            self.augment,
            self.device,
            self.left_out,
            workers=self.workers,
        )
        model.train(was_training)
        subset = subset[rows]
        found = offline_triplets(
            z,
            labels[subset].to(self.device),
            seed=seed,
            strategy=settings.mine_strategy,
            margin=settings.mine_margin,
            distance=self.distance,
            normalize=self.normalize,
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


def mine_offline(run: Run, model: ContrastiveModel, batches: Batches, say: Callable[[str], None]) -> None:
    """Let ``batches`` mine with ``model`` as it trains, where the run's sampler wants triplets."""
    config = run.config
    if not isinstance(run.sampler, MinedSampler):
        return
    miner = OfflineMiner(
        run.sampler,
        run.images,
        model,
        config.sampler,
        config.augment,
        config.objective,
        seed=config.seed,
        device=run.accelerator.device,
        say=say,
        left_out=run.left_out,
        workers=config.data.workers,
    )
    batches.call_every(run.sampler.period, miner)
