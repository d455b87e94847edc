"""Offline mining in the loop: the loss of given triplets, their order, and the same bits after a stop between minings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import simclr
from augment import preprocess
from simclr.config import SamplerConfig, TrainConfig
from simclr.data import ImageSet, MinedSampler, load_source, place
from simclr.data.samplers import random_triplets
from simclr.errors import ConfigError, DataError
from simclr.losses import CrossEntropyConfig, EmbeddedBatch, TripletConfig, TripletLoss
from simclr.model.contrastive import build_model
from simclr.objectives import Objective
from simclr.run.offline_mining import OfflineMiner

CPU = torch.device("cpu")


def miner_of(
    config: TrainConfig, sampler: MinedSampler, images: ImageSet, model: nn.Module, say: Callable[[str], object]
) -> OfflineMiner:
    """The miner of a run with ``config``."""
    return OfflineMiner(
        sampler, images, model, config.sampler, config.augment, config.objective, seed=config.seed, device=CPU, say=say
    )


@pytest.fixture
def mined(tiny_run: TrainConfig) -> TrainConfig:
    """3 epochs of 4 steps of 16 triplets, mined every 2 epochs: at the steps 0 and 8."""
    return replace(
        tiny_run,
        objective=TripletConfig(mining="given", margin=0.5),
        sampler=SamplerConfig(name="mined", mine_every=2, mine_images=100, mine_margin=0.5),
        train=replace(tiny_run.train, epochs=3, batch_size=48, checkpoint_every=100, knn_every=0),
        data=replace(tiny_run.data, limit=192),
    )


@pytest.mark.parametrize("reduction", ["active", "all"])
@pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine"])
def test_the_loss_of_given_triplets_equals_a_loop(reduction: str, distance: str) -> None:
    """Two views: the triplets are there twice, each among its own view. Two of them do not fit and do not count."""
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 1, 2, 2, 0, 1, 1, 1, 4, 5, 6, 3, 3, 9])
    z = torch.randn(2, 15, 6, requires_grad=True)
    objective = Objective(TripletLoss(0.3, "given", distance, reduction))
    value = objective(EmbeddedBatch(z, labels, torch.arange(15), 0))

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return {"euclidean": (a - b).norm(), "squared": (a - b).square().sum(), "cosine": 1 - (a * b).sum()}[distance]

    wide = z.detach().double().requires_grad_()
    unit = wide / wide.norm(dim=2, keepdim=True)
    terms = [
        (apart(view[i], view[i + 1]) - apart(view[i], view[i + 2]) + 0.3).clamp(min=0)
        for view in unit
        for i in (0, 3, 12)  # 6..8 has no negative, 9..11 no positive
    ]
    active = [term for term in terms if term > 0]
    assert 0 < len(active) < len(terms)
    expected = sum(terms) / (len(active) if reduction == "active" else len(terms))
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(objective.statistics["triplets"]) == 6
    (slope,) = torch.autograd.grad(value, z)
    (exact,) = torch.autograd.grad(expected, wide)
    torch.testing.assert_close(slope.double(), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_random_triplets_are_triplets(seed: int) -> None:
    labels = torch.randint(6, (40,), generator=torch.Generator().manual_seed(seed))
    labels = torch.cat([labels, torch.tensor([9, 11])])  # two classes of one image: never an anchor
    found = random_triplets(labels, 5000, seed)
    anchor, positive, negative = found.T
    assert found.shape == (5000, 3) and found.dtype == torch.int64
    assert (labels[anchor] == labels[positive]).all() and (anchor != positive).all()
    assert (labels[anchor] != labels[negative]).all()
    paired = torch.isin(labels, (torch.bincount(labels) >= 2).nonzero())
    assert set(anchor.tolist()) == set(paired.nonzero().flatten().tolist())
    assert set(negative.tolist()) == set(range(42))
    assert torch.equal(found, random_triplets(labels, 5000, seed))
    assert not torch.equal(found, random_triplets(labels, 5000, seed + 1))


def test_random_triplets_need_two_classes_and_a_pair() -> None:
    for labels in ([0, 0, 0], [0, 1, 2], [0], []):
        with pytest.raises(DataError, match="a class with two images and a second class"):
            random_triplets(torch.tensor(labels, dtype=torch.int64), 3, 0)


def test_the_sampler_goes_through_the_triplets_and_round_again() -> None:
    sampler = MinedSampler(images=50, batch_size=12, mine_every=2)
    assert (sampler.steps_per_epoch, sampler.period) == (4, 8)
    with pytest.raises(RuntimeError, match="no triplets were mined"):
        sampler.indices(0)
    sampler.triplets = torch.arange(18).view(6, 3)
    for step in range(20):
        expected = [[t, t + 1, t + 2] for t in (3 * ((4 * (step % 8) + i) % 6) for i in range(4))]
        assert sampler.indices(step).view(-1, 3).tolist() == expected
        for world in (2, 3, 4):
            parts = [sampler.indices(step, rank, world) for rank in range(world)]
            assert torch.cat(parts).view(-1, 3).tolist() == expected
    with pytest.raises(DataError, match="does not divide among 5"):
        sampler.indices(0, 0, 5)
    with pytest.raises(DataError, match="the set has 11 images, fewer than one batch of 12"):
        MinedSampler(images=11, batch_size=12, mine_every=1)


def test_what_is_mined_is_inside_the_margin_by_the_models_own_distances(mined: TrainConfig) -> None:
    images = place(load_source(mined.data, "train"), CPU)
    model = build_model(mined)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sampler = MinedSampler(images=len(images), batch_size=48, mine_every=2)
    said: list[str] = []
    miner = miner_of(mined, sampler, images, model, said.append)
    model.train()
    miner(8)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    triplets = sampler.triplets.clone()
    assert f"step 8: {len(triplets)} triplets inside the margin among 100 images" in said[0]
    assert len(triplets.unique()) <= 100
    model.eval()
    with torch.no_grad():
        z = model(preprocess(images.pixels, mined.augment.size, mined.augment.mean, mined.augment.std)[None])[
            0
        ].double()
    z = z / z.norm(dim=1, keepdim=True)
    anchor, positive, negative = triplets.T
    labels = images.labels
    assert (labels[anchor] == labels[positive]).all() and (labels[anchor] != labels[negative]).all()
    near, far = (z[anchor] - z[positive]).norm(dim=1), (z[anchor] - z[negative]).norm(dim=1)
    assert (far < near + 0.5 + 1e-5).all() and (far > near - 1e-5).all()  # semi-hard
    miner(8)
    assert torch.equal(triplets, sampler.triplets)
    miner(16)  # another subset
    assert set(triplets.unique().tolist()) != set(sampler.triplets.unique().tolist())


def test_without_a_triplet_inside_the_margin_random_ones_are_taken(mined: TrainConfig) -> None:
    images = place(load_source(mined.data, "train"), CPU)

    class ByClass(torch.nn.Module):
        """Nothing left to mine: every class a point of its own."""

        def forward(self, views: Tensor) -> Tensor:
            return torch.eye(10)[labels[: views.shape[1]]][None]

    subset_labels: list[Tensor] = []
    subset = type(images).subset

    def noted(self: object, index: Tensor) -> object:
        subset_labels.append(images.labels[index])
        return subset(self, index)

    sampler = MinedSampler(images=len(images), batch_size=48, mine_every=2)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(images), "subset", noted)
        labels = torch.zeros(100, dtype=torch.int64)
        order = torch.randperm(
            192, generator=torch.Generator().manual_seed(simclr.distributed.derive_seed(0, "offline", 0))
        )
        labels = images.labels[order[:100].sort().values]
        miner_of(mined, sampler, images, ByClass(), said.append)(0)
    assert torch.equal(subset_labels[0], labels)
    assert "0 triplets" in said[0] and "random ones are taken" in said[0]
    assert sampler.triplets.shape == (48, 3)
    anchor, positive, negative = images.labels[sampler.triplets].T
    assert (anchor == positive).all() and (anchor != negative).all()


@pytest.mark.parametrize("resident", ["yes", "no"])
def test_a_run_stopped_between_two_minings_ends_with_the_same_bits(
    resident: str, mined: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop_after: Callable[[int], Any]
) -> None:
    if resident == "no":
        mined = as_files(mined, tmp_path / "pictures")
    undisturbed = simclr.pretrain(replace(mined, name="undisturbed"))
    assert undisturbed.steps == 12

    with stop_after(6):
        assert simclr.pretrain(replace(mined, name="stopped")).steps == 6
    minings: list[int] = []
    mine = OfflineMiner.__call__

    def noted(self: OfflineMiner, step: int) -> None:
        minings.append(step)
        mine(self, step)

    monkeypatch.setattr(OfflineMiner, "__call__", noted)
    resumed = simclr.pretrain(replace(mined, name="stopped"))
    assert resumed.finished and minings == [8]
    for file in ("encoder.safetensors", "head.safetensors"):
        one, other = (load_file(run.encoder / file) for run in (undisturbed, resumed))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def as_files(config: TrainConfig, folder: Path) -> TrainConfig:
    """The same digits as files of a folder, which one worker decodes batch by batch."""
    from torchvision.transforms.functional import to_pil_image

    images = load_source(config.data, "train")
    for number, (pixels, label) in enumerate(zip(images.pixels, images.labels.tolist())):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        to_pil_image(pixels).save(folder / str(label) / f"{number}.png")
    data = replace(config.data, source="folder", path=folder, limit=None, test_fraction=0.1)
    data = replace(data, device_resident="no", workers=1)
    return replace(config, data=data, train=replace(config.train, batch_size=42))  # 173 images: 4 steps an epoch


def test_what_cannot_be_mined_is_refused(mined: TrainConfig, image_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"a train\.batch_size that 3 divides, got 50"):
        replace(mined, train=replace(mined.train, batch_size=50))
    with pytest.raises(ConfigError, match="needs an objective on labels, got nt-xent"):
        replace(mined, objective=simclr.preset("digits").objective)
    with pytest.raises(ConfigError, match=r"set --sampler\.name mined"):
        replace(mined, sampler=SamplerConfig())
    assert replace(mined, objective=CrossEntropyConfig()).sampler.name == "mined"
    data = replace(mined.data, source="folder", path=image_folder, limit=None, labels="none")
    with pytest.raises(DataError, match="no labels"):
        simclr.pretrain(replace(mined, data=data))
    for wrong in ({"mine_every": 0}, {"mine_images": 2}, {"mine_margin": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SamplerConfig(name="mined", **wrong)
    assert not mined.run_dir.exists()
