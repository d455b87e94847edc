"""Write an encoder for other programs: ``python scripts/export.py RUN [--format timm | torch | onnx] [--classifier]``.

RUN is a run directory, an encoder folder, or a file in it. What is written is loaded again and compared with the
encoder before it is put into its place; the lines of Python that load it are printed.
"""

import sys

from simclr.commands import run_command
from simclr.portable import export_as, parse_export


def main(arguments: list[str]) -> int:
    run, options = parse_export(arguments, "export.py", __doc__ or "")
    written = export_as(run, options)
    print("\n".join(map(str, written.files)))
    print(f"loaded again: it differs from the encoder by {written.difference:.1g} of the largest output\n")
    print("\n".join(written.lines))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
