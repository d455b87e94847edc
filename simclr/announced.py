"""What somebody at a terminal sees of a run at once: before what trains it is loaded, which takes seconds."""

import os
import sys

from simclr.config import TrainConfig
from simclr.names import printable

__all__ = ["announce"]


def announce(config: TrainConfig) -> None:
    """Say on a terminal what is about to be trained on what; one of several processes says it.

    Into a file or a pipe goes what a run has to tell, of which a mistake is one line.
    """
    if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        images = config.data.path or config.data.source
        print(printable(f"{config.run_dir}: {config.encoder.name} on {images}"), file=sys.stderr, flush=True)
