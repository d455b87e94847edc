"""FSDP2 as accelerate has it (``accelerate launch --use_fsdp --fsdp_version 2``): weights, gradients and states in shards.

Every process holds some rows of each tensor, and gathers a block's weights while it computes with them. accelerate's plugin says
how; a run differs from it in what its own promises ask for:

- The arithmetic is DistributedDataParallel's: float32 weights, ``train.precision`` is autocast, gradients averaged in float32.
- A block is a layer of timm's, unless ``fsdp_auto_wrap_policy`` says otherwise.
- What looks at the weights outside a step (scores, mining, export) does so on a whole copy, which knows of no other process.
"""

import copy
import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import convert_outputs_to_fp32, get_mixed_precision_context_manager
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn

from simclr.errors import ConfigError
from simclr.model.contrastive import ContrastiveModel
from simclr.model.encoder import checkpoint_activations
from simclr.model.layers import layer_numbers
from simclr.sharding import is_sharded, local, norms, whole

__all__ = ["clip_gradients", "place", "prepared", "refuse_engine", "take_fsdp", "whole_model"]

_WHOLE: WeakKeyDictionary[nn.Module, Callable[[dict[str, Tensor], torch.device | None], ContrastiveModel]]
_WHOLE = WeakKeyDictionary()
"""Of each sharded model, what makes a whole one of whole tensors."""


def refuse_engine(precision: str) -> None:
    """Raise ConfigError where accelerate is set to divide a model in a way in which a run cannot be divided."""
    engines = ("deepspeed", "megatron_lm", "parallelism_config")
    asked = [f"use_{name}" for name in engines if _is_on(f"ACCELERATE_USE_{name.upper()}")]
    instead = "a model that does not fit on one device trains with accelerate launch --use_fsdp --fsdp_version 2"
    if asked:
        raise ConfigError(f"accelerate is set to {asked[0]}, with which nothing trains here; {instead}")
    if not _is_on("ACCELERATE_USE_FSDP"):
        return
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(f"accelerate is set to FSDP of version {version} (fsdp_version); {instead}")
    if precision == "fp16":
        raise ConfigError("train.precision=fp16 does not go with FSDP; set --train.precision bf16 or fp32")
    if _is_on("FSDP_OFFLOAD_PARAMS"):
        raise ConfigError(
            "accelerate is set to fsdp_offload_params, which no run here can; set it to false: --train.activation-checkpointing, "
            "--train.cached-chunk and more processes need less memory too"
        )
    if os.environ.get("FSDP_IGNORED_MODULES"):
        raise ConfigError("accelerate is set to fsdp_ignored_modules, whose gradients nothing adds up; leave that out")


def take_fsdp(accelerator: Accelerator) -> None:
    """Make of FSDP, where accelerate is set to it, what a run means by it: on a CPU too, where accelerate passes over it."""
    if not _is_on("ACCELERATE_USE_FSDP"):
        return
    shared = accelerator.num_processes > 1
    kind = DistributedType.FSDP if shared else DistributedType.MULTI_GPU  # one process has nothing to share
    if shared or accelerator.distributed_type == DistributedType.FSDP:
        for state in (accelerator.state, PartialState()):  # the first is made again of the second now and then
            state.distributed_type = kind
    if shared:
        # Without the precision that accelerate gave its own one, which would round gradients before they are added up.
        plugin = FullyShardedDataParallelPlugin()
        plugin.cpu_ram_efficient_loading = False  # each process builds the weights from the seed
        accelerator.state.fsdp_plugin = plugin


def place(accelerator: Accelerator, *models: ContrastiveModel, name: str) -> None:
    """Put ``models``, alike in every process, on the device; under FSDP of each parameter the rows that this process holds.

    Args:
        accelerator: of the run.
        models: the one that learns first, then its average, if any.
        name: of the network, for messages.

    Raises:
        ConfigError: accelerate is set to what cannot be done with this network.
    """
    if not accelerator.is_fsdp2:
        for model in models:
            model.to(accelerator.device)
        return
    if accelerator.state.fsdp_plugin.activation_checkpointing:
        # accelerate's own way draws other masks of dropout the second time.
        checkpoint_activations(models[0].backbone, name)
    for model in models:
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
        _WHOLE[model] = partial(_rebuilt, copy.deepcopy(model, empty), accelerator)
        for p in model.parameters():
            p.data = p.data.contiguous()  # channels_last is left to the activations
        try:
            _shard(accelerator, model)
        except ValueError as error:
            raise ConfigError(
                f"accelerate's fsdp_auto_wrap_policy does not go with {name} ({error}); leave it out to share out every block"
            ) from error
        model.register_forward_pre_hook(_take_buffers)


