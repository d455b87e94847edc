"""What Python handed to ``simclr.pretrain``, in words: a config holds no images, functions and modules."""

from dataclasses import dataclass

__all__ = ["GivenConfig"]


@dataclass(frozen=True, kw_only=True)
class GivenConfig:
    """Nothing here can be made from the words: the run goes on by the same call in Python, which is held to them."""

    images: str | None = None
    """Kind, number, labels and a digest of some of the images."""

    before: str | None = None
    """Further augmentation of whole images, before ours."""

    after: str | None = None
    """Further augmentation of views, after ours."""

    objective: str | None = None
    """The loss."""

    def words(self) -> dict[str, str]:
        """What was given, by the argument's name."""
        return {name: said for name, said in vars(self).items() if said is not None}
