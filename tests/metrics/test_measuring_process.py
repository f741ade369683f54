import sys

import pytest

from gossamer.core.errors import ArtifactError, InternalError, ModelError
from gossamer.metrics.process import probe_process
from gossamer.metrics.size import folder_bytes

GOOD = '{"load_ms": 12.5, "first_ms": 3, "peak_rss_bytes": 5000, "base_rss_bytes": 2000}'


def python(code):
    return [sys.executable, "-I", "-S", "-c", code]


def test_figures_of_a_fresh_process():
    load, first, memory = probe_process(python(f"print('noise'); print('{GOOD}')"), conditions={"threads": 1})
    assert (load.name, load.value, load.unit) == ("load", 12.5, "ms")
    assert (first.value, memory.value, memory.unit) == (3.0, 3000.0, "B")
    assert memory.conditions == {"threads": 1}


def test_a_peak_below_its_base_is_nothing():
    assert probe_process(python(f"print('{GOOD.replace('5000', '1000')}')"))[2].value == 0.0


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("raise SystemExit('no such model')", ModelError, r"exit status 1[\s\S]*no such model"),
        ("print('hello')", InternalError, "one line of JSON"),
        ("pass", InternalError, "one line of JSON"),
        (f"print('{GOOD.replace('12.5', 'NaN')}')", InternalError, "finite"),
        ("""print('{"load_ms": 1}')""", InternalError, "first_ms"),
    ],
)
def test_failures_are_typed(code, error, message):
    with pytest.raises(error, match=message):
        probe_process(python(code))


def test_a_process_that_hangs_or_does_not_start():
    with pytest.raises(ModelError, match=r"no answer in 0\.2 s"):
        probe_process(python("import time; time.sleep(20)"), timeout_s=0.2)
    with pytest.raises(ModelError, match="a program that starts"):
        probe_process(["/no/such/program"])


def test_folder_bytes_is_the_sum_of_its_files(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "deep" / "er" / "b").write_bytes(b"4567")
    (tmp_path / "deep" / "link").symlink_to(tmp_path / "a")
    assert folder_bytes(tmp_path) == 7
    assert folder_bytes(tmp_path / "a") == 3
    with pytest.raises(ArtifactError, match="nothing there"):
        folder_bytes(tmp_path / "none")
