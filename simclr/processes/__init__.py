"""The processes of one run: who started them, where they meet, what they must have in common, and that none falls unseen."""

from simclr.processes.launch import leave_launch, note_on_accelerate, take_launch
from simclr.processes.meeting import agree, code_digest, on_cpu, process_group, together

__all__ = [
    "agree",
    "code_digest",
    "leave_launch",
    "note_on_accelerate",
    "on_cpu",
    "process_group",
    "take_launch",
    "together",
]
