"""What is particular about Google's store: credentials, faults, pages, folders, and readers that seek."""

import io
import itertools
import os
import socket
import time
import zipfile

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from study.data import files, google
from study.errors import EnvironmentFault, InputError
from study.remote import push_file
from study.remote.places import copy_root

UPLOAD, OBJECTS = "/upload/", "/o/"


@pytest.fixture
def order(gcs_server):
    """Order something of the server; what it has been asked so far."""
    return gcs_server.pretend


@pytest.fixture
def silent():
    """An address that takes connections and answers none."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.settimeout(5)
        yield listener


def fault(method, path, *, times=10**6, status=503, after=0):
    return {"method": method, "path": path, "times": times, "status": status, "after": after}


def said(place, act):
    """What is told of a failed access, and that it holds neither name nor key."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - what it says is what the caller looks at
        act(place)
    assert caught.value.__cause__ is None
    assert not [word for word in ("study-", "service-account", "googleapis", "127.0.0.1") if word in str(caught.value)]
    return files.why(caught.value)


def test_the_key_of_the_environment_signs_each_request(gs, order):
    """A token that begins as no token of ours does is refused, in words."""
    files.write_bytes(gs("a"), b"1")
    order(needs="Bearer other")
    assert said(gs("a"), files.read_bytes) == "unauthenticated"
    assert said(gs("a"), lambda place: files.write_bytes(place, b"2")) == "unauthenticated"


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_key_that_cannot_be_used_is_told(gs, tmp_path, monkeypatch, content):
    """A file that is not there or holds something else; pyarrow's own error is of another kind for each."""
    if content is not None:
        (tmp_path / "key.json").write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    for act in (files.read_bytes, files.delete, files.list_files, lambda place: files.write_bytes(place, b"1")):
        with pytest.raises(EnvironmentFault, match=r"^gs://study-[0-9a-f]*: no credentials, or none") as caught:
            act(gs("a"))
        assert str(tmp_path) not in str(caught.value)
        assert "GOOGLE_APPLICATION_CREDENTIALS" in caught.value.fix


def test_credentials_that_are_lost_later_are_told():
    """The kind of error is not the one that other failures have."""
    assert files.why(google._translated(ValueError("Could not create a OAuth2 access token"))) == "no credentials"
    assert files.why(google._translated(ValueError("else"))) == "valueerror"


def test_a_bucket_that_is_not_there_is_no_missing_file(gs, order, tmp_path):
    """Or a write to it would be told as a file that nobody has, whatever words the server chooses."""
    gone = gs("x/a").replace("://study-", "://none-")
    other = tmp_path / "b"
    other.write_bytes(b"1")
    for act in (files.read_bytes, lambda place: files.write_bytes(place, b"1"), lambda place: files.copy(other, place)):
        assert said(gone, act) == "no such bucket"
    assert not files.is_file(gone)
    with pytest.raises(InputError, match="no such bucket"):
        files.list_files(gone)
    order(faults=[fault("POST", UPLOAD, status=404)])
    assert said(gs("a"), lambda place: files.write_bytes(place, b"1")) == "no such bucket"


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "path", "act"),
    [
        ("POST", UPLOAD, lambda place: files.write_bytes(place, b"content")),
        ("PUT", UPLOAD, lambda place: files.write_bytes(place, b"content")),
        ("GET", OBJECTS, files.read_bytes),
        ("GET", "alt=media", files.read_bytes),
        ("GET", "prefix=", files.list_files),
        ("DELETE", OBJECTS, files.delete),
        ("POST", "rewriteTo", lambda place: files.copy(place, place.replace("/a?", "/b?"))),
    ],
)
def test_a_server_that_fails_twice_is_asked_again(gs, order, method, path, act):
    """Within seconds, whatever is asked."""
    files.write_bytes(gs("a"), b"content")
    files.write_bytes(gs("a/below"), b"1")
    order(faults=[fault(method, path, times=2)])
    act(gs("a"))
    asked = [request for request in order(faults=[]) if request[0] == method and path in request[1]]
    assert len(asked) > 2
    assert files.is_file(gs("a")) == (act is not files.delete)


def test_a_write_that_fails_leaves_the_former_object(gs, order):
    """At its begin, or after a part of it has arrived, which is not published when the stream is closed."""
    place, large = gs("a"), os.urandom(9 * 2**20)
    files.write_bytes(place, b"former")
    order()
    for faults in ([fault("POST", UPLOAD, status=403)], [fault("PUT", UPLOAD, status=403, times=1, after=1)]):
        order(faults=faults)
        assert said(place, lambda place: files.write_bytes(place, large)) == "permission denied"
        assert files.read_bytes(place) == b"former"
    assert len([request for request in order(faults=[]) if request[0] == "PUT"]) >= 2
    files.write_bytes(place, large)
    assert files.read_bytes(place) == large


