"""What the words of a command say of the images that an encoder is given: which they are, and of what size."""

from collections.abc import Sequence

from linear_eval.scored_run import ScoredRun
from simclr.command_line import own_or_other_data
from simclr.config import DataConfig
from simclr.errors import ConfigError
from simclr.flags import read_words

__all__ = ["fed_as_asked", "images_to_start_from"]


def images_to_start_from(run: ScoredRun, words: Sequence[str], needs_labels: bool = True) -> DataConfig:
    """What the flags ``words`` start from: the run's own images; for weights of others a folder, read as they want it."""
    if run.data is not None:
        return own_or_other_data(run.data, words, needs_labels)
    reader = run.description.reader
    return DataConfig(source="folder", size=reader.size, channels=reader.channels, fit=reader.fit)


def fed_as_asked(run: ScoredRun, words: Sequence[str], data: DataConfig) -> tuple[ScoredRun, list[str]]:
    """``run`` with its network fed at ``data.size`` where the flags ``words`` give that; and a line that says so.

    Raises:
        ConfigError: nobody knows what the encoder was trained on, and the flags name no images.
    """
    flags = read_words(words).flags
    if run.data is None and flags.keys().isdisjoint({"--data.path", "--data.source", "--runs"}):
        raise ConfigError(
            f"{run.name} does not say what it was trained on; give the images: --data.path DIR, or --data.source NAME"
        )
    if "--data.size" not in flags or data.size == run.description.reader.size:
        return run, []
    trained = run.description.size
    return run.but(size=data.size), [f"the network is fed {data.size} x {data.size} px; in training it was {trained}"]
