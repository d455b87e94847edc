"""Threads that keep torch's operations serial: every item once, errors and modes carried over, the default untouched."""

import os
from collections.abc import Iterator

import pytest
import torch

from augment import AugmentConfig, ViewGenerator, threads
from augment.threads import run_in_threads, run_serially


@pytest.fixture(params=[1, 2, 3], autouse=True)
def number_of_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_item_is_worked_on_once_and_serially(number_of_threads: int) -> None:
    seen: list[tuple[int, int]] = []
    run_in_threads(lambda item: seen.append((item, torch.get_num_threads())), range(50))
    assert sorted(seen) == [(item, 1) for item in range(50)]
    assert torch.get_num_threads() == number_of_threads
    assert run_serially(torch.get_num_threads) == 1


def test_an_error_reaches_the_caller() -> None:
    def fail(item: int) -> None:
        if item == 3:
            raise ValueError("item 3 is wrong")

    with pytest.raises(ValueError, match="item 3 is wrong"):
        run_in_threads(fail, range(5))
    run_in_threads(fail, range(3))  # the pool goes on


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_callers_modes_hold(inference: bool, gradients: bool) -> None:
    seen: list[tuple[bool, bool]] = []
    with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
        run_in_threads(lambda _: seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled())), range(2))
        images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
        views = ViewGenerator(AugmentConfig(blur=0.5, affine=0.5))(images, seed=0)
    assert seen == [(inference, gradients)] * 2
    assert views.is_inference() == inference


def test_the_views_do_not_depend_on_the_number_of_threads(number_of_threads: int) -> None:
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    generator = ViewGenerator(AugmentConfig(blur=0.5, solarize=0.2, affine=0.2))
    views = generator(images, seed=0)
    torch.set_num_threads(1)
    assert torch.equal(views, generator(images, seed=0))


def test_a_forked_child_gets_a_pool_of_its_own(monkeypatch: pytest.MonkeyPatch, number_of_threads: int) -> None:
    ours = threads._pool(number_of_threads)
    assert threads._pool(number_of_threads) is ours
    monkeypatch.setattr(os, "getpid", lambda: -1)
    child = threads._pool(number_of_threads)
    assert child is not ours
    child.shutdown()
    del threads._pools[-1, number_of_threads]
