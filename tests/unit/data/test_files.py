"""Files by path or URI: the same functions on a folder and on an S3 server; no credential in any message."""

import errno

import pytest

from study.data import files
from study.errors import InputError

SECRETS = ("AKIDEXAMPLE", "wJalrXUtnSecret", "endpoint_override")


@pytest.fixture(params=["local", "file", "s3", "gs"])
def root(request, tmp_path):
    """An empty place of each kind."""
    if request.param in ("s3", "gs"):
        return request.getfixturevalue(request.param)("deep/folder")
    return str(tmp_path / "deep") if request.param == "local" else f"file://{tmp_path}/deep"


def _names(root):
    return [files.shown(place).rpartition("/")[2] for place in files.list_files(root)]


def test_written_files_are_found_again(root):
    """What is written can be read, sized, dated, listed, copied, fetched and deleted, wherever it lies."""
    places = [files.join(root, name) for name in ("b.png", "a.dcm", "below/c.PNG", ".hidden")]
    for place in places:
        files.write_bytes(place, b"content of " + place[-5:].encode())
    assert files.read_bytes(places[0]) == b"content of " + places[0][-5:].encode()
    size, changed = files.file_state(places[0])
    assert (size, changed > 10**18) == (16, True)
    assert files.list_files(root) == sorted(places[:3])
    assert files.list_files(root, suffixes=(".png",)) == sorted([places[0], places[2]])
    files.copy(places[0], files.join(root, "copy.png"))
    assert files.read_bytes(files.join(root, "copy.png")) == files.read_bytes(places[0])
    files.delete(places[0])
    files.delete(places[0])
    assert not files.is_file(places[0])
    files.delete_all(places)
    assert _names(root) == ["copy.png"]


def test_the_other_name_of_googles_store():
    """What is special about that store would not be done for it."""
    with pytest.raises(InputError, match="named by gs://"):
        files.is_file("gcs://anonymous@bucket/x")


def test_names_that_lead_out(monkeypatch):
    """An object of a store is written beside the folder into which it is brought."""
    from pyarrow import fs

    kinds = ("b/x/../../etc/evil", "b/x/a/../y", "b/x/..y", "b/x/good")
    found = [fs.FileInfo(name, type=fs.FileType.File, size=1) for name in kinds]
    system = type("System", (), {"get_file_info": lambda self, selector: found})()
    monkeypatch.setattr(files, "_system", lambda uri: (system, "b/x"))
    assert sorted(files.stored_files("s3://b/x")) == ["..y", "good"]


def test_file_uris_may_be_encoded(tmp_path):
    """A folder with a space in its name is found by the URI that a file manager gives, and by its plain path."""
    folder = tmp_path / "my files"
    files.write_bytes(folder / "a 1.png", b"x")
    uri = f"{tmp_path.as_uri()}/my%20files"
    assert files.list_files(uri) == [str(folder / "a 1.png")]
    assert files.read_bytes(f"{uri}/a%201.png") == b"x"
    assert files.local_path(f"{folder}/100%25") == folder / "100%25"


def test_second_content_replaces_the_first(root):
    """A file that is written again has the new content and leaves no trace of the old one."""
    place = files.join(root, "a.json")
    files.write_bytes(place, b"old and long")
    files.write_bytes(place, b"new")
    assert files.read_bytes(place) == b"new"
    assert len(files.list_files(root)) == 1


def test_parts_of_a_file_can_be_read(root):
    """An open file can be read from any position: headers are read without the pixels."""
    files.write_bytes(files.join(root, "a.bin"), bytes(range(200)))
    with files.open_file(files.join(root, "a.bin")) as file:
        file.seek(100)
        assert file.read(3) == bytes([100, 101, 102])


def test_missing_files_say_so(root):
    """A missing file is no file, has no state, and cannot be opened; a folder is no file either."""
    files.write_bytes(files.join(root, "a", "b.bin"), b"1")
    for name in ("none.bin", "a"):
        assert files.file_state(files.join(root, name)) == (-1, 0)
    with pytest.raises(FileNotFoundError) as caught:
        files.read_bytes(files.join(root, "none.bin"))
    assert files.why(caught.value) == "No such file or directory"
    with pytest.raises(InputError, match="no folder at"):
        files.list_files(files.join(root, "nowhere"))


@pytest.mark.parametrize("few", [files.FEW, 2])
def test_states_of_many_files(root, few, monkeypatch):
    """Asking for many states at once, by listing or one by one, gives what asking for each gives."""
    monkeypatch.setattr(files, "FEW", few)
    places = [files.join(root, f"{number % 3}/{number}.bin") for number in range(9)]
    for number, place in enumerate(places):
        files.write_bytes(place, b"x" * number)
    asked = [*places, files.join(root, "none"), places[3]]
    assert files.file_states(asked) == [files.file_state(place) for place in asked]


