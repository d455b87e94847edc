"""Dense features: the map that a backbone pools its vector from, a feature vector for each place or patch of an image."""

from math import isqrt

from torch import Tensor, nn

from simclr.errors import ConfigError

__all__ = ["feature_map"]


def feature_map(backbone: nn.Module, images: Tensor) -> Tensor:
    """The features (B, F, h, w) of images (B, C, S, S) before a backbone of timm pools them.

    Of a convolutional network it is the last stage's output, of a transformer its normalised patch tokens in their places;
    class token and registers are left out.

    Raises:
        ConfigError: a network whose tokens have no places in a square.
    """
    features = backbone.forward_features(images)  # type: ignore[operator]  # every network of timm has it
    if isinstance(features, Tensor) and features.ndim == 4:
        width = getattr(backbone, "num_features", features.shape[1])
        last = getattr(backbone, "output_fmt", None) == "NHWC" or features.shape[1] != width == features.shape[3]
        return features.permute(0, 3, 1, 2).contiguous() if last else features
    if isinstance(features, Tensor) and features.ndim == 3:
        patches = features[:, int(getattr(backbone, "num_prefix_tokens", 0)) :]  # (B, h*w, F)
        side = isqrt(patches.shape[1])
        if side * side == patches.shape[1]:
            return patches.transpose(1, 2).unflatten(2, (side, side)).contiguous()
    shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
    raise ConfigError(
        f"{type(backbone).__name__} gives features of shape {shape} before it pools them, which are no map (B, F, h, w); "
        'take its vectors: features="vector"'
    )