def test_listings_of_many_pages(gs, order):
    """All names in all pages; folders are found without the empty objects that other programs write for them."""
    names = [f"{folder}/{number}.bin" for folder, number in itertools.product(("a", "b", "ü c"), range(4))]
    for name in [*names, "top.bin"]:
        files.write_bytes(gs(f"x/{name}"), b"1")
    files.write_bytes(gs("xy/none.bin"), b"1")
    order(page=3)
    assert files.list_files(gs("x")) == [gs(f"x/{name}") for name in sorted([*names, "top.bin"])]
    assert files.stored_folders(gs("x")) == ["a", "b", "ü c"]
    assert set(files.stored_files(gs("x"), recursive=False)) == {"top.bin"}
    assert files.stored_folders(gs("nowhere")) == []
    assert files.stored_folders(gs("").replace("/?", "?")) == ["x", "xy"]


def test_an_array_file_can_be_looked_into(gs):
    """Readers of archives ask for the end first; an empty file has one, too."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("member", b"x" * 300_000)
    files.write_bytes(gs("a.zip"), content.getvalue())
    with files.open_file(gs("a.zip")) as file, zipfile.ZipFile(file) as archive:
        assert archive.read("member") == b"x" * 300_000
    files.write_bytes(gs("empty"), b"")
    assert files.read_bytes(gs("empty")) == b""
    with files.open_file(gs("empty")) as file, pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(file)


class Stream:
    """As pyarrow's, which fails where it is moved to the end or beyond, as Google does."""

    def __init__(self, content):
        self.content, self.at = content, 0

    def size(self):
        return len(self.content)

    def seek(self, at):
        assert at < len(self.content)
        self.at = at

    def read(self, count):
        part = self.content[self.at : self.at + min(count, 7)]  # a stream may give less than it is asked for
        self.at += len(part)
        return part

    def close(self):
        pass


@hypothesis_settings(max_examples=40)
@given(
    st.binary(max_size=60),
    st.lists(st.tuples(st.sampled_from(["read", "seek", "end", "on"]), st.integers(-70, 70)), max_size=12),
)
def test_a_reader_is_a_file(content, steps):
    """Any sequence of reads and seeks gives what the same bytes in memory give."""
    file, expected = io.BufferedReader(google._Reader(Stream(content)), 5), io.BytesIO(content)
    for step, count in steps:
        if step == "read":
            assert file.read(max(count, -1)) == expected.read(max(count, -1))
            continue
        goal = {"seek": 0, "end": len(content), "on": expected.tell()}[step] + count
        if goal >= 0:
            assert file.seek(count, {"seek": 0, "on": 1, "end": 2}[step]) == goal == expected.seek(goal)
    assert file.read() == expected.read()


def test_a_stream_that_ends_early_is_a_failure():
    """Not a short file."""
    stream = Stream(b"0123456789")
    reader = google._Reader(stream)
    stream.content = b"01234"
    with pytest.raises(OSError, match="CUT_SHORT"):
        reader.readall()


@pytest.mark.parametrize("who", ["store", pytest.param("service", marks=pytest.mark.long)])
def test_silence_is_told_in_time(gs, silent, monkeypatch, who):
    """A store that takes the connection and says nothing; a machine that waits for credentials that nobody gives."""
    monkeypatch.setattr(google, "FIRST_ANSWER_S", 0.3)
    place, address = gs("a"), f"127.0.0.1:{silent.getsockname()[1]}"
    if who == "store":
        place = f"gs://study-x/a?scheme=http&endpoint_override={address}"
    else:
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        monkeypatch.setenv("HOME", "/nowhere")
        monkeypatch.setenv("GCE_METADATA_ROOT", address)  # as Google's library for C++ calls it
    begun = time.monotonic()
    for _ in range(2):  # what failed is not remembered
        with pytest.raises(EnvironmentFault, match=r"^gs://study-[^?/]*: no answer within 0\.3 s"):
            files.read_bytes(place)
    assert time.monotonic() - begun < 5
    silent.accept()[0].close()  # it was asked indeed


@pytest.mark.long
def test_a_store_that_is_not_there_is_told_within_a_minute(tmp_path, monkeypatch, gs):
    """With all tries that a study makes."""
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path))
    folder = copy_root(gs("studies").replace(gs("").rpartition("=")[2], "127.0.0.1:9"), "drive") / "mine"
    folder.mkdir()
    (folder / "study.yaml").write_text("x")
    begun = time.monotonic()
    with pytest.raises(
        EnvironmentFault, match=r"gs://[^?]*: the store does not do what it is asked \(unavailable; [2-5] tries"
    ):
        push_file(folder, "study.yaml")
    assert time.monotonic() - begun < 60


def test_google_s_own_variable_names_the_server(gs, gcs_server, monkeypatch):
    """Without credentials, as other programs are pointed to a pretended store; nothing of it stands in the URI."""
    files.write_bytes(gs("a"), b"1")
    gcs_server.pretend(needs="")
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://{gcs_server.endpoint}")
    assert files.read_bytes(gs("a").partition("?")[0].replace("gs://", "gs://anonymous@")) == b"1"
