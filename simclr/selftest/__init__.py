"""Do these processes train as one would? ``scripts/selftest.py`` looks, where training is to run and launched as it will be.

One step of the run is taken twice, from the same weights and on the same batch: by all processes together, exactly as
``pretrain`` takes it, and by each of them alone. Images, views, loss and gradients must be those of one process.
"""

from simclr.selftest.finding import Finding
from simclr.selftest.look import selftest

__all__ = ["Finding", "selftest"]