def _shard(accelerator: Accelerator, model: ContrastiveModel) -> None:
    plugin, policy = accelerator.state.fsdp_plugin, os.environ.get("FSDP_AUTO_WRAP_POLICY")
    # The second is what accelerate's config writes for whoever leaves the choice to the model.
    if policy is None or (policy == "TRANSFORMER_BASED_WRAP" and not plugin.transformer_cls_names_to_wrap):
        from torch.distributed.fsdp import fully_shard

        for block in _blocks(model.backbone):
            fully_shard(block, reshard_after_forward=plugin.reshard_after_forward)
    fsdp2_prepare_model(accelerator, model)


def _blocks(backbone: nn.Module) -> list[nn.Module]:
    """The modules that are a layer of timm's each, and their like, inner ones first; none where timm names no layers."""
    if not hasattr(backbone, "group_matcher"):
        return []
    owners: dict[int, list[str]] = {}
    for name, number in layer_numbers(backbone).items():
        owners.setdefault(number, []).append(posixpath.dirname(name.replace(".", "/")))
    paths = {posixpath.commonpath(paths) for paths in owners.values()} - {""}
    named = {part for path in paths for part in _parts(backbone.get_submodule(path.replace("/", ".")))}
    innermost = {module for module in named if not named & {*module.modules()} - {module}}
    # Their like too: timm counts the last block to the layer of the norm behind it.
    kinds = {type(module) for module in innermost} - {nn.Sequential}

    def found(module: nn.Module, inside: bool) -> Iterator[nn.Module]:
        for child in module.children():
            alike = type(child) in kinds and not inside
            yield from found(child, inside or alike or child in innermost)
            if alike or child in named:
                yield child

    return list(found(backbone, inside=False))


def _parts(module: nn.Module) -> list[nn.Module]:
    """``module`` itself if it has an inside, or of a mere row of modules those that have: a row may be run one by one."""
    inside = [child for child in module.children() if next(child.children(), None) is not None]
    if isinstance(module, nn.Sequential | nn.ModuleList) and (inside or isinstance(module, nn.ModuleList)):
        return [part for child in inside for part in _parts(child)]
    return [module] if next(module.children(), None) is not None else []


def _take_buffers(model: nn.Module, _: Any) -> None:
    """Before a training step: the first process's buffers (BatchNorm's statistics), as DistributedDataParallel does."""
    buffers = list(model.buffers())
    if buffers and model.training and torch.is_grad_enabled():
        group = dist.group.WORLD
        assert group is not None
        dist._broadcast_coalesced(group, buffers, 250 << 20, 0)


def prepared(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Both as accelerate runs them: ``accelerator.prepare``, or what is left of it where the weights are sharded."""
    if not accelerator.is_fsdp2:
        model, optimizer = accelerator.prepare(model, optimizer)
        return model, optimizer
    _autocast(model, accelerator)
    forward = model.forward
    model.forward = lambda views: forward(views).clone()  # of a view FSDP warns
    return model, accelerator.prepare_optimizer(optimizer)


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """The norm of all gradients together, scalar; they are scaled to ``max_norm`` where it is larger.

    As ``torch.nn.utils.clip_grad_norm_``, which takes no mixture of whole tensors and parts. A collective where any is sharded.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not any(map(is_sharded, gradients)):
        return nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
    held = [local(gradient) for gradient in gradients]
    norm = torch.linalg.vector_norm(norms(held, [is_sharded(gradient) for gradient in gradients]))
    torch._foreach_mul_(held, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def whole_model(model: ContrastiveModel, device: torch.device | None = None, keep: bool = True) -> ContrastiveModel:
    """A copy of a sharded ``model`` with all of its weights, on ``device`` or the run's; of a whole one itself.

    A tensor is gathered at a time. A collective where the model is sharded; a process that does not ``keep`` it takes part, and
    gets a model without values.
    """
    rebuilt = _WHOLE.get(model)
    if rebuilt is None:
        return model
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        value = whole(tensor)
        if keep:
            state[name] = value.to(device or value.device, copy=True)
    return rebuilt(state, device).train(model.training)


def _rebuilt(
    empty: ContrastiveModel, accelerator: Accelerator, state: dict[str, Tensor], device: torch.device | None
) -> ContrastiveModel:
    made = copy.deepcopy(empty)
    if state:
        made.load_state_dict(state, assign=True)
        made.to(device or accelerator.device)  # buffers that are in no state
        _autocast(made, accelerator)
    return made


def _autocast(model: nn.Module, accelerator: Accelerator) -> None:
    """As ``accelerator.prepare`` does where the model is whole."""
    if accelerator.native_amp:
        context = get_mixed_precision_context_manager(True, accelerator.autocast_handler)
        model.forward = convert_outputs_to_fp32(context(model.forward))


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1", "yes", "on")
