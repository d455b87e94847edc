"""Turn any set of images into few large files: ``python scripts/make_shards.py [shards | parquet] --data.path DIR --out FOLDER``.

    python scripts/make_shards.py --data.path DIR --out SHARDS
    python scripts/make_shards.py parquet --data.path DIR --out TABLES --size 256

``shards`` (without a word) are tars as WebDataset reads them, with a list of all images beside them; ``parquet`` is what Hugging
Face's ``datasets`` reads. Images are shuffled once, files are kept byte for byte (``--size 256`` stores smaller JPEGs), and
labels, groups, and the division into training and test images go with them. Training reads them with
``--data.source shards --data.path FOLDER``. A command that was stopped goes on when it is given again.
"""

import sys
from pathlib import Path
from typing import Literal

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from simclr.command_line import parse_flags, run_command
from simclr.data.packed.make import MakeOptions, make_shards
from simclr.errors import ConfigError
from simclr.names import printable


def main(arguments: list[str]) -> int:
    kind: Literal["shards", "parquet"] = "parquet" if arguments[:1] == ["parquet"] else "shards"
    words = arguments[1:] if arguments[:1] in (["parquet"], ["shards"]) else arguments
    if words and not words[0].startswith("-"):
        raise ConfigError(f"{words[0]!r} is neither shards nor parquet; images are named with --data.path DIR")
    options = parse_flags(MakeOptions, words, "make_shards.py", __doc__ or "", MakeOptions(out=Path("shards")))
    print("\n".join(map(printable, make_shards(options, kind).lines())))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, alone=True))
