import pytest

from ddr_jax.store import Store, identity, write_atomically
from ddr_jax.types import InputError, InputWarning


def test_identity_depends_on_every_fact_and_not_on_their_order():
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    assert identity({"a": 1, "b": 2}) != identity({"a": 1, "b": 3})


def test_a_kept_student_is_found_again(tmp_path):
    store = Store(tmp_path)
    store.put("s", {"seed": 0}, {"test": [0.5]}, weights=b"w")
    assert store.record("s") == {"test": [0.5]}
    assert store.weights("s").read_bytes() == b"w"


def test_an_unknown_student_is_not_found(tmp_path):
    assert Store(tmp_path).record("s") is None
    assert Store(tmp_path).weights("s") is None


def test_a_corrupt_record_is_trained_anew_with_a_warning(tmp_path):
    store = Store(tmp_path)
    store.put("s", {}, {"test": [0.5]}, weights=None)
    (tmp_path / "students" / "s.json").write_text('{"rec')
    with pytest.warns(InputWarning, match=r"s\.json is unreadable"):
        assert store.record("s") is None


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
