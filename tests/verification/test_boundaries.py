import numpy as np
import pytest

from gossamer.core.errors import DataError
from gossamer.core.specs import Signature, TensorSpec
from gossamer.verification.boundaries import check_baseline, explain_boundary
from gossamer.verification.inputs import Case
from gossamer.verification.policies import FP32

RNG = np.random.default_rng(0)
CUBE = ("batch", 3, 3, 3)
SIGNATURE = Signature(
    (TensorSpec("a", "float32", CUBE), TensorSpec("b", "float32", CUBE)),
    (TensorSpec("u", "float32", ("batch", 5)), TensorSpec("v", "float32", ("batch", 5))),
    {"batch": (1, None)},
)
U, V = RNG.standard_normal((54, 5)), RNG.standard_normal((54, 5))
DATA = {name: RNG.standard_normal((16, 3, 3, 3)).astype(np.float32) for name in "ab"}
CASES = [Case("real 0-15", "real", DATA), Case("zeros", "shape", {name: 0 * x for name, x in DATA.items()})]


class Net:
    specs, fingerprint = SIGNATURE, "net"

    def __init__(self, before=dict, after=dict):
        self.before, self.after = before, after

    def run(self, inputs, taps=()):
        inputs = self.before(inputs)
        rows = np.concatenate([inputs[name].reshape(len(inputs[name]), -1) for name in "ab"], axis=1).astype(np.float64)
        return self.after({"u": (rows @ U).astype(np.float32), "v": np.sin(rows @ V).astype(np.float32)})


def on(name, change):
    return lambda arrays: {**arrays, name: change(arrays[name])}


CROOKED = {
    "input map: a and b are exchanged": Net(lambda x: {"a": x["b"], "b": x["a"]}),
    "input a: its axes are read in another order; right with transpose(0, 2, 1, 3)": Net(
        on("a", lambda x: x.transpose(0, 2, 1, 3))
    ),
    "input b: its axes are read in another order; right with transpose(0, 3, 1, 2)": Net(
        on("b", lambda x: x.transpose(0, 2, 3, 1))
    ),
    "input b: its channels are reversed": Net(on("b", lambda x: x[:, ::-1])),
    "output map: u and v are exchanged": Net(after=lambda y: {"u": y["v"], "v": y["u"]}),
    "output v: its last axis is in another order": Net(after=on("v", lambda y: y[:, [3, 0, 2, 4, 1]])),
}


@pytest.mark.parametrize("text", CROOKED)
def test_what_is_wrong_around_a_right_model_is_named(text):
    assert explain_boundary(Net(), CROOKED[text], CASES, FP32) == text


def test_a_layout_that_changes_the_shape():
    wide = ("batch", 4, 2, 3)
    specs = Signature(
        (TensorSpec("x", "float32", wide),), (TensorSpec("y", "float32", ("batch", 5)),), {"batch": (1, None)}
    )

    class Wide(Net):
        def run(self, inputs, taps=()):
            x = self.before(inputs)["x"]
            return {"y": (x.reshape(len(x), -1) @ U[:24]).astype(np.float32)}

    Wide.specs = specs
    x = RNG.standard_normal((16, *wide[1:])).astype(np.float32)
    read_as_rows_first = Wide(on("x", lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape)))
    found = explain_boundary(Wide(), read_as_rows_first, [Case("real", "real", {"x": x})], FP32)
    assert found == "input x: its axes are read in another order; right with transpose(0, 2, 3, 1), keeping the shape"


def test_nothing_is_made_up():
    assert explain_boundary(Net(), Net(), CASES, FP32) == ""
    assert explain_boundary(Net(), Net(after=on("u", lambda y: y + 1)), CASES, FP32) == ""

    class Raising(Net):
        def run(self, inputs, taps=()):
            raise RuntimeError("no")

    assert explain_boundary(Net(), Raising(), CASES, FP32) == ""


# The baseline: a classifier of coloured squares that knows its colours by their brightness in each channel.

COLOURS = RNG.random((6, 3)) * 0.8 + 0.1
MEAN, STD = (0.3, 0.5, 0.4), (0.2, 0.1, 0.3)
LABELS = RNG.integers(0, 6, 600)
RAW = (COLOURS[LABELS][:, :, None, None] + RNG.normal(0, 0.02, (600, 3, 2, 2))).astype(np.float32)
RAW[:60] = RAW[60:120]  # a tenth of the labels is wrong, so the classifier is not perfect


def normal(x):
    return ((x - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))).astype(np.float32)


class Classifier:
    fingerprint = "classifier"
    specs = Signature(
        (TensorSpec("x", "float32", ("batch", 3, 2, 2)),),
        (TensorSpec("y", "float32", ("batch", 6)),),
        {"batch": (1, None)},
    )

    def run(self, inputs, taps=()):
        seen = inputs["x"].mean((2, 3))[:, None]
        known = ((COLOURS - MEAN) / STD)[None]
        return {"y": -((seen - known) ** 2).sum(-1).astype(np.float32)}


STATED = 100 * float(np.mean(Classifier().run({"x": normal(RAW)})["y"].argmax(-1) == LABELS))


def check(x, labels=LABELS, **options):
    return check_baseline(Classifier(), {"x": x}, labels, round(STATED, 1), normalisation=(MEAN, STD), **options)


def test_the_stated_accuracy_is_reached():
    assert check(normal(RAW)) == ""
    assert check_baseline(Classifier(), {"x": normal(RAW)}, LABELS, round(STATED, 1) + 1) == ""  # within chance


ORDER = np.array([2, 0, 1, 4, 5, 3])


@pytest.mark.parametrize(
    ("x", "labels", "says"),
    [
        (normal(normal(RAW)), LABELS, "preprocessing: [\\s\\S]* normalised once less"),
        (RAW, LABELS, "preprocessing: [\\s\\S]* normalised once more"),
        (normal(RAW)[:, ::-1], LABELS, "preprocessing: [\\s\\S]* opposite order of channels"),
        (normal(RAW) / 255, LABELS, "preprocessing: [\\s\\S]* multiplied by 255"),
        (normal(RAW), ORDER[LABELS], "label map: "),
        (normal(RAW), np.roll(LABELS, 300), "baseline: [\\s\\S]* nothing that was asked explains it"),
    ],
)
def test_why_it_is_missed(x, labels, says):
    from re import match

    found = check(np.ascontiguousarray(x, np.float32), labels)
    assert match(says, found), found
    assert f"{round(STATED, 1):g} % is stated" in found


def test_another_way_of_preparing_that_is_offered():
    smeared = normal(np.roll(RAW, 1, axis=0))
    found = check(smeared, alternatives={"in their own order": {"x": normal(RAW)}})
    assert "with the inputs in their own order" in found


def test_an_accuracy_of_nothing_is_refused():
    with pytest.raises(DataError, match="checking the accuracy of the original"):
        check(RAW[:0], LABELS[:0])
