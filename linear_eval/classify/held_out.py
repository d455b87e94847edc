"""How sure a linear probe may be: the temperature of its probabilities, fitted on training images that it was not fitted on."""

import torch

from linear_eval.classify.certainty import fit_temperature
from linear_eval.classify.logistic import fit_logistic
from linear_eval.classify.probe import held_out_parts
from linear_eval.features.extract import Features
from linear_eval.features.rows import Rows, column_statistics
from linear_eval.progress import default_device

__all__ = ["held_out_temperature"]


def held_out_temperature(
    train: Features,
    strength: float,
    seed: int = 0,
    validation: float = 0.1,
    device: torch.device | str | None = None,
) -> tuple[float, int]:
    """The temperature T that divides a probe's logits (Guo et al. 2017), and how many training images it was fitted on.

    The parts that ``linear_probe`` held out to choose its strength are held out again, each from a probe of that strength
    which is fitted on the rest; T has the least cross-entropy of all their logits. No test image has a part in it.

    Args:
        train: the labelled features that the probe is fitted on.
        strength: the one that was chosen.
        seed, validation: as ``linear_probe`` was given them.
        device: where to fit; by default CUDA where there is one.

    Returns:
        T > 0, and the number of images; (1.0, 0) where no class has two images, so that none can be held out.
    """
    classes, target = train.y.unique(return_inverse=True)
    device = default_device(device)
    mean, scale = column_statistics(train.x)
    rows = Rows(train.x, mean=mean, scale=scale, device=device, mapped=train.mapped)
    target = target.to(device)
    one = torch.tensor([strength], dtype=torch.float64)
    logits, labels = [], []
    for part in held_out_parts(train.y, validation, seed, train.groups):
        mask = part.to(device)
        fit = fit_logistic(rows, target, len(classes), one, sample_weight=(~mask).float())
        for chunk, x in rows.chunks(len(classes)):
            held_out = mask[chunk]
            logits.append((x[held_out] @ fit.weight[0].t() + fit.bias[0]).cpu())
            labels.append(target[chunk][held_out].cpu())
    if not logits:
        return 1.0, 0
    return fit_temperature(torch.cat(logits), torch.cat(labels)), sum(map(len, labels))
