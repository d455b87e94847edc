"""Every command by one name: ``simclr pretrain ...``, and ``accelerate launch -m simclr pretrain ...`` on several processes.

What runs is the file of that name in ``scripts/``, which is installed as the package ``simclr_commands``.
"""

import ast
import importlib.util
import runpy
import sys
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path

from simclr.commands import NAMES, as_called, folder
from simclr.streams import undisturbed

__all__ = ["main"]


def main() -> int:
    """Run the command that the first word names, as if its file had been started; without one, say which there are."""
    sys.stdout, sys.stderr = undisturbed(sys.stdout), undisturbed(sys.stderr)
    word, *others = sys.argv[1:] or ["--help"]
    if word == "--version":
        print(version("simclr-pipeline"))
        return 0
    if word in ("-h", "--help"):
        print(overview())
        return 0
    if word == "--completion":
        if others != ["bash"]:
            print("error: --completion takes bash, whose script zsh reads as well", file=sys.stderr)
            return 2
        print(completion(), end="")
        return 0
    name = word.replace("-", "_")
    if name not in NAMES:
        known = [each.replace("_", "-") for each in NAMES]
        near = get_close_matches(word, known, 1)
        meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        print(f"error: there is no command {word!r}{meant}", file=sys.stderr)
        return 2
    file = _file(name)
    sys.argv = [f"simclr {word}", *others]
    runpy.run_path(str(file), run_name="__main__")
    return 0


def completion() -> str:
    """A script with which a shell completes the words of all commands."""
    from simclr.completion import bash  # with all that a flag may need
    from simclr.config import TrainConfig

    options: dict[str, type] = {}
    for name in NAMES:
        found = runpy.run_path(str(_file(name)), run_name=name)
        own = [value for key, value in found.items() if key.endswith("Options")]
        if own or "parse_command" in found or "parse_finetuning" in found:
            options[name] = own[0] if own else TrainConfig
    return bash(options)


def overview() -> str:
    """All commands with the first sentence that each says of itself."""
    lines = ["simclr COMMAND [words]; on several processes accelerate launch -m simclr COMMAND [words]", ""]
    for name in NAMES:
        about = ast.get_docstring(ast.parse(_file(name).read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name.replace('_', '-'):11} {about.split(': ``')[0]}")
    lines += ["", "simclr COMMAND --help tells more, --help-all everything; simclr --completion bash completes words."]
    return as_called("\n".join(lines))


def _file(name: str) -> Path:
    beside = folder()
    if beside is not None:
        return beside / f"{name}.py"
    spec = importlib.util.find_spec(f"simclr_commands.{name}")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin)


if __name__ == "__main__":
    sys.exit(main())
