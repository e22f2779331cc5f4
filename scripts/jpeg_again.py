"""A copy of a folder of images that went through JPEG once more, to see what once may have cost.

    python scripts/jpeg_again.py IMAGES TARGET

Images that are JPEG of quality 75 already lose next to nothing when they are so coded again, since
they lie on its grid. Moved off it by 5 pixels, both the 8x8 blocks of the transform and the 2x2
pixels that share a colour, they lose anew; somewhat less than the first time, for much of what
JPEG takes is gone. The difference that this makes to a network is therefore rather a lower bound
of what the first coding made. The copy is PNG, which loses nothing.
"""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import bench
import numpy as np
import numpy.typing as npt
from PIL import Image

from mbnas.errors import DataError
from mbnas.folders import SUFFIXES
from mbnas.progress import bar

OFF_GRID = 5
QUALITY, SHARED_COLOURS = 75, "4:2:0"
Pixels = npt.NDArray[np.uint8]


def coded(pixels: Pixels) -> Pixels:
    """(H, W, 3) through JPEG, off the grid of an image that begins at its corner; same shape."""
    height, width, _ = pixels.shape
    before = [(OFF_GRID, -(length + OFF_GRID) % 8) for length in (height, width)]
    file = io.BytesIO()
    padded = Image.fromarray(np.pad(pixels, (*before, (0, 0)), mode="reflect"))
    padded.save(file, "JPEG", quality=QUALITY, subsampling=SHARED_COLOURS)
    return np.asarray(Image.open(file))[OFF_GRID:, OFF_GRID:][:height, :width]


def copied(source: Path, images: Path, target: Path) -> float:
    """One image; the mean squared difference that coding made."""
    try:
        with Image.open(source) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        raise DataError(f"cannot read image {str(source)!r}; it is damaged, replace it") from None
    again = coded(pixels)
    copy = target / f"{source.relative_to(images)}.png"
    copy.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(again).save(copy)
    return float(np.square(pixels.astype(float) - again).mean())


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("images", type=Path, help="with train/<class>/ and test/<class>/")
    parser.add_argument("target", type=Path, help="where the copy goes")
    arguments = parser.parse_args()
    sources = [path for path in arguments.images.rglob("*") if path.suffix.lower() in SUFFIXES]
    if not sources:
        raise DataError(f"no images in {str(arguments.images)!r}; name another folder")
    copy = partial(copied, images=arguments.images, target=arguments.target)
    errors = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar("coding", len(sources)) as advance:
        for error in pool.map(copy, sources):
            errors.append(error)
            advance("")
    noise = 10 * np.log10(255**2 / np.mean(errors))
    print(f"{len(errors)} images in {arguments.target}, {noise:.1f} dB from what they were")


if __name__ == "__main__":
    bench.run(main)
