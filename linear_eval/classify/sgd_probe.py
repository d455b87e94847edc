"""The linear probe of the SimCLR paper: a linear layer trained by SGD on crops and flips, before a frozen encoder.

The recipe is that of google-research/simclr for CIFAR-10 (README; Chen et al. 2020, appendix B.6): Nesterov momentum
0.9, learning rate 0.1 x batch / 256 with a cosine to zero and no warm-up, batch 512, 100 epochs, no weight decay, the
layer's weights starting at zero, features not standardised. Training images are cropped and flipped anew every epoch,
test images are not. Nothing is chosen, so nothing is held out; the test set is scored once, after the last epoch.

It costs an encoder pass over the training set an epoch. ``linear_eval.classify.probe`` needs one in all, and is the default.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augment import AugmentConfig, ViewGenerator
from augment.pixel_range import check_range
from linear_eval.classify.result import LinearClassifier, ProbeResult, score_predictions
from linear_eval.features.extract import check_features, extract_features
from linear_eval.features.frozen import frozen
from linear_eval.features.images import SizedImages, all_labels, image_batches
from simclr.errors import ConfigError, DataError

__all__ = ["sgd_probe"]


def _labels(dataset: SizedImages, name: str) -> Tensor:
    labels = all_labels(dataset)
    if labels is None:
        parts = image_batches(dataset, torch.arange(len(dataset)), 1024, torch.device("cpu"))
        labels = torch.cat([part for _, part in parts]) if len(dataset) else torch.empty(0, dtype=torch.int64)
    if len(labels) == 0 or (labels < 0).all():
        raise DataError(f"the {name} set has no labels: this score compares with labels, give a labelled set")
    return labels


def sgd_probe(
    encoder: nn.Module,
    train_set: SizedImages,
    test_set: SizedImages,
    *,
    epochs: int = 100,
    batch_size: int = 512,
    learning_rate: float = 0.1,
    size: int | None = None,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    horizontal_flip: float = 0.5,
    seed: int = 0,
    device: torch.device | str | None = None,
    workers: int = 0,
    autocast: torch.dtype | None = None,
    resamples: int = 10_000,
    progress: Callable[[int, int, float], None] | None = None,
) -> ProbeResult:
    """Train the linear layer on ``train_set`` by the recipe above and score it on ``test_set``, once.

    Args:
        encoder: images (B, C, H, W) in [0, 1] -> (B, F); proven untouched, see ``linear_eval.features.frozen``.
        train_set: labelled images; those with label -1 are left out.
        test_set: labelled images; those with label -1 are left out.
        epochs: passes over the training set.
        batch_size: images a step; the whole training set where that is smaller.
        learning_rate: at batch 256, scaled linearly with the batch.
        size: height and width of the crops; by default what the encoder says (``encoder.size``), else the images'.
        crop_scale: range of the crop's area.
        horizontal_flip: probability; 0 where a mirror image means something else.
        seed: of order, crops and bootstrap.
        device: where to run; by default where the encoder's parameters are.
        workers: processes that read images of a set that is not one tensor.
        autocast: bfloat16 or float16 to run the encoder in.
        resamples: of the bootstrap.
        progress: called after every epoch with (epochs done, epochs in all, mean loss).

    Raises:
        ConfigError: a setting out of range.
        DataError: no labels, fewer than two classes, or a loss that is not finite.
    """
    if epochs < 1 or batch_size < 1 or not learning_rate > 0:
        raise ConfigError(
            f"epochs={epochs}, batch_size={batch_size}, learning_rate={learning_rate}: expected >= 1, >= 1 and > 0"
        )
    labels = _labels(train_set, "training")
    _labels(test_set, "test")
    labelled = (labels >= 0).nonzero().flatten()
    classes = labels[labelled].unique()
    if len(classes) < 2:
        raise DataError(f"the training set has only the class {classes.item()}: a classifier needs at least two")
    first = next(encoder.parameters(), None)
    device = torch.device(device) if device is not None else torch.device("cpu") if first is None else first.device
    encoder.to(device)
    batch_size = min(batch_size, len(labelled))
    steps = math.ceil(len(labelled) / batch_size)
    peak = learning_rate * batch_size / 256

    head: nn.Linear | None = None
    with frozen(encoder):
        for epoch in range(epochs):
            order = labelled[torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed + epoch))]
            batches = image_batches(train_set, order, batch_size, device, workers)
            total = torch.zeros((), device=device)
            for number, (images, target) in enumerate(batches):
                step = epoch * steps + number
                if head is None:
                    generator = _crops(encoder, images, size, crop_scale, horizontal_flip)
                views = generator(_as_uint8(images), seed=seed * epochs * steps + step)[0]
                with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
                    z = encoder(views)  # (B, F)
                if head is None:
                    head, optimizer = _zero_head(z, len(classes), peak)
                optimizer.param_groups[0]["lr"] = 0.5 * peak * (1 + math.cos(math.pi * step / (epochs * steps)))
                with torch.enable_grad(), torch.autocast(device.type, enabled=False):
                    loss = F.cross_entropy(head(z.float()), torch.searchsorted(classes, target).to(device))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                total += loss.detach()
            mean_loss = total.item() / steps
            if not math.isfinite(mean_loss):
                raise DataError(
                    f"the linear layer's loss is {mean_loss} in epoch {epoch + 1}: features of this scale need a lower "
                    f"learning rate than {learning_rate}, or the default probe, which standardises them"
                )
            if progress is not None:
                progress(epoch + 1, epochs, mean_loss)
    assert head is not None
    test = extract_features(encoder, test_set, batch_size, device, workers=workers, autocast=autocast)
    test = test.subset(test.y >= 0)
    check_features(test, "test")
    weight, bias = head.weight.detach().cpu(), head.bias.detach().cpu()
    width = weight.shape[1]
    classifier = LinearClassifier(weight, bias, torch.zeros(width), torch.ones(width), classes)
    return score_predictions(
        classifier.predict(test.x),
        test.y,
        labels[labelled],
        resamples=resamples,
        seed=seed,
        chosen=None,
        classifier=classifier,
    )


def _crops(
    encoder: nn.Module, images: Tensor, size: int | None, scale: tuple[float, float], flip: float
) -> ViewGenerator:
    side = size or getattr(encoder, "size", None)
    side = side if isinstance(side, int) else min(images.shape[-2:])
    return ViewGenerator(
        AugmentConfig(size=side, views=1, crop_scale=scale, horizontal_flip=flip, jitter=0.0, gray=0.0)
    )


def _zero_head(z: Tensor, classes: int, peak: float) -> tuple[nn.Linear, torch.optim.SGD]:
    head = nn.Linear(z.shape[1], classes).to(z.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head, torch.optim.SGD(head.parameters(), lr=peak, momentum=0.9, nesterov=True)


def _as_uint8(images: Tensor) -> Tensor:
    check_range(images, "")
    return images if images.dtype == torch.uint8 else (images * 255).round().clamp(0, 255).to(torch.uint8)
