"""A memory of embeddings (XBM): what a batch is compared with, against loops in float64, another library, kills and processes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses
from safetensors.torch import load_file

import simclr
from simclr.config import TrainConfig
from simclr.errors import ConfigError
from simclr.losses import CircleLoss, ContrastiveConfig, ContrastiveLoss, MultiSimilarityLoss
from simclr.losses.memory import EmbeddingMemory
from simclr.run.log import read_metrics

DIM, BATCH = 6, 8


def batches(count, size=BATCH):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(size, DIM, generator=generator), torch.randint(3, (size,), generator=generator)


def contrastive_over_a_list(z, labels, past, margin):
    """Mean over the ordered pairs of the batch, and of it with ``past`` embeddings, of half the squared hinge."""
    z = z / z.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(z)):
        others = [(z[j], labels[j]) for j in range(len(z)) if j != i]
        others += [(row / row.norm(), label) for row, label in past]
        for row, label in others:
            distance = (z[i] - row).norm()
            terms.append(0.5 * (distance if label == labels[i] else torch.relu(margin - distance)) ** 2)
    return sum(terms) / len(terms)


def test_a_batch_is_compared_with_itself_and_the_latest_rows_from_a_step_on():
    loss, past = ContrastiveLoss(1.5, memory=20, memory_from=2, dim=DIM), []
    for step, (z, labels) in enumerate(batches(7)):
        wide = z.double().requires_grad_()
        expected = contrastive_over_a_list(wide, labels, past, 1.5)
        expected.backward()
        value = loss(z.requires_grad_(), labels)
        value.backward()
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-4, atol=1e-6)
        assert loss.statistics["memory"] == len(past) == (0 if step < 3 else min(8 * (step - 2), 20))
        if step >= 2:
            past = [*past, *zip(z.detach().double(), labels)][-20:]


def in_pairs_of_the_library(loss, theirs, count=6, queue=20):
    """Values of both over batches: theirs keeps the batch itself in its queue, which is by so much larger."""
    memory = pml_losses.CrossBatchMemory(theirs, DIM, memory_size=queue + BATCH)
    for z, labels in batches(count):
        yield loss(z, labels), memory(z, labels)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda memory: MultiSimilarityLoss(epsilon=None, **memory),
            lambda: pml_losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
        ),
        (lambda memory: CircleLoss(**memory), lambda: pml_losses.CircleLoss(m=0.4, gamma=80)),
    ],
    ids=["multi-similarity", "circle"],
)
def test_equals_pytorch_metric_learning(ours, theirs):
    loss = ours({"memory": 20, "memory_from": 0, "dim": DIM})
    for value, expected in in_pairs_of_the_library(loss, theirs()):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_no_gradient_reaches_what_is_remembered():
    loss = CircleLoss(memory=BATCH, memory_from=0, dim=DIM)
    (first, labels), (second, more) = batches(2)
    loss(first.requires_grad_(), labels)
    loss(second, more)
    assert loss.memory.rows.grad_fn is None and not loss.memory.rows.requires_grad
    torch.testing.assert_close(loss.memory.rows, torch.nn.functional.normalize(second))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_batch_that_is_not_finite_is_not_remembered(bad):
    loss = MultiSimilarityLoss(memory=12, memory_from=0, dim=DIM)
    (z, labels), (broken, others) = batches(2)
    loss(z, labels)
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    broken[3, 1] = bad
    assert torch.isnan(loss(broken, others))
    after = loss.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.endswith("calls"))
    assert torch.isfinite(loss(z, labels))


def test_a_batch_larger_than_the_memory_leaves_its_end_and_evaluation_leaves_nothing():
    memory = EmbeddingMemory(3, 1)
    memory.take_in(torch.arange(5.0)[:, None], torch.arange(5))
    assert memory.rows.flatten().tolist() == [2, 3, 4] and memory.labels.tolist() == [2, 3, 4]
    loss = ContrastiveLoss(memory=4, memory_from=0, dim=DIM).eval()
    loss(*next(batches(1)))
    assert loss.memory.calls == 0 and not loss.memory.real().any()


def test_half_precision_is_remembered_in_float32():
    loss = CircleLoss(memory=BATCH, memory_from=0, dim=DIM)
    (z, labels), (more, others) = batches(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss(z.bfloat16(), labels)
        assert loss(more.bfloat16(), others).dtype == torch.float32
    assert loss.memory.rows.dtype == torch.float32


def test_the_width_of_the_embeddings_is_asked_for():
    with pytest.raises(ConfigError, match="dim is None; it must be the width of the embeddings"):
        ContrastiveLoss(memory=4)
    with pytest.raises(ValueError, match="z has 6 dimensions, expected 3: make the loss with dim=6"):
        ContrastiveLoss(memory=4, dim=3)(*next(batches(1)))


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_what_it_remembers(
    tiny_run: TrainConfig, stop_after: Callable[[int], AbstractContextManager[Any]]
) -> None:
    config = replace(
        tiny_run,
        objective=ContrastiveConfig(memory=100, memory_from=1),
        data=replace(tiny_run.data, limit=128),
        train=replace(tiny_run.train, batch_size=32, epochs=1, knn_every=0, log_every=1),
    )
    undisturbed = simclr.pretrain(replace(config, name="undisturbed"))
    with stop_after(3):
        simclr.pretrain(replace(config, name="stopped"))
    resumed = simclr.pretrain(replace(config, name="stopped"))
    files = [run.run_dir / "checkpoints/step-00000004/model.safetensors" for run in (undisturbed, resumed)]
    one, other = map(load_file, files)
    assert one.keys() == other.keys() and "objective.loss.memory.rows" in one
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines = [line for line in read_metrics(resumed.run_dir / "metrics.jsonl") if line["kind"] == "step"]
    assert [line["memory"] for line in lines] == [min(100, 64 * max(0, step - 1)) for step in range(4)]
