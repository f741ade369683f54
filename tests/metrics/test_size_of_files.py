import pytest

from gossamer.core.errors import ArtifactError
from gossamer.metrics.size import folder_bytes


def test_folder_bytes_is_the_sum_of_its_files(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "deep" / "er" / "b").write_bytes(b"4567")
    (tmp_path / "deep" / "link").symlink_to(tmp_path / "a")
    assert folder_bytes(tmp_path) == 7
    assert folder_bytes(tmp_path / "a") == 3
    with pytest.raises(ArtifactError, match="nothing there"):
        folder_bytes(tmp_path / "none")
