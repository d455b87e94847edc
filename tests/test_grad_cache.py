"""Gradient caching against one graph over the whole batch, in float64 and with dropout on."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from simclr.losses.ntxent.loss import NTXentLoss
from simclr.run.grad_cache import cached_step


class Embedder(nn.Module):
    """Views (V, b, 6) to z (V, b, 5), all views in one pass."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.calls = 0

    def forward(self, views: Tensor) -> Tensor:
        self.calls += 1
        return self.layers(views.flatten(0, 1)).unflatten(0, views.shape[:2])


def embedder(*middle: nn.Module) -> Embedder:
    torch.manual_seed(0)
    return Embedder(nn.Linear(6, 16), *middle, nn.ReLU(), nn.Linear(16, 5)).double()


def batch(images: int = 10, num_views: int = 2) -> Tensor:
    return torch.randn(num_views, images, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def one_graph(model: nn.Module, views: Tensor, objective, pieces: int) -> tuple[Tensor, Tensor]:
    """The same chunks, embedded one after the other with their graphs kept, and one backward pass through all."""
    z = torch.cat([model(piece) for piece in views.tensor_split(pieces, dim=1)], dim=1)
    loss = objective(z)
    loss.backward()
    return loss.detach(), z.detach()


def assert_same_gradients(model: nn.Module, expected: nn.Module, rtol: float = 1e-10, atol: float = 1e-13) -> None:
    for (name, parameter), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert other.grad is not None
        assert other.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, other.grad, rtol=rtol, atol=atol, msg=lambda m, name=name: name + m)


@pytest.mark.parametrize(("chunk", "pieces"), [(1, 10), (3, 4), (5, 2), (10, 1), (64, 1)])
def test_equals_one_graph_with_dropout(chunk, pieces):
    model = embedder(nn.Dropout(0.4))
    expected = copy.deepcopy(model)
    objective = NTXentLoss(temperature=0.1)

    torch.manual_seed(7)
    loss, z = one_graph(expected, batch(), objective, pieces)
    next_draw = torch.rand(3)

    torch.manual_seed(7)
    step = cached_step(model, batch(), objective, chunk)
    assert torch.equal(torch.rand(3), next_draw)  # later draws are those of a run without caching

    torch.testing.assert_close(step.loss, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(step.z, z, rtol=1e-12, atol=1e-14)
    assert not step.loss.requires_grad
    assert not step.z.requires_grad
    assert_same_gradients(model, expected)
    assert model.calls == (1 if pieces == 1 else 2 * pieces)


@pytest.mark.parametrize("num_views", [2, 3])
def test_equals_a_plain_step_of_the_whole_batch_without_randomness(num_views):
    model = embedder()
    expected = copy.deepcopy(model)
    loss, _ = one_graph(expected, batch(9, num_views), NTXentLoss(), pieces=1)
    step = cached_step(model, batch(9, num_views), NTXentLoss(), chunk=4)
    torch.testing.assert_close(step.loss, loss, rtol=1e-12, atol=0)
    assert_same_gradients(model, expected)


def test_gradients_are_added_to_those_already_there():
    model = embedder()
    cached_step(model, batch(), NTXentLoss(), chunk=4)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    cached_step(model, batch(), NTXentLoss(), chunk=4)
    for parameter, gradient in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_sees_each_chunk_and_its_buffers_move_once(momentum):
    model = embedder(nn.BatchNorm1d(16, momentum=momentum))
    expected = copy.deepcopy(model)
    one_graph(expected, batch(), NTXentLoss(), pieces=3)
    cached_step(model, batch(), NTXentLoss(), chunk=4)
    assert_same_gradients(model, expected)
    assert int(model.layers[1].num_batches_tracked) == 3
    for buffer, other in zip(model.buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-12, atol=1e-14)


def test_an_objective_that_draws_does_not_disturb_the_replay():
    """The masks of the second pass are those of the first, and the objective's own draws are not drawn again."""

    def noisy(z: Tensor) -> Tensor:
        return NTXentLoss()(z + 0.1 * torch.randn_like(z))

    model = embedder(nn.Dropout(0.4))
    expected = copy.deepcopy(model)
    torch.manual_seed(7)
    one_graph(expected, batch(), noisy, pieces=2)
    next_draw = torch.rand(3)
    torch.manual_seed(7)
    cached_step(model, batch(), noisy, chunk=5)
    assert torch.equal(torch.rand(3), next_draw)
    assert_same_gradients(model, expected)


def test_under_autocast_the_weights_get_their_gradient():
    """Half copies of the weights that autocast made in the first pass, without a graph, must not serve the second."""
    model = embedder(nn.Dropout(0.4)).float()
    expected = copy.deepcopy(model)
    views = batch().float()
    torch.manual_seed(7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one_graph(expected, views, NTXentLoss(), pieces=3)
    torch.manual_seed(7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cached_step(model, views, NTXentLoss(), chunk=4)
    # bfloat16 has 8 bits, and the two add up the chunks in another order.
    assert_same_gradients(model, expected, rtol=0.03, atol=2e-3)


def test_a_scaled_backward_reaches_the_parameters():
    model = embedder()
    expected = copy.deepcopy(model)
    one_graph(expected, batch(), NTXentLoss(), pieces=1)
    step = cached_step(model, batch(), NTXentLoss(), chunk=4, backward=lambda loss: (1024 * loss).backward())
    for parameter, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, 1024 * other.grad, rtol=1e-10, atol=1e-10)
    assert step.loss < 10  # the loss itself is not scaled


@pytest.fixture
def one_process_group(tmp_path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_distributed_gradients_are_exchanged_once_and_complete(one_process_group):
    expected = embedder(nn.Dropout(0.4))
    model = DistributedDataParallel(copy.deepcopy(expected))
    exchanged = []

    def count(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        exchanged.append(bucket.buffer().clone())
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model.register_comm_hook(None, count)
    torch.manual_seed(7)
    one_graph(expected, batch(), NTXentLoss(), pieces=3)
    torch.manual_seed(7)
    cached_step(model, batch(), NTXentLoss(), chunk=4)
    assert_same_gradients(model.module, expected)
    parameters = sum(p.numel() for p in expected.parameters())
    assert sum(buffer.numel() for buffer in exchanged) == parameters  # every gradient, once
    total = sum(p.grad.sum() for p in expected.parameters())
    torch.testing.assert_close(sum(buffer.sum() for buffer in exchanged), total, rtol=1e-10, atol=1e-12)


def test_chunk_below_one_is_refused():
    with pytest.raises(ValueError, match="chunk is 0"):
        cached_step(embedder(), batch(), NTXentLoss(), chunk=0)
