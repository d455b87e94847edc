"""Several processes that score as one: ``torchrun --nproc_per_node 2 scripts/evaluate.py RUN``.

The first process runs a command from start to end, as it would alone: it reads, fits, prints and writes. The others wait, for as
long as it takes, for images to encode: each gets whole batches of a set, those that one process would make of it, so that every
row is what it is in one process. All speak from CPU to CPU.
"""

from linear_eval.sharing.leader import Team, team
from linear_eval.sharing.opening import placed, shared
from linear_eval.sharing.work import Share, Work, parts_of_whole_batches

__all__ = ["Share", "Team", "Work", "parts_of_whole_batches", "placed", "shared", "team"]
