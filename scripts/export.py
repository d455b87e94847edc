"""Write an encoder for other programs: ``python scripts/export.py RUN [--format timm | hub | torch | onnx]``.

    python scripts/export.py runs/birds
    python scripts/export.py runs/birds --format onnx
    python scripts/export.py runs/birds --format hub

RUN is a run directory, an encoder folder, a run that has not finished (--checkpoint newest), a file of weights of others,
or the name of a timm model. --format hub adds a model card to timm's files, of what the run wrote down; --classifier adds the
classes of a fine-tuned run to a torch or onnx file. What is written is loaded again and compared with the encoder before it
is put into its place; the lines of Python that load it are printed.
"""

import sys

from simclr.stopping import listen

if __name__ == "__main__":
    listen()  # before the imports, which take seconds

from linear_eval.comparison.card import card_facts
from simclr.command_line import parse_flags, run_and_flags, run_command
from simclr.exchange.formats import ExportOptions, export_as
from simclr.names import printable


def main(arguments: list[str]) -> int:
    about = __doc__ or ""
    given, words = run_and_flags(arguments, "export.py", about, "export", ExportOptions())
    options = parse_flags(ExportOptions, words, "export.py RUN", about, default=ExportOptions())
    written = export_as(given, options, card_facts(given) if options.format == "hub" else None)
    print("\n".join(printable(str(file)) for file in written.files))
    print(f"loaded again: it differs from the encoder by {written.difference:.1g} of the largest output\n")
    print("\n".join(written.lines))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, alone=True))
