import numpy as np
import pytest

from gossamer.core.errors import DataError, OptionError, UnknownName
from gossamer.metrics import METRICS, resolve_metric

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((60, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 60)


def count_top_k(logits, labels, k):
    return [
        label in sorted(range(len(row)), key=lambda i: -row[i])[:k] for row, label in zip(logits, labels, strict=True)
    ]


@pytest.mark.parametrize(("name", "k"), [("top1", 1), ("top5", 5)])
def test_accuracy_equals_a_count_by_sorting(name, k):
    metric = resolve_metric(name)
    right = count_top_k(LOGITS, LABELS, k)
    assert metric.value({"y": LOGITS}, LABELS) == pytest.approx(100 * sum(right) / 60)
    assert metric.per_sample({"y": LOGITS}, LABELS).tolist() == right


def test_macro_f1_equals_its_definition_and_is_no_mean():
    predicted, scores = LOGITS.argmax(1), []
    for cls in range(7):
        hits = np.sum((predicted == cls) & (cls == LABELS))
        precision = hits / max(np.sum(predicted == cls), 1)
        recall = hits / max(np.sum(cls == LABELS), 1)
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert METRICS["f1"].value({"y": LOGITS}, LABELS) == pytest.approx(100 * np.mean(scores))
    assert METRICS["f1"].per_sample({"y": LOGITS}, LABELS) is None


def test_f1_ignores_classes_that_neither_labels_nor_predictions_have():
    logits = np.eye(5)[[0, 1, 0]]
    assert METRICS["f1"].value({"y": logits}, np.array([0, 1, 0])) == 100.0


def test_images_and_sequences_find_their_class_axis():
    labels = RNG.integers(0, 3, (4, 5, 6))
    logits = np.eye(3)[labels]
    assert METRICS["top1"].value({"y": logits}, labels) == 100.0
    assert METRICS["top1"].value({"y": np.moveaxis(logits, -1, 1)}, labels) == 100.0
    wrong = logits.copy()
    wrong[0, 0] = np.roll(wrong[0, 0], 1, axis=-1)  # 6 of 30 positions of the first sample
    assert METRICS["top1"].per_sample({"y": wrong}, labels).tolist() == [0.8, 1, 1, 1]


@pytest.mark.parametrize("name", ["top1", "top5", "f1"])
def test_nan_rows_and_constant_outputs_earn_nothing(name):
    logits = np.full((6, 7), np.nan)
    assert METRICS[name].value({"y": logits}, np.zeros(6, int)) == 0.0
    if name == "top5":
        assert METRICS[name].value({"y": np.zeros((6, 7))}, np.zeros(6, int)) == 0.0


def test_mae_accepts_a_column_and_refuses_to_broadcast():
    out, labels = np.array([[1.0], [2.0]]), np.array([0.0, 4.0])
    assert METRICS["mae"].value({"y": out}, labels) == 1.5
    with pytest.raises(DataError, match="one label for each output value"):
        METRICS["mae"].value({"y": np.zeros((2, 3))}, np.zeros(2))


def test_agreement_needs_no_labels_but_the_originals_outputs():
    reference = {"y": LOGITS, "z": LOGITS[:, :1]}
    metric = METRICS["agreement"]
    assert not metric.needs_labels
    assert metric.value({"y": 3 * LOGITS + 1}, reference) == 100.0
    flipped = LOGITS.copy()
    flipped[:15] *= -1
    assert metric.value({"y": flipped}, reference) == 75.0
    assert resolve_metric("agreement@z").value({"y": flipped, "z": 1.04 * LOGITS[:, :1]}, reference) == 100.0
    assert resolve_metric("agreement@z").value({"y": flipped, "z": LOGITS[:, :1] + 10}, reference) == 0.0
    assert metric.value({"y": np.array([1, 2, 3, 4])}, np.array([1, 2, 3, 5])) == 75.0


def test_the_first_output_counts_unless_another_is_named():
    outputs = {"features": np.eye(7)[LABELS], "logits": LOGITS}
    plain = METRICS["top1"].value({"logits": LOGITS}, LABELS)
    chosen = resolve_metric("top1@logits")
    assert chosen.value(outputs, LABELS) == plain
    assert chosen.name == "top1@logits"
    assert METRICS["top1"].value(outputs, LABELS) == 100.0 > plain
    with pytest.raises(DataError, match=r"expected: one of: features, logits[\s\S]*try: @logits"):
        resolve_metric("top1@logit").value(outputs, LABELS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:-1], r"labels of shape \[59\]"),
        (LABELS + 1, "0 to 6: 7 classes"),
        (LABELS - 1, "labels from -1"),
        (LABELS + 0.5, "with fractions"),
        (None, "no labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_the_facts(labels, message):
    with pytest.raises(DataError, match=message):
        METRICS["top1"].value({"y": LOGITS}, labels)


def test_top5_of_five_classes_means_nothing():
    with pytest.raises(DataError, match="more than 5"):
        METRICS["top5"].value({"y": np.zeros((3, 5))}, np.zeros(3, int))


def test_unknown_metrics_offer_the_nearest():
    with pytest.raises(UnknownName, match="try: 'top1'"):
        resolve_metric("topp1")
    with pytest.raises(OptionError, match="nothing behind @"):
        resolve_metric("top1@")


def test_a_metric_of_the_users_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def distance(outputs, labels):\n    return np.abs(outputs['y'][:, 0] - labels)\n"
        "distance.better = 'lower'\n"
        "def whole(outputs, labels):\n    return 12.5\n"
        "whole.unit = '%'\n"
        "def broken(outputs, labels):\n    return outputs['nothing']\n"
        "def words(outputs, labels):\n    return 'good'\n"
        "def short(outputs, labels):\n    return labels[:3]\n"
        "def odd(outputs, labels):\n    return 0.0\n"
        "odd.better = 'best'\n"
    )
    distance = resolve_metric(f"{file}:distance@y")
    assert (distance.better, distance.unit) == ("lower", "")
    np.testing.assert_allclose(distance.per_sample({"z": LOGITS, "y": LOGITS}, LABELS), np.abs(LOGITS[:, 0] - LABELS))
    whole = resolve_metric(f"{file}:whole")
    assert (whole.value({"y": LOGITS}, LABELS), whole.per_sample({"y": LOGITS}, LABELS)) == (12.5, None)
    for name, message in [
        ("broken", "KeyError: 'nothing' at mine.py"),
        ("words", "got: str"),
        ("short", r"shape \[3\]"),
    ]:
        with pytest.raises(DataError, match=message):
            resolve_metric(f"{file}:{name}").value({"y": LOGITS}, LABELS)
    with pytest.raises(OptionError, match="'higher' or 'lower'"):
        resolve_metric(f"{file}:odd")
    with pytest.raises(OptionError, match="whole"):
        resolve_metric(f"{file}:hole")


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="a finite figure"):
        METRICS["mae"].value({"y": np.array([np.nan, 1.0])}, np.array([0.0, 1.0]))
