import pytest

from ddr_jax.data.files import check_writable, write_atomically
from ddr_jax.types import InputError


def test_a_failed_write_leaves_the_earlier_file_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, b"earlier")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_atomically(path, b"later")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another place"):
        write_atomically(tmp_path / "file" / "result.json", b"")


def test_a_place_that_cannot_be_written_is_found_out_beforehand(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another place"):
        check_writable(tmp_path / "file" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
