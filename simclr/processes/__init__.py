"""The processes of one run: who started them, where they meet, what they must have in common, and that none falls unseen."""

from simclr.processes.launch import leave_launch, take_launch
from simclr.processes.meeting import agree, code_digest, on_cpu, process_group, together

__all__ = ["agree", "code_digest", "leave_launch", "on_cpu", "process_group", "take_launch", "together"]
