"""The order of images on 1,024 processes, simulated: every image once an epoch, from no state. And the plan of docs/scale.md."""

import sys
from pathlib import Path

import pytest
import torch

from simclr.data.samplers import ClassSampler, EpochSampler, MinedSampler, Sampler, random_triplets

ROOT = Path(__file__).parent.parent
LABELS = torch.arange(3072) % 96


def epoch(images: int, batch: int) -> EpochSampler:
    return EpochSampler(images=images, batch_size=batch, seed=3)


def sharded(images: int, batch: int, shards: int) -> EpochSampler:
    """Shards of unequal lengths, the images of each beside each other, as an index of tars lists them."""
    shard = (torch.arange(images).double() / images).pow(1.3).mul(shards).long()
    return EpochSampler(images=images, batch_size=batch, seed=3, shard=shard)


def mined() -> MinedSampler:
    sampler = MinedSampler(images=12_288, batch_size=3072, mine_every=1)
    sampler.triplets = random_triplets(LABELS.repeat(4), 5000, seed=1)
    return sampler


def whole(sampler: Sampler, step: int, world: int) -> torch.Tensor:
    """What all processes see in a step, each asked alone; each has as many."""
    parts = [sampler.indices(step, rank, world) for rank in range(world)]
    assert {len(part) for part in parts} == {sampler.batch_size // world}
    return torch.cat(parts)


@pytest.mark.parametrize(
    "sampler", [epoch(50_000, 4096), sharded(50_000, 4096, shards=37), sharded(50_000, 4096, shards=2000)],
    ids=["permutation", "37 shards", "2,000 shards"],
)  # fmt: skip
def test_on_1024_processes_every_image_is_seen_once_an_epoch_and_epochs_differ(sampler: EpochSampler) -> None:
    orders = [torch.cat([whole(sampler, 12 * e + step, 1024) for step in range(12)]) for e in range(2)]
    for order in orders:
        assert (
            sampler.steps_per_epoch == 12 and len(order.unique()) == len(order) == 49_152
        )  # the rest of a batch is dropped
    assert not torch.equal(*orders)


@pytest.mark.parametrize(
    "make",
    [
        lambda: epoch(images=20_000, batch=3072),
        lambda: sharded(images=20_000, batch=3072, shards=300),
        lambda: ClassSampler(labels=LABELS, batch_size=1024, classes=8, per_class=8, seed=5),
        mined,
    ],
    ids=["epoch", "shards", "classes", "mined"],
)
def test_a_batch_is_the_same_whoever_shares_it_and_wherever_one_begins(make) -> None:
    """Ends after step 2 of 1,024 processes and goes on with 64, then alone: each from a sampler that has seen nothing."""
    alone = make()
    for step, world in ((2, 1024), (3, 64), (4, 1)):
        batch = whole(make(), step, world)
        assert torch.equal(batch, alone.indices(step)), (step, world)
    assert not torch.equal(alone.indices(2), alone.indices(3))


def test_the_plan_on_the_page_is_what_its_script_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import plan

    page = (ROOT / "docs" / "scale.md").read_text()
    given = plan.parser().parse_args([])
    for network in plan.NETWORKS:
        assert "\n".join(plan.lines(network, given)) in page
    # By hand: 1,024 GPUs, ResNet-50 with its head 27.97M parameters, 256 rows a GPU of 128 dimensions.
    cells = plan.lines(plan.NETWORKS[0], given)[-1].split(" | ")
    assert cells[3] == "224 (0.0056)" and cells[4].startswith("134.1 (") and cells[5] == "134.2"
    assert cells[6] == f"{6 * 256 * 262_144 * 128 / 1e9:.1f}" and cells[11] == "0.4850"
    sys.modules.pop("plan")
