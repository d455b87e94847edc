"""Small pictures of images that go by once, as the bytes of JPEG files, kept on the disk until a table takes them."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import to_pil_image

from simclr.data.channels import shown_bands
from simclr.files import refused

__all__ = ["Thumbnails", "thumbnails_beside"]


class Thumbnails:
    """Thumbnails by the number of their image, in the order they were taken."""

    def __init__(self, out: Path, file: io.BufferedRandom, side: int) -> None:
        self._out, self._file, self._side = out, file, side
        self._ends = [0]

    def take(self, images: Tensor) -> None:
        """Append those of ``images`` (B, C, S, S) uint8, at most ``side`` pixels wide.

        Of more than three bands the first three are shown, of two the first.

        Raises:
            CheckpointError: the disk refuses.
        """
        pixels = shown_bands(images.cpu())
        if pixels.shape[-1] > self._side:
            shrunk = interpolate(pixels.float(), size=(self._side, self._side), mode="bilinear", antialias=True)
            pixels = shrunk.round().clamp(0, 255).byte()
        for image in pixels:
            file = io.BytesIO()
            to_pil_image(image).save(file, "JPEG", quality=90)
            with refused(self._out):
                self._ends.append(self._ends[-1] + self._file.write(file.getvalue()))

    def __getitem__(self, index: int) -> bytes:
        """The bytes of the one of image ``index``."""
        with refused(self._out):
            self._file.seek(self._ends[index])
            return self._file.read(self._ends[index + 1] - self._ends[index])


@contextmanager
def thumbnails_beside(out: Path, side: int | None) -> Iterator[Thumbnails | None]:
    """Room for thumbnails beside the file ``out``, which nobody sees and which goes with the block; None where none are wanted.

    An image is decoded once, and memory holds a batch of them, however large the set is.
    """
    if side is None:
        yield None
        return
    with refused(out):
        folder = next(folder for folder in out.absolute().parents if folder.is_dir())
        room = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed at the end
    try:
        yield Thumbnails(out, room, side)
    finally:
        with suppress(OSError):  # a write that failed is tried again when the file is closed, and fails again
            room.close()
