"""Names that people give the folders of the parts of a set: training, validation, test, unlabelled."""

import re
from typing import Literal

__all__ = ["PARTS", "PartName", "part_of"]

PartName = Literal["train", "validation", "test", "unlabeled"]

PARTS: dict[PartName, str] = {
    "train": "train training trn trainset traindata trainimages trainval labeled labelled",
    "validation": "validation validate validating valid val dev devel development valset",
    "test": "test testing tst testset testdata testimages eval evaluation holdout heldout",
    "unlabeled": "unlabeled unlabelled unlabel unlab unsup unsupervised nolabel nolabels unannotated extra pred predict",
}
"""The one word that is left of a folder's name without what stands beside it."""

_FILLERS = (
    "set sets data dataset image images img imgs picture pictures photo photos jpg jpeg png file files folder dir split "
    "part subset seg the of only crop crops cropped resized all"
)
"""Words that stand beside a part's name: ``training_set``, ``train-images``, ``seg_test``."""


def part_of(name: str) -> PartName | None:
    """Which part of a set a folder of this name is, without regard to case, separators, years and words such as "set".

    >>> [part_of(name) for name in ("Train", "training_set", "val2017", "TEST-images", "Unlabelled", "trainers", "images")]
    ['train', 'train', 'validation', 'test', 'unlabeled', None, None]
    """
    words: list[str] = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    words = [word for word in words if word not in _FILLERS.split()]
    joined = "".join(words)
    if words and words in (["held", "out"], ["hold", "out"]):
        return "test"
    if words in (["no", "label"], ["no", "labels"], ["not", "labeled"], ["without", "labels"], ["without", "label"]):
        return "unlabeled"
    return next((part for part, known in PARTS.items() if len(words) == 1 and joined in known.split()), None)
