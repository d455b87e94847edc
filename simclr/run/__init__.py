"""One run from the inside: its folder, log, checkpoints and pictures, what watches it, and the process it lives in."""
