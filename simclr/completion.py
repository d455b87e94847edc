"""What a shell completes: ``simclr --completion bash`` prints a script of all commands, their flags, presets and objectives.

tyro has one a command, which knows no preset and has to load torch at every tab. This one holds the words themselves.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from simclr.commands import NAMES
from simclr.config.presets import PRESETS
from simclr.config.yaml import config_fields
from simclr.flags import choices, flag_names

__all__ = ["bash"]

_PRESETS = ("pretrain", "preview", "selftest", "check_data")
"""Commands whose first word may be a preset."""

_SCRIPT = """# Completion of simclr's commands for bash, and for zsh after: autoload -U bashcompinit && bashcompinit
_simclr_words() {
    case "$1" in
%(words)s
    esac
}
_simclr_values() {
    case "$1" in
%(values)s
    esac
}
_simclr() {
    local line="${COMP_LINE:0:COMP_POINT}" word command="" before="" current="" known i
    local -a typed
    read -ra typed <<< "$line"
    [[ "$line" == *[[:space:]] ]] && typed+=("")
    for ((i = 0; i < ${#typed[@]} - 1; i++)); do
        word="${typed[i]}"
        if [[ "$command" == "?" ]]; then
            command="${word//-/_}"
        elif [[ -z "$command" ]]; then
            case "$word" in
                simclr|*/simclr) command="?" ;;
                scripts/*.py|*/scripts/*.py) command="${word##*/}"; command="${command%%.py}" ;;
            esac
        fi
        before="$word"
    done
    current="${typed[${#typed[@]} - 1]}"
    [[ -z "$command" ]] && return
    if [[ "$command" == "?" ]]; then
        known="%(commands)s --help --version --completion"
    else
        known="$(_simclr_values "$before")"
        [[ -z "$known" ]] && known="$(_simclr_words "$command")"
    fi
    COMPREPLY=($(compgen -W "$known" -- "$current"))
    # bash takes a colon for the end of a word, and puts what is replied behind it.
    if [[ "$current" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${current%%"${current##*:}"}"}")
    fi
}
complete -o default -o bashdefault -F _simclr simclr accelerate torchrun python python3
"""


def bash(options: Mapping[str, type]) -> str:
    """The script.

    Args:
        options: of each command the config that its flags set, by the command's name; a command without flags is left out.
    """
    words, values = [], dict[str, str]()
    for name, cls in options.items():
        first = [*PRESETS] if name in _PRESETS else ["shards", "parquet"] if name == "make_shards" else []
        objectives = [f"{field}:{one.name}" for field, several in choices(cls).items() for one in several]
        flags = flag_names(cls, [])
        own = ["--dry-run"] if name in ("pretrain", "finetune") else []
        every = [*first, *objectives, *dict.fromkeys(flags), *own, "--plugin", "--help", "--help-all"]
        words.append(f"        {name}) echo {_quoted(every)} ;;")
        values |= _values(cls)
    shown = [f"        {flag}) echo {_quoted(some.split())} ;;" for flag, some in sorted(values.items())]
    return _SCRIPT % {
        "words": "\n".join(words),
        "values": "\n".join(shown),
        "commands": " ".join(name.replace("_", "-") for name in NAMES),
    }


def _values(cls: type, prefix: str = "--") -> dict[str, str]:
    """The words that a flag takes, where it takes one of several."""
    found: dict[str, str] = {}
    for name, hint in config_fields(cls).items():
        flag = f"{prefix}{name}".replace("_", "-")
        members: list[Any] = [hint, *get_args(hint)]
        for member in members:
            if dataclasses.is_dataclass(member) and isinstance(member, type):
                found |= {key: value for key, value in _values(member, f"{flag}.").items() if key not in found}
        literal = [word for one in members if get_origin(one) is Literal for word in get_args(one)]
        if literal and Path not in members:
            found[flag] = " ".join(map(str, literal))
    return found


def _quoted(words: Iterable[str]) -> str:
    return '"' + " ".join(words) + '"'
