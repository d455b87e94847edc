"""Who trains together, on which images, and whether rows and arithmetic arrive as they should.

Settings, versions and names of images were compared before (`simclr.processes.agree`): what differs there is refused.
"""

import socket
from collections.abc import Iterator

import torch
import torch.distributed as dist

from augment import ViewGenerator
from simclr.data.given import fingerprint
from simclr.distributed import alone, gather_rare, gather_rows
from simclr.losses.ntxent import NTXentLoss, nt_xent_reference
from simclr.run.parts import Run
from simclr.selftest.finding import ROUNDING, Finding, same

__all__ = ["arithmetic", "gathered_rows", "images_in_order", "processes"]


def processes(run: Run) -> Finding:
    """Who is there."""
    device = run.accelerator.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    every = gather_rare((socket.gethostname(), kind))
    hosts, kinds = ({one[i] for one in every} for i in (0, 1))
    wire = f", {dist.get_backend()}" if len(every) > 1 else ""
    machines = f"{len(hosts)} machine{'s' if len(hosts) > 1 else ''}"
    words = f"{len(every)} on {machines}: {', '.join(sorted(kinds))}{wire}, {torch.get_num_threads()} threads each"
    if len(every) == 1:
        words += (
            "; nothing to compare until this is launched as the run will be, accelerate launch or torchrun before it"
        )
    return Finding("processes", words, len(every) == run.accelerator.num_processes)


def images_in_order(run: Run) -> Iterator[Finding]:
    """Whether all see the same images, and take their parts of the batches that one process would have."""
    yield same("images", fingerprint(run.images))
    world, size = run.accelerator.num_processes, run.config.train.batch_size
    steps = min(run.steps_per_epoch, 200)
    parts = gather_rare([run.sampler.indices(s, run.accelerator.process_index, world) for s in range(steps)])
    whole = [run.sampler.indices(s) for s in range(steps)]
    once = all(torch.equal(torch.cat([part[s] for part in parts]), whole[s]) for s in range(steps))
    words = f"{steps} batches of {size} images, each in the order of one process's"
    yield Finding("order", words if once else "the processes' parts of a batch are not the batch of one process", once)


def gathered_rows(run: Run) -> Finding:
    """Rows whose place is known, gathered: their order, and the gradient that is left after the mean over processes."""
    world, me, shape = run.accelerator.num_processes, run.accelerator.process_index, (2, 3, 4)
    place = torch.arange(24.0, device=run.accelerator.device).view(shape)
    x = (place + 100 * me).requires_grad_()
    z = gather_rows(x)
    expected = torch.cat([place + 100 * r for r in range(world)], dim=1)
    if z.shape != expected.shape or not torch.equal(z.detach(), expected):
        return Finding("gather", "rows are not those of all processes in their order", False)
    weight = torch.arange(float(z.numel()), device=z.device).view(z.shape)
    (gradient,) = torch.autograd.grad((z * weight).sum(), x)
    right = torch.equal(gradient, world * weight[:, 3 * me : 3 * me + 3])
    words = (
        f"rows of {world} in order, each with its gradient"
        if right
        else "rows have another gradient than in one process"
    )
    return Finding("gather", words, right)


def arithmetic(run: Run) -> Iterator[Finding]:
    """Whether this device computes what the textbook form says, and makes the views that a CPU makes."""
    device = run.accelerator.device
    z = torch.nn.functional.normalize(torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    exact, here = z.double().requires_grad_(), z.to(device).requires_grad_()
    (wanted,) = torch.autograd.grad(loss := nt_xent_reference(exact, 0.1), exact)
    with alone():
        (found,) = torch.autograd.grad(value := NTXentLoss(0.1)(here), here)
    error = ((found.cpu() - wanted).norm() / wanted.norm()).item()
    near = error < ROUNDING and abs(value.item() - loss.item()) < ROUNDING
    yield Finding("NT-Xent here", f"gradient within {error:.1e} of the textbook form in float64", near)
    config = run.config
    if device.type == "cpu" and not config.train.compile_augment:
        return
    size = (run.images.size, run.images.size)
    images = torch.randint(
        256, (8, config.data.channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    plain = ViewGenerator(config.augment)
    drawn = plain.sample(8, size, 0, device, config.data.channels)
    made = (
        ViewGenerator(config.augment, compile=config.train.compile_augment).to(device).apply(images.to(device), drawn)
    )
    apart = (made.cpu() - plain.apply(images, drawn.to("cpu"))).abs().mean().item()
    yield Finding("views here", f"those of the plain form on a CPU within {apart:.1e} on average", apart < 0.01)
