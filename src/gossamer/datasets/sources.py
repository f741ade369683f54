"""Where samples come from: ``.npz`` files, image folders, loaders in Python files, arrays and iterables in memory."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gossamer.core.errors import DataError, GossamerError, MissingExtra, OptionError
from gossamer.core.names import nearest
from gossamer.core.pyfile import describe_exception, load_object
from gossamer.core.specs import as_array
from gossamer.datasets.samples import UNNAMED, Samples

LABEL_NAMES = ("y", "labels")
"""Names under which a mapping of arrays may carry its labels."""

Source = Samples | str | os.PathLike[str] | Mapping[str, Any] | tuple[Any, Any] | Iterable[Any]
Transform = str | Callable[[Any], Any]

_FORMS = "an .npz file, a folder with one folder of images per class, or file.py:loader"
_NPZ = "an .npz file of plain number arrays, written by numpy.savez"
_LIMIT_SEED = 0
_DAMAGE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises for pickled, cut off, encrypted, absurdly large or otherwise broken files."""


def read_samples(source: Source, *, transform: Transform | None = None, limit: int | None = None) -> Samples:
    """Read samples from a file, a folder, a loader, or arrays in memory.

    Args:
        source: one of

            - ``data.npz``: arrays named after the model's inputs, or ``x``; labels as ``y``. Never unpickled.
            - a folder with one folder of images per class, whose sorted names become the labels 0, 1, ...; needs
              ``transform`` and Pillow.
            - ``file.py:loader``: an iterable of batches, or a function without arguments that returns one.
            - in Python: Samples, one array, a dict of arrays, an ``(x, y)`` tuple, or an iterable of batches.

            A batch is an array, ``(x, y)``, a dict that may have labels as ``y`` or ``labels``, or ``({...}, y)``.
            Torch tensors do where arrays do.
        transform: for image folders: a function, or ``file.py:function``, from a PIL image to an array.
        limit: read at most this many samples: a fixed random choice in the original order, since data are often sorted
            by class; of an iterable the first ones, and no batch after these is drawn.

    Raises:
        DataError: the source is missing, damaged, empty, or does not hold arrays of numbers of one length.
        OptionError: a limit below 1, or a transform for something else than an image folder.
        MissingExtra: an image folder without Pillow.
    """
    if limit is not None and limit < 1:
        raise OptionError("reading samples", got=f"limit {limit}", expected="at least 1")
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if Path(text).is_dir():
            return _read_images(Path(text), transform, limit)
        if transform is not None:
            got = f"a transform, but {text!r} is not a folder"
            raise OptionError("reading samples", got=got, expected="a transform only with an image folder")
        return _read_loader(text, limit) if ".py:" in text else _read_npz(Path(text), limit)
    if transform is not None:
        raise OptionError("reading samples", got="a transform with data in memory", expected="data already transformed")
    return _from_memory(source, "data in memory", limit)


# Files.


def _read_npz(path: Path, limit: int | None) -> Samples:
    doing = f"reading {path}"
    if not path.exists():
        close = nearest(path.name, [found.name for found in path.parent.glob("*")])
        raise DataError(doing, got="no such file or folder", expected=_FORMS, try_=", ".join(close))
    if path.suffix != ".npz":
        try_ = f"{path}:NAME, with the loader's name" if path.suffix == ".py" else ""
        raise DataError(doing, got=f"a file of another kind: {path.name}", expected=_FORMS, try_=try_)
    with _opened(path, doing) as opened:  # NumPy leaves a file open that it cannot read
        start = opened.read(6)
        opened.seek(0)
        if not start.startswith((b"PK", b"\x93NUMPY", b"\x80")):  # \x80 is a pickle, and NumPy calls the rest one too
            raise DataError(doing, got="a file that is no .npz inside, whatever its name", expected=_NPZ)
        try:
            file = np.load(opened, allow_pickle=False)
        except _DAMAGE as error:
            raise DataError(doing, got=str(error), expected=_NPZ) from error
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(doing, got="a single array without a name", expected=_NPZ)
        arrays = {name: _npz_array(file, name, doing) for name in file.files}
    return _limited(_from_mapping(arrays, path.name), limit)


