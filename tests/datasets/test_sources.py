"""Sources: every form that samples come in, and what damaged ones say."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossamer.core.errors import DataError, MissingExtra, OptionError
from gossamer.datasets.samples import Samples
from gossamer.datasets.sources import read_samples

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = np.arange(6)


class Tensor:
    """As much of a torch tensor as is touched."""

    def __init__(self, array: np.ndarray, dtype: str = "torch.float32") -> None:
        self.array, self.dtype = array, dtype

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def float(self) -> Tensor:
        return Tensor(self.array)

    def numpy(self) -> np.ndarray:
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


def batched(make: Callable[[np.ndarray, np.ndarray], Any], size: int = 4) -> Iterator[Any]:
    return (make(X[start : start + size], Y[start : start + size]) for start in range(0, 6, size))


def same(samples: Samples, name: str = "x", *, labels: bool = True) -> bool:
    expected = Samples({name: X}, Y if labels else None, "expected")
    return samples.digest == expected.digest


# Memory.


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        (Samples({"x": X}, Y, "ready"), True),
        (X, False),
        (Tensor(X), False),
        ({"x": X}, False),
        ({"x": X, "y": Y}, True),
        ({"x": Tensor(X), "labels": Y.tolist()}, True),
        ((X, Y), True),
        ((X, None), False),
        ((Tensor(X), Tensor(Y)), True),
        (({"x": X}, Y), True),
        ([X[:4], X[4:]], False),
        ([(X[:4],), (X[4:],)], False),
        ([[X[:4], Y[:4]], [X[4:], Y[4:]]], True),
        (batched(lambda x, y: (x, y)), True),
        (batched(lambda x, y: {"x": x, "y": y}), True),
        (batched(lambda x, y: {"x": x, "labels": y}), True),
        (batched(lambda x, y: ({"x": x}, y)), True),
        (batched(lambda x, y: (Tensor(x, "torch.bfloat16"), Tensor(y, "torch.int64"))), True),
        (({"x": X[:4], "y": Y[:4]}, {"x": X[4:], "y": Y[4:]}), True),
    ],
)
def test_every_form_in_memory_reads_the_same(source: Any, labels: bool) -> None:
    assert same(read_samples(source), labels=labels)


def test_a_buffer_that_the_loader_fills_again_is_copied() -> None:
    buffer = np.empty((2, 2), np.float32)

    def loader() -> Iterator[np.ndarray]:
        for start in range(0, 6, 2):
            buffer[:] = X[start : start + 2]
            yield buffer

    assert same(read_samples(loader()), labels=False)


def test_torch_tensors_are_read_without_importing_torch() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(X, requires_grad=True)
    assert same(read_samples([(tensor, torch.tensor(Y))]))
    widened = read_samples(tensor.to(torch.bfloat16))  # small whole numbers: exact in bfloat16
    assert same(widened, labels=False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, "an object of type int"),
        (b"x", "an object of type bytes"),
        ([], "no batches"),
        ({}, "no input arrays"),
        ({"y": Y}, "no input arrays"),
        ({"x": X, "y": Y, "labels": Y}, "labels as y and as labels"),
        ({"x": X[:0]}, "0 samples"),
        ({"x": [[1], [1, 2]]}, "reading 'x' of data in memory"),
        ((X, Y[:3]), "input 'x' has 6, the labels has 3"),
        (({"x": X, "y": Y}, Y), "labels in the dict and beside it"),
        ([7], "reading batch 0 of data in memory\n  got: an object of type int"),
        ([(X, Y, Y)], "an object of type tuple of 3 parts"),
        ([{}], "no arrays"),
        ([np.zeros(())], "'x' of shape ()"),
        ([(X, Y), (X, Y[:1])], "reading batch 1 of data in memory\n  got: 'x' of shape (6, 2), 'y' of shape (1,)"),
        ([(X, Y), X], "batch 1 with x\n  expected: x, y, as in batch 0"),
        ([X, X[:, :1]], "'x' of batch 1 as float32[1] per sample\n  expected: float32[2] per sample, as in batch 0"),
        ([X, X.astype(np.float64)], "'x' of batch 1 as float64[2] per sample"),
    ],
)
def test_what_is_not_samples_is_refused(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_samples(source)


# Limits.


def test_a_limit_on_arrays_is_a_fixed_choice_from_everywhere_in_the_original_order() -> None:
    count = 1000
    chosen = read_samples({"x": np.arange(count)}, limit=100).inputs["x"]
    assert len(set(chosen.tolist())) == 100
    assert chosen.tolist() == sorted(chosen.tolist())
    assert chosen.tolist() != list(range(100))
    assert np.array_equal(chosen, read_samples(Samples({"x": np.arange(count)}, None, "same"), limit=100).inputs["x"])
    assert len(read_samples({"x": X}, limit=7)) == 6


@pytest.mark.parametrize(("limit", "drawn"), [(1, 1), (4, 1), (5, 2), (6, 2)])
def test_a_limit_on_an_iterable_draws_no_batch_too_many(limit: int, drawn: int) -> None:
    count = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal count
        while True:
            count += 1
            yield X[:4]

    assert len(read_samples(endless(), limit=limit)) == limit
    assert count == drawn


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(OptionError, match="limit 0"):
        read_samples(X, limit=0)


# .npz files.


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "digits.npz"
    np.savez_compressed(path, image=X, y=Y)
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_an_npz_is_read_by_name(npz: Path, kind: type) -> None:
    samples = read_samples(kind(npz))
    assert same(samples, "image")
    assert samples.origin == "digits.npz"
    assert len(read_samples(npz, limit=2)) == 2


def test_a_missing_file_offers_its_neighbours(npz: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or folder\n.*\n  try: digits\.npz"):
        read_samples(npz.with_name("digit.npz"))


@pytest.mark.parametrize("name", ["data.csv", "data"])
def test_a_file_of_another_kind_lists_what_can_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("1")
    with pytest.raises(DataError, match="a file of another kind"):
        read_samples(tmp_path / name)


def test_a_python_file_without_a_name_says_how_to_name_the_loader(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("")
    with pytest.raises(DataError, match=r"data\.py:NAME, with the loader's name"):
        read_samples(tmp_path / "data.py")


def test_a_text_that_is_called_npz_is_not_said_to_be_pickled(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match=r"no \.npz inside") as caught:
        read_samples(tmp_path / "data.npz")
    assert "pickle" not in str(caught.value)


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, x=X, z=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="array 'z': Object arrays cannot be loaded when allow_pickle=False"):
        read_samples(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def text(path: Path) -> None:
    path.write_text("not a zip file")


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, X)


def foreign_member(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


def absurd_size(path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9000000000000, 1000), }"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n")


def flipped_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60:70] = b"\xff" * 10
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [empty, cut_off, text, one_array, foreign_member, absurd_size, flipped_bits])
def test_a_damaged_npz_is_a_data_error(npz: Path, damage: Callable[[Path], None]) -> None:
    damage(npz)
    with pytest.raises(DataError, match=r"expected: an \.npz file of plain number arrays") as caught:
        read_samples(npz)
    assert caught.value.doing == f"reading {npz}"


# Loaders.


def write(folder: Path, content: str) -> str:
    (folder / "mine.py").write_text("import numpy as np\n" + content)
    return f"{folder / 'mine.py'}:loader"


@pytest.mark.parametrize(
    "content",
    [
        "def loader():\n    yield np.zeros((2, 3)), np.zeros(2)\n    yield np.ones((2, 3)), np.ones(2)\n",
        "loader = [(np.zeros((2, 3)), np.zeros(2)), (np.ones((2, 3)), np.ones(2))]\n",
        "def loader():\n    y = np.repeat([0.0, 1.0], 2)\n    return {'x': y[:, None] * np.ones(3), 'y': y}\n",
    ],
    ids=["generator", "iterable", "arrays"],
)
def test_a_loader_is_a_function_or_an_iterable(tmp_path: Path, content: str) -> None:
    samples = read_samples(write(tmp_path, content))
    assert samples.inputs["x"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    assert samples.require_labels("top1").tolist() == [0, 0, 1, 1]
    assert samples.origin.endswith("mine.py:loader")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def loader():\n    yield np.ones((1, 1))\n    yield {}['x']\n", "KeyError: 'x' at mine.py:4: yield {}['x']"),
        ("def loader(size):\n    yield size\n", "missing 1 required positional argument: 'size'"),
        ("def loader():\n    return 3\n", "an object of type int"),
        ("def loader():\n    yield 3\n", "reading batch 0 of loader"),
        ("def loadr(): ...\n", "no 'loader' in"),
    ],
    ids=["raises", "arguments", "number", "bad batch", "name"],
)
def test_a_loader_that_fails_shows_the_users_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_samples(write(tmp_path, content))


# Image folders.


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    for name, shades in {"cat": (10, 20), "ant": (30,), ".cache": ()}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number, shade in enumerate(shades):
            pixels = np.full((2, 3, 3), shade, np.uint8)
            image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "photos" / "cat" / ".hidden").write_text("")
    return tmp_path / "photos"


def shade(image: Any) -> np.ndarray:
    return np.asarray(image, np.float32)[0, 0]


def test_folders_become_classes_in_sorted_order(photos: Path) -> None:
    samples = read_samples(photos, transform=shade)
    labels = samples.require_labels("top1")
    assert samples.inputs["x"].tolist() == [[30.0] * 3, [10.0] * 3, [20.0] * 3]
    assert (labels.tolist(), labels.dtype) == ([0, 1, 1], np.int64)
    assert samples.origin == "image folder photos"
    assert len(read_samples(photos, transform=shade, limit=2)) == 2


def test_the_transform_may_be_in_a_file(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text("import numpy as np\ndef half(image):\n    return np.asarray(image) / 2\n")
    samples = read_samples(photos, transform=f"{tmp_path / 'prepare.py'}:half")
    assert samples.inputs["x"].shape == (3, 2, 3, 3)


def test_the_transform_may_return_a_tensor(photos: Path) -> None:
    samples = read_samples(photos, transform=lambda _: Tensor(X))
    assert np.array_equal(samples.inputs["x"], np.stack([X] * 3))


def test_a_file_that_may_not_be_read_is_named(photos: Path) -> None:
    (photos / "cat" / "folder").mkdir()
    with pytest.raises(DataError, match=r"reading the image .*folder\n.*\n  expected: a readable file"):
        read_samples(photos, transform=shade)


def test_an_unreadable_image_is_named(photos: Path) -> None:
    file = photos / "cat" / "1.png"
    for content in (b"no image", file.read_bytes()[:-25]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"reading the image .*1\.png"):
            read_samples(photos, transform=shade)


def test_a_transform_must_make_equal_shapes(photos: Path) -> None:
    def uneven(image: Any) -> np.ndarray:
        return np.zeros(2 if shade(image)[0] == 20 else 3)

    with pytest.raises(
        DataError, match=r"1\.png\n  got: float64\[2\] from the transform\n  expected: float64\[3\], as of "
    ):
        read_samples(photos, transform=uneven)


def test_a_failing_transform_shows_its_line_and_the_image(photos: Path) -> None:
    def failing(image: Any) -> np.ndarray:
        return image.no_such_thing

    with pytest.raises(DataError, match=r"transforming the image .*0\.png") as caught:
        read_samples(photos, transform=failing)
    assert caught.value.got.endswith(": return image.no_such_thing")


def test_image_folders_without_transform_classes_or_images_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no transform"):
        read_samples(photos)
    with pytest.raises(DataError, match="no folders inside"):
        read_samples(photos / "ant", transform=shade)
    (photos / "bee").mkdir()
    with pytest.raises(DataError, match="the empty class folder 'bee'"):
        read_samples(photos, transform=shade)


def test_without_pillow_the_extra_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=re.escape('pip install "gossamer[images]"')):
        read_samples(photos, transform=shade)


@pytest.mark.parametrize("source", ["digits.npz", X])
def test_a_transform_that_nobody_reads_is_refused(source: Any) -> None:
    with pytest.raises(OptionError, match="transform"):
        read_samples(source, transform=shade)
