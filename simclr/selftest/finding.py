"""What the self-test finds, one thing at a time, and what all processes say of it."""

from typing import NamedTuple

from simclr.distributed import gather_rare

__all__ = ["ROUNDING", "Finding", "same", "worst"]

ROUNDING = 1e-3
"""Relative error of a gradient that is taken for rounding. A gather that is wrong leaves 1e-2 or more."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    name: str
    words: str
    """What was found."""
    right: bool | None = None
    """Whether it is as it should be; None for what is measured and can be neither."""


def same(name: str, value: str) -> Finding:
    """Whether ``value`` is that of all processes, each of which must call it."""
    every = dict.fromkeys(gather_rare(value))
    if len(every) == 1:
        return Finding(name, value, True)
    return Finding(name, f"differ between processes: {'; '.join(every)}", False)


def worst(found: tuple[Finding, ...]) -> Finding:
    """Of what all processes found of one thing, the first that is wrong, or what the main process found."""
    for number, finding in enumerate(found):
        if finding.right is False:
            return finding._replace(words=f"process {number}: {finding.words}" if len(found) > 1 else finding.words)
    return found[0]