def test_copy_between_stores(s3, tmp_path):
    """A copy from a store to this machine and back keeps the bytes."""
    files.write_bytes(tmp_path / "a.bin", b"pixels")
    files.copy(tmp_path / "a.bin", s3("a.bin"))
    files.copy(s3("a.bin"), tmp_path / "b.bin")
    files.download(s3("a.bin"), tmp_path / "c.bin")
    assert (tmp_path / "b.bin").read_bytes() == (tmp_path / "c.bin").read_bytes() == b"pixels"


def test_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    """A full disk neither destroys the file that was there nor leaves half of the new one."""
    files.write_bytes(tmp_path / "a.bin", b"old")

    def full(*_args):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        files.write_bytes(tmp_path / "a.bin", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


class Failing:
    """A store that takes no content and, as pyarrow may, publishes what went out when the stream is closed."""

    def __init__(self, uri, *, publishes):
        self.publishes = publishes
        self.real, self.path = files._system(uri)

    def open_output_stream(self, _path):
        return self

    def write(self, _content):
        raise OSError("When uploading part: AWS Error SLOW_DOWN during UploadPart")

    def close(self):
        if self.publishes:
            self.real.open_output_stream(self.path).close()

    def get_file_info(self, path):
        return self.real.get_file_info(path)

    def delete_file(self, path):
        self.real.delete_file(path)


@pytest.mark.parametrize("former", [None, b"former"])
@pytest.mark.parametrize("size", [7, files.SMALLEST_PART + 1])
def test_remote_write_that_fails(s3, monkeypatch, former, size):
    """When an upload breaks off, no object with a part of the content appears, and the former one stays."""
    place = s3("part.bin")
    files.write_bytes(s3("other"), b"1")
    if former:
        files.write_bytes(place, former)
    system = Failing(place, publishes=size > files.SMALLEST_PART and not former)
    monkeypatch.setattr(files, "_system", lambda _uri: (system, system.path))
    with pytest.raises(OSError, match="SLOW_DOWN") as caught:
        files.write_bytes(place, b"c" * size)
    monkeypatch.undo()
    assert files.why(caught.value) == "slow down"
    assert (files.read_bytes(place) if files.is_file(place) else None) == former


def test_endpoint_from_the_environment(s3, s3_server, monkeypatch):
    """Server and credentials may come from the environment, so that no study file needs to name them."""
    files.write_bytes(s3("a.bin"), b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnSecret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert files.read_bytes(files.shown(s3("a.bin"))) == b"1"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://key:secret@bucket/a/b.dcm?scheme=http", "s3://bucket/a/b.dcm"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("gs://anonymous@bucket", "gs://bucket"),
        ("abfs://container@account.dfs.core.windows.net/a", "abfs://container@account.dfs.core.windows.net/a"),
        ("abfs://account:secret@account.blob.core.windows.net/a", "abfs://account.blob.core.windows.net/a"),
        ("/data/a?b@c", "/data/a?b@c"),
    ],
)
def test_shown_places_hold_no_credentials(place, expected):
    """User, password and query of a URI never reach a message; paths stay as they are."""
    assert files.shown(place) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda s3: files.list_files(s3("nowhere")),
        lambda s3: files.list_files(s3("x").replace("@study-", "@no-bucket-")),
        lambda s3: files.read_bytes(s3("x") + "&unknown=wJalrXUtnSecret"),
        lambda _: files.read_bytes("foo://AKIDEXAMPLE:wJalrXUtnSecret@x/y"),
    ],
)
def test_errors_hold_no_credentials(s3, make):
    """No error, nor what it was raised from, repeats the credentials of a URI: errors are logged."""
    with pytest.raises(InputError) as caught:
        make(s3)
    assert caught.value.fix
    text = f"{caught.value} {caught.value.__cause__} {caught.value.__suppress_context__}"
    assert text.endswith("None True")
    assert not [secret for secret in SECRETS if secret in text]


def test_member_of_an_array_file():
    """One image of an array file lies in that file."""
    assert files.whole_file("/a/b.npz::train_images::7") == "/a/b.npz"
    assert files.whole_file("s3://x/b.npz::train_images::7") == "s3://x/b.npz"
    assert files.whole_file("/a/b::c.png") == "/a/b::c.png"


@pytest.mark.parametrize(
    ("place", "file"),
    [
        ("/data/a.npz::train_images::3", "/data/a.npz"),
        ("s3://b/a.npz::train_images::3?region=x", "s3://b/a.npz?region=x"),
        ("/data/a.png", "/data/a.png"),
        ("s3://b/a.png?region=x", "s3://b/a.png?region=x"),
    ],
)
def test_the_file_of_an_image(place, file):
    """An image of an array file in a store is looked for without the store's options, and never found."""
    assert files.whole_file(place) == file
