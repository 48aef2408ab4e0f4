"""Images and datasets as numpy arrays: channels last, float32 in [0, 1].

Importing this module needs numpy only. Reading files needs pillow, prepared datasets need tensorflow-datasets
(never TensorFlow itself): `pip install "xmanip-jax[data]"`.
"""

import concurrent.futures
import copy
import csv
import fnmatch
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from .datasets import DatasetError, data_dir, load_dataset, one_line, require

__all__ = ["DatasetError", "Files", "Folder", "ImageError", "Images", "check_pixels", "data_dir", "image_files",
           "load_dataset", "open_folder", "photograph", "read_folder", "read_image"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


class ImageError(ValueError):
    """An image that cannot be read, or pixels that are not what the library works on."""


class Images(NamedTuple):
    """A folder's images: names, pixels Float[n, h, w, 3] in [0, 1], labels Int[n] or None (see `image_files`)."""

    names: list[str]
    images: np.ndarray
    labels: np.ndarray | None


def read_image(path: str | os.PathLike, size: int | None = None) -> np.ndarray:
    """An image file -> Float32[h, w, 3] in [0, 1].

    Args:
      path: what pillow reads (PNG, JPEG, ...). The camera's orientation is applied; transparent pixels lie on
        white; grey values fill the three channels; of 16 bits the upper 8 count; of an animation the first frame;
        other modes (CMYK, palettes, ...) go through pillow's conversion to RGB.
      size: None keeps the file's size. An integer scales the shorter side to it (bilinear, over each new
        pixel's area, so without aliasing) and cuts size x size pixels from the centre.

    Raises:
      ImageError: a missing or unreadable file, with its path and the reason; an impossible size.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (30, 20), 51).save(folder + "/grey.png")
    ...     x = read_image(folder + "/grey.png", 16)
    >>> x.shape, float(x.min()), float(x.max())
    ((16, 16, 3), 0.20000000298023224, 0.20000000298023224)
    """
    if size is not None and size < 1:
        raise ImageError(f"an image has at least one pixel, got size={size}")
    image_of, operations = require("PIL.Image", "data"), require("PIL.ImageOps", "data")
    try:
        with image_of.open(path) as file:
            image = _to_rgb(operations.exif_transpose(file), image_of)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except image_of.UnidentifiedImageError:
        raise ImageError(f"{path}: not an image that pillow reads; remove it") from None
    except image_of.DecompressionBombError:
        raise ImageError(f"{path}: more than {2 * image_of.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels; scale it down "
                         "first") from None
    except (OSError, SyntaxError, ValueError) as error:  # damaged files
        raise ImageError(f"{path}: {one_line(error)}; restore or remove it") from None
    if size is not None:
        image = _centre(image, size, image_of)
    return np.asarray(image, np.float32) / 255


def _to_rgb(image, image_of):
    if image.mode.startswith("I;16"):  # pillow's own conversion clips at 255
        image = image_of.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}) have no stated range, 8 or 16 have")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = image_of.alpha_composite(image_of.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _centre(image, size, image_of):
    short = min(image.size)
    if max(image.size) > 20 * short:  # of a stripe only the middle is scaled
        left, top = (max(side - 20 * short, 0) // 2 for side in image.size)
        image = image.crop((left, top, image.width - left, image.height - top))
    scale = size / short
    width, height = (max(size, round(scale * side)) for side in image.size)
    image = image.resize((width, height), image_of.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


class Files(NamedTuple):
    """A folder's image files: names seen from the folder, paths, labels Int[n] or None, the names of the classes."""

    names: list[str]
    paths: list[pathlib.Path]
    labels: np.ndarray | None
    classes: tuple[str, ...] = ()


def image_files(folder: str | os.PathLike) -> Files:
    """The image files of a folder, in the order of their names, and their labels; no image is read.

    Args:
      folder: holds image files. An index.csv with the columns `image` and `class_index` lists them and gives their
        labels; they may then lie in a subfolder images/. Without images of its own, its subfolders are classes, as in
        torchvision's ImageFolder: labels 0, 1, ... in the order of their names. What begins with a dot is not seen.

    Raises:
      DatasetError: no such folder, no image in it or in one of its classes, an index that does not fit.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "cup"):
    ...         pathlib.Path(folder, name).mkdir()
    ...         Image.new("RGB", (8, 8)).save(f"{folder}/{name}/1.png")
    ...     files = image_files(folder)
    >>> files.names, files.labels, files.classes
    (['cat/1.png', 'cup/1.png'], array([0, 1], dtype=int32), ('cat', 'cup'))
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder")
    if (folder / "index.csv").is_file():
        return _indexed(folder, _read_index(folder / "index.csv"))
    if own := _images_in(folder.iterdir()):
        return Files([path.name for path in own], own, None)
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = {name: _images_in((folder / name).rglob("*")) for name in classes}
    empty = [name for name in classes if not found[name]]
    if empty or not classes:
        where = folder / empty[0] if empty else folder
        raise DatasetError(f"{where}: no image in it, a file that ends in {', '.join(_SUFFIXES)}"
                           + " (each subfolder is a class)" * bool(empty))
    paths = [path for name in classes for path in found[name]]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(found[name]) for name in classes])
    return Files([path.relative_to(folder).as_posix() for path in paths], paths, labels, tuple(classes))


def _images_in(paths):
    return sorted(p for p in paths if p.suffix.lower() in _SUFFIXES and not p.name.startswith(".") and p.is_file())


def _indexed(folder, labels):
    if not labels:
        raise DatasetError(f"{folder / 'index.csv'} lists no image")
    names = sorted(labels)
    where = folder / "images" if (folder / "images").is_dir() else folder
    return Files(names, [where / name for name in names], np.array([labels[name] for name in names], np.int32))


class Folder:
    """A folder's images, of which only the list is kept: pixels are read from the files when they are asked for.

    It is sliced like an array Float32[n, h, w, c], of which it has len, shape and dtype: `folder[3]`, `folder[:8]`,
    `folder[indices]` read these images, in several threads, and `np.asarray(folder)` all of them. `open_folder` makes
    one, with an example.

    Args:
      files: of `image_files`;  size: as in `read_image`, images of different sizes need one.

    Attributes: names, paths, labels Int32[n] or None, and classes, as in Files.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, files: Files, size: int | None = None) -> None:
        self.names, self.paths, self.labels, self.classes = files
        self.size, self.shape = size, (len(self.names), *read_image(self.paths[0], size).shape)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *places = index if isinstance(index, tuple) else (index,)
        chosen = np.arange(len(self))[first]
        if not chosen.ndim:
            return self.read(chosen[None])[0][tuple(places)]
        return self.read(chosen)[(slice(None), *places)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def read(self, indices: Any) -> np.ndarray:
        """Float32[m, h, w, c]: the images of Int[m]; ImageError for one that cannot be read, or is of another size."""
        with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as threads:
            return np.stack(list(threads.map(self._one, indices)))

    def take(self, indices: Any) -> "Folder":
        """The folder of the images Int[m] only, in this order; nothing is read."""
        part = copy.copy(self)
        part.names, part.paths = [self.names[i] for i in indices], [self.paths[i] for i in indices]
        part.shape = len(indices), *self.shape[1:]
        part.labels = None if self.labels is None else self.labels[np.asarray(indices)]
        return part

    def grey(self) -> "Folder":
        """The same images in one channel, the mean of the colours."""
        part = copy.copy(self)
        part.shape = *self.shape[:3], 1
        return part

    def sizes(self) -> np.ndarray:
        """Int64[n]: the sizes of the files in bytes, by which a folder is known again without being read."""
        return np.array([path.stat().st_size for path in self.paths], np.int64)

    def _one(self, i):
        image = read_image(self.paths[i], self.size)
        if image.shape[:2] != self.shape[1:3]:
            root = os.path.commonpath([self.paths[0].parent, self.paths[i].parent])
            raise ImageError(f"{root}: {self.names[0]} is {self.shape[1:3]}, {self.names[i]} is {image.shape[:2]}; "
                             "pass size=")
        return image if self.shape[-1] == 3 else image.mean(-1, keepdims=True)


def open_folder(folder: str | os.PathLike, size: int | None = None, *, pattern: str = "*",
                limit: int | None = None) -> Folder:
    """The images of a folder, in the order of their names, which are read when pixels are asked for.

    Args:
      folder: as in `image_files`, which says where labels come from.
      size: as in `read_image`; images of different sizes need one.
      pattern: of the file names to take, as in a shell.
      limit: the first so many only; of subfolders that are classes, the first of each in turn.

    Cost: one listing, and the first image; names and paths take some hundred bytes each.

    Raises:
      DatasetError: no such folder, no image in it, an index that does not fit.
      ImageError: the first image cannot be read.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.png"):
    ...         Image.new("RGB", (8, 8)).save(f"{folder}/{name}")
    ...     images = open_folder(folder)
    ...     images.names, images.shape, images[1:].shape
    (['a.png', 'b.png'], (2, 8, 8, 3), (1, 8, 8, 3))
    """
    files = image_files(folder)
    chosen = np.array([i for i, name in enumerate(files.names) if fnmatch.fnmatch(name, pattern)], int)
    if not chosen.size:
        raise DatasetError(f"{folder}: no image matches {pattern!r}")
    if files.classes and files.labels is not None and limit is not None:
        chosen = chosen[np.lexsort((files.labels[chosen], ranks(files.labels[chosen])))]
    chosen = np.sort(chosen[:limit])
    few = [files.names[i] for i in chosen], [files.paths[i] for i in chosen]
    return Folder(Files(*few, None if files.labels is None else files.labels[chosen], files.classes), size)


def read_folder(folder: str | os.PathLike, size: int | None = None, *, pattern: str = "*",
                limit: int | None = None) -> Images:
    """All images of a folder, read at once; arguments and errors as of `open_folder`, which reads them when needed.

    Raises:
      ImageError: an image that cannot be read; different sizes and no `size`.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.png"):
    ...         Image.new("RGB", (8, 8)).save(f"{folder}/{name}")
    ...     names, images, labels = read_folder(folder)
    >>> names, images.shape, labels
    (['a.png', 'b.png'], (2, 8, 8, 3), None)
    """
    found = open_folder(folder, size, pattern=pattern, limit=limit)
    return Images(found.names, found[:], found.labels)


def ranks(labels: np.ndarray) -> np.ndarray:
    """Int[n]: how many of its class come before each of labels Int[n].

    >>> ranks(np.array([5, 5, 2, 5]))
    array([0, 1, 0, 2])
    """
    found = np.zeros(len(labels), int)
    for label in np.unique(labels):
        found[labels == label] = np.arange((labels == label).sum())
    return found


def _read_index(path):
    """{image: class_index} of an index.csv."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # a spreadsheet's begins with a mark
            rows = csv.DictReader(file)
            if not {"image", "class_index"} <= set(rows.fieldnames or ()):
                raise DatasetError(f"{path}: needs the columns image and class_index, has {rows.fieldnames}")
            found = {}
            for row in rows:
                found[row["image"]] = label = int(row["class_index"])
                if label < 0:
                    raise ValueError(f"{label} is negative")
            return found
    except DatasetError:
        raise
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not in UTF-8: save it so") from None
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path}, line {rows.line_num}: class_index is no class ({error})") from None


def photograph(name: str = "chelsea", size: int | None = None) -> np.ndarray:
    """A photograph that scikit-image carries (chelsea, coffee, rocket, ...) -> Float32[h, w, 3] in [0, 1].

    Args:
      name: the file's stem in scikit-image's data folder; nothing is downloaded.
      size: as in `read_image`.

    Raises:
      ImageError: no such photograph, with the names there are.
      ImportError: scikit-image is missing (`pip install "xmanip-jax[demo]"`).

    >>> photograph("coffee", 224).shape
    (224, 224, 3)
    """
    folder = pathlib.Path(require("skimage", "demo").__file__).parent / "data"
    there = {p.stem: p for p in folder.iterdir() if p.suffix in (".png", ".jpg")}
    if name not in there:
        raise ImageError(f"scikit-image carries no photograph {name!r}, but {', '.join(sorted(there))}")
    return read_image(there[name], size)


def check_pixels(images: np.ndarray) -> np.ndarray:
    """`images` unchanged, if they are pixels: Float[h, w, c] or Float[n, h, w, c], c 1 or 3, all in [0, 1].

    Raises:
      ImageError: what was found instead, and where.

    >>> check_pixels(np.full((2, 2, 3), 255.0))
    Traceback (most recent call last):
        ...
    xmanip_jax.data.ImageError: pixels lie in [0, 1], found 255.0 at (0, 0, 0)
    """
    pixels = np.asarray(images)
    if pixels.dtype.kind in "biuc":
        raise ImageError(f"pixels are floats in [0, 1], found {pixels.dtype}; divide bytes by 255")
    if pixels.ndim not in (3, 4) or 0 in pixels.shape:
        raise ImageError(f"images are [h, w, c] or [n, h, w, c], found shape {pixels.shape}")
    if pixels.shape[-1] not in (1, 3):
        raise ImageError(f"images end in 1 or 3 channels, found shape {pixels.shape}")
    outside = ~((pixels >= 0) & (pixels <= 1))  # NaN counts as outside
    if outside.any():
        where = tuple(int(i) for i in np.unravel_index(outside.argmax(), pixels.shape))
        raise ImageError(f"pixels lie in [0, 1], found {pixels[where]} at {where}")
    return images
