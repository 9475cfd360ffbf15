"""The images of a folder as the models expect them, decoded once and then cached by content."""

import hashlib
import inspect
import io
import re
import warnings
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mnist_exp.data.folders import Folder, natural_key, raise_if_any, read_all
from mnist_exp.errors import DataError, disk_errors_as_data_errors
from mnist_exp.files import one_process_in, write_atomically

IMAGE_SIZE = 32
"""Pixels per side that the models expect (LeCun et al., 1998)."""
CACHE = "png_folder"
"""The folder under ``data.root`` for decoded images."""
MIN_BRIGHTNESS = 64  # of 255; dark ink on transparency becomes no brighter than this
MIN_CHROMA = 8  # of 128; JPEG files of grey pictures have less


def load(folder: Folder, cache: Path) -> NDArray[np.uint8]:
    """The folder's images, uint8, ``[N, 32, 32]``: from the cache, or decoded and then cached.

    Raises:
        DataError: images cannot be decoded (the message names the first of them and says how many there
            are), files changed meanwhile, or the cache cannot be written.
    """
    with disk_errors_as_data_errors("decoded images", cache):
        cache.mkdir(parents=True, exist_ok=True)
        with one_process_in(cache):  # parallel jobs wait here while the first one decodes
            found = _cached(cache, folder.sha256, len(folder.paths))
            print(f"{folder.summary}; {'decoding them' if found is None else 'decoded before'}", flush=True)
            if found is None:
                images, coloured = found = _decoded(folder)
                buffer = io.BytesIO()
                np.savez(buffer, images=images, coloured=coloured)
                write_atomically(_cache_path(cache, folder.sha256), buffer.getvalue())
    images, coloured = found
    if coloured:
        print(f"{folder.root}: {coloured:,} images have colours, which become grey", flush=True)
    print(f"{folder.root}: mean {images.mean() / 255:.4f}, standard deviation {images.std() / 255:.4f}", flush=True)
    return images


def read_cache(cache: Path, sha256: str, count: int) -> NDArray[np.uint8] | None:
    """The cached images of the folder with that checksum; None where there are none, or they are damaged."""
    found = _cached(cache, sha256, count)
    return found[0] if found else None


def _cached(cache: Path, sha256: str, count: int) -> tuple[NDArray[np.uint8], int] | None:
    """What `_decoded` gave for the folder with that checksum."""
    try:
        with np.load(_cache_path(cache, sha256), allow_pickle=False) as file:  # a zip file: its checksum is checked
            images, coloured = file["images"], int(file["coloured"])
    except Exception:  # whatever is wrong with it, it is not a usable cache
        return None
    fits = images.shape == (count, IMAGE_SIZE, IMAGE_SIZE) and images.dtype == np.uint8
    return (images, coloured) if fits else None


def _cache_path(cache: Path, sha256: str) -> Path:
    """Where the decoded images of this content are; another decoder, even with another comment, has another place."""
    decoder = "".join(inspect.getsource(each) for each in (_decoded, to_grey32)) + PIL.__version__
    return cache / f"{sha256}-{hashlib.sha256(decoder.encode()).hexdigest()[:8]}.npz"


def to_grey32(image: Image.Image) -> Image.Image:
    """Any image as the models' input: 8-bit grey, 32×32.

    Colours become their luminance (ITU-R 601-2); transparent pixels become black, as around MNIST's
    digits; 16 bits are scaled to 8; other sizes and shapes are resized as MNIST's are (bilinear).
    """
    if "exif" in image.info or image.format == "TIFF":
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # Pillow's own conversion cuts off at 255
        levels = np.asarray(image)
        if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"its pixels are of {image.mode} type, not of 8 or 16 bits")
        image = Image.fromarray(((levels.astype(np.int64) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode == "P":
        image = image.convert("RGB")
    return image.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)


def _decoded(folder: Folder) -> tuple[NDArray[np.uint8], int]:
    """The images, and how many of them had colours."""
    images = np.empty((len(folder.paths), IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    broken: dict[str, str] = {}
    dim, coloured, formats = [], [], [*{*folder.formats.values()}]

    def decode(place: int, content: bytes) -> None:
        try:
            with Image.open(io.BytesIO(content), formats=formats) as image:
                image.verify()  # its checksums: Pillow decodes some damaged files to wrong pixels
            with Image.open(io.BytesIO(content), formats=formats) as image:
                images[place] = np.asarray(to_grey32(image))
                if image.has_transparency_data and images[place].max() < MIN_BRIGHTNESS:
                    dim.append(folder.paths[place])
                if _has_colours(image):
                    coloured.append(place)
        except Exception as error:  # Pillow raises all kinds of errors for damaged files
            broken[folder.paths[place]] = re.sub(r" <_io.*?>", "", str(error)) or type(error).__name__

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as large is an error
        checksum = read_all(folder, decode)
    first = broken[min(broken, key=natural_key)] if broken else ""
    raise_if_any(folder.root, broken, folder.paths, f"cannot be decoded ({first})")
    advice = "are dark on transparency, which becomes black; give them a white background or lighter ink"
    raise_if_any(folder.root, dim, folder.paths, advice)
    if checksum != folder.sha256:
        raise DataError(f"{folder.root} changed while it was read; repeat the command")
    return images, len(coloured)


def _has_colours(image: Image.Image) -> bool:
    if image.mode[0] in "1LIF":
        return False
    small = image.convert("RGB").convert("YCbCr").resize((IMAGE_SIZE, IMAGE_SIZE))
    return int(np.abs(np.asarray(small, int)[..., 1:] - 128).max()) > MIN_CHROMA
