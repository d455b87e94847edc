"""Compiled and eager training agree; where nothing can be compiled, training goes on."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._functorch import config as functorch
from torch._inductor import config as inductor

import simclr
from simclr.config import TrainConfig
from simclr.run.accelerator import CompiledModel, maybe_compiled


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself, in some releases
@pytest.mark.slow
def test_without_a_compiler_a_run_goes_on_and_ends_as_without_compile(
    tiny_run: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nowhere/g++"))
    # Or a graph of an earlier run serves.
    monkeypatch.setattr(inductor, "fx_graph_cache", False)
    monkeypatch.setattr(functorch, "enable_autograd_cache", False)
    torch._dynamo.reset()
    with pytest.warns(
        UserWarning, match=r"torch\.compile failed, training goes on without it: .*No working C\+\+ compiler"
    ):
        run = simclr.pretrain(replace(tiny_run, name="compiled", train=replace(tiny_run.train, compile="default")))
    eager = simclr.pretrain(replace(tiny_run, name="eager"))
    assert run.finished
    pairs = zip(
        simclr.load_encoder(run.run_dir).parameters(), simclr.load_encoder(eager.run_dir).parameters(), strict=True
    )
    assert all(torch.equal(one, other) for one, other in pairs)


def test_what_the_model_raises_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("views of 7 px are too small")

    monkeypatch.setattr(torch, "compile", lambda form, **options: form)
    with pytest.raises(ValueError, match="views of 7 px"):
        CompiledModel(Picky(), "default")(torch.zeros(1))


def test_mode_no_is_the_model_itself() -> None:
    model = nn.Linear(2, 2)
    assert maybe_compiled(model, "no") is model