def _opened(path: Path, doing: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(doing, got=str(error), expected="a readable file") from error


def _npz_array(file: Mapping[str, Any], name: str, doing: str) -> np.ndarray:
    try:
        array = file[name]
    except _DAMAGE as error:
        raise DataError(doing, got=f"array {name!r}: {error}", expected=_NPZ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(doing, got=f"{name!r}, which is not an array", expected=_NPZ)
    return array


def _read_loader(text: str, limit: int | None) -> Samples:
    origin = f"loader {text}"
    path = Path(text.rpartition(":")[0]).resolve()
    loader = load_object(text, error=DataError)
    try:
        source = loader() if callable(loader) else loader
        return _from_memory(source, origin, limit)
    except GossamerError:
        raise
    except Exception as error:
        raise DataError(f"running {text!r}", got=describe_exception(error, path), expected="batches") from error


def _read_images(folder: Path, transform: Transform | None, limit: int | None) -> Samples:
    doing = f"reading the image folder {folder}"
    if transform is None:
        raise DataError(
            doing, got="no transform", expected="--transform file.py:function, from a PIL image to an array"
        )
    function = load_object(transform, error=DataError) if isinstance(transform, str) else transform
    files, labels = _image_files(folder, doing)
    if limit is not None and limit < len(files):
        chosen = _choice(len(files), limit)
        files, labels = [files[index] for index in chosen], labels[chosen]
    first = _read_image(files[0], function)
    images = np.empty((len(files), *first.shape), first.dtype)
    for index, file in enumerate(files):
        image = first if index == 0 else _read_image(file, function)
        if image.shape != first.shape or image.dtype != first.dtype:
            got = f"{image.dtype}{list(image.shape)} from the transform"
            expected = f"{first.dtype}{list(first.shape)}, as of {files[0]}"
            raise DataError(f"reading the image {file}", got=got, expected=expected)
        images[index] = image
    return Samples({UNNAMED: images}, labels, f"image folder {folder.name}")


def _image_files(folder: Path, doing: str) -> tuple[list[Path], np.ndarray]:
    """Image files in order of class, then name, and the class number of each. Hidden files are left out."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(doing, got="no folders inside", expected="one folder of images per class")
    files: list[Path] = []
    labels: list[int] = []
    for number, path in enumerate(classes):
        found = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        if not found:
            raise DataError(
                doing, got=f"the empty class folder {path.name!r}", expected="an image in every class folder"
            )
        files += found
        labels += [number] * len(found)
    return files, np.array(labels, dtype=np.int64)


def _read_image(path: Path, transform: Callable[[Any], Any]) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra(
            f"reading the image {path}",
            got="Pillow is not installed",
            expected="Pillow to decode images",
            try_='pip install "gossamer[images]"',
        ) from error
    doing = f"reading the image {path}"
    with _opened(path, doing) as opened:
        try:
            image = Image.open(opened)
            image.load()
        except Exception as error:  # decoders of hostile files raise anything, from struct.error to SyntaxError
            got = f"{type(error).__name__}: {error}"
            raise DataError(doing, got=got, expected="an image file that Pillow can read") from error
    try:
        return _to_array(transform(image), f"what the transform made of {path}")
    except GossamerError:
        raise
    except Exception as error:
        code = getattr(transform, "__code__", None)
        got = describe_exception(error, Path(code.co_filename) if code else path)
        raise DataError(f"transforming the image {path}", got=got, expected="an array") from error


# Memory.


def _from_memory(source: Any, origin: str, limit: int | None) -> Samples:
    if isinstance(source, Samples):
        return _limited(source, limit)
    if isinstance(source, Mapping):
        return _limited(_from_mapping(_arrays(source, origin), origin), limit)
    if _is_array(source):
        return _limited(_from_mapping(_as_mapping(source, origin), origin), limit)
    if _is_pair(source):
        return _limited(_from_mapping(_as_mapping(source, origin), origin), limit)
    if isinstance(source, str | bytes) or not isinstance(source, Iterable):
        expected = "arrays, a dict of arrays, (x, y), or an iterable of batches"
        raise DataError(f"reading {origin}", got=f"an object of type {type(source).__name__}", expected=expected)
    return _from_batches(source, origin, limit)


def _from_batches(batches: Iterable[Any], origin: str, limit: int | None) -> Samples:
    doing = f"reading {origin}"
    collected: dict[str, list[np.ndarray]] = {}
    for number, arrays in enumerate(_checked_batches(batches, origin, limit)):
        if collected and collected.keys() != arrays.keys():
            got = f"batch {number} with {', '.join(arrays)}"
            raise DataError(doing, got=got, expected=f"{', '.join(collected)}, as in batch 0")
        for name, array in arrays.items():
            chunks = collected.setdefault(name, [])
            if chunks and (array.shape[1:] != chunks[0].shape[1:] or array.dtype != chunks[0].dtype):
                got = f"{name!r} of batch {number} as {_per_sample_text(array)}"
                expected = f"{_per_sample_text(chunks[0])}, as in batch 0"
                raise DataError(doing, got=got, expected=expected, try_="one dtype, and sizes padded to one length")
            chunks.append(array.copy())  # a loader may fill the same buffer again
    if not collected:
        raise DataError(doing, got="no batches", expected="at least one sample")
    return _from_mapping({name: np.concatenate(chunks) for name, chunks in collected.items()}, origin)


def _checked_batches(batches: Iterable[Any], origin: str, limit: int | None) -> Iterator[dict[str, np.ndarray]]:
    """Batches as arrays by name, each of one length, cut off after ``limit`` samples."""
    count = 0
    for number, batch in enumerate(batches):
        where = f"batch {number} of {origin}"
        arrays = _as_mapping(batch, where)
        lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
        length = next(iter(lengths.values()), None)
        if length is None or set(lengths.values()) != {length}:
            got = ", ".join(f"{name!r} of shape {array.shape}" for name, array in arrays.items()) or "no arrays"
            raise DataError(
                f"reading {where}", got=got, expected="arrays whose first axis counts the samples of the batch"
            )
        if limit is not None and count + length >= limit:
            yield {name: array[: limit - count] for name, array in arrays.items()}
            return
        count += length
        yield arrays


def _as_mapping(batch: Any, where: str) -> dict[str, np.ndarray]:
    """Arrays by name from an array, ``(x,)``, ``(x, y)``, a dict, or ``({...}, y)``; labels are called ``y``."""
    if isinstance(batch, Mapping):
        return _arrays(batch, where)
    if _is_array(batch):
        return {UNNAMED: _to_array(batch, where)}
    if isinstance(batch, list | tuple) and len(batch) in (1, 2):
        inputs = batch[0] if isinstance(batch[0], Mapping) else {UNNAMED: batch[0]}
        arrays = _arrays(inputs, where)
        if len(batch) == 1 or batch[1] is None:
            return arrays
        if any(name in arrays for name in LABEL_NAMES):
            raise DataError(f"reading {where}", got="labels in the dict and beside it", expected="labels in one place")
        return arrays | {LABEL_NAMES[0]: _to_array(batch[1], f"the labels of {where}")}
    size = f" of {len(batch)} parts" if isinstance(batch, list | tuple) else ""
    got = f"an object of type {type(batch).__name__}{size}"
    raise DataError(f"reading {where}", got=got, expected="an array, (x, y), a dict of arrays, or ({...}, y)")


def _from_mapping(arrays: Mapping[str, np.ndarray], origin: str) -> Samples:
    labels = [name for name in LABEL_NAMES if name in arrays]
    if len(labels) > 1:
        raise DataError(f"reading {origin}", got=f"labels as {' and as '.join(labels)}", expected="one array of labels")
    inputs = {name: array for name, array in arrays.items() if name not in labels}
    return Samples(inputs, arrays[labels[0]] if labels else None, origin)


def _arrays(mapping: Mapping[Any, Any], where: str) -> dict[str, np.ndarray]:
    return {str(name): _to_array(value, f"{name!r} of {where}") for name, value in mapping.items()}


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def _is_pair(source: Any) -> bool:
    """Whether this is ``(x, y)`` or ``({...}, y)``, and not a tuple of two batches."""
    if not isinstance(source, tuple) or len(source) != 2 or isinstance(source[1], Mapping):
        return False
    return _is_array(source[0]) or isinstance(source[0], Mapping)


def _to_array(value: Any, what: str) -> np.ndarray:
    try:
        return as_array(value)
    except ValueError as error:
        raise DataError(f"reading {what}", got=str(error), expected="an array of numbers") from error


def _per_sample_text(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape[1:])} per sample"


# Limits.


def _limited(samples: Samples, limit: int | None) -> Samples:
    if limit is None or limit >= len(samples):
        return samples
    return samples.take(_choice(len(samples), limit))


def _choice(count: int, limit: int) -> np.ndarray:
    return np.sort(np.random.default_rng(_LIMIT_SEED).permutation(count)[:limit])
