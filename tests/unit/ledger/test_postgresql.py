"""The same ledger on a PostgreSQL server, which the tests start and stop; its lock; its address, which stays secret."""

import os
import pickle
import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.engine import make_url

from study.errors import EnvironmentFault, InputError
from study.ledger import Ledger, ask_to_stop, lock_holder, lock_study, outage
from study.ledger.lock_row import TABLE, LockRow
from study.ledger.locking import Held, here
from study.ledger.postgresql import shown, with_driver
from study.ledger.storage import server_engine
from study.types import RunOutcome
from tests.servers import PASSWORD, PostgresServer

BEAT_S = 0.05


@pytest.fixture(scope="module")
def server():
    """A fresh server."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


def make_old(engine):
    """Let every sign of life be an hour old."""
    with engine.begin() as connection:
        connection.execute(TABLE.update().values(beat=TABLE.c.beat - timedelta(hours=1)))


@pytest.fixture
def elsewhere():
    """A holder on another machine."""
    return replace(here(), host="far-away", pid=17, place="another boot")


def test_postgresql_holds_what_sqlite_holds(tmp_path, server, tools):
    """A search on a PostgreSQL server has the same table as on sqlite, and is adopted, noted and read alike."""
    config = tools.make_config(trials=6, epochs=3)
    with pytest.raises(InputError, match="there is no ledger in PostgreSQL on 127"):
        Ledger.open(server.url, config=config, read_only=True)
    whole = tools.table(tools.run_search(tools.make_url(tmp_path), config))
    first = Ledger.open(server.url, config=config)
    trial = first.next_trial()
    first.report(0, tools.epoch_result(trial.params, 1))
    second = Ledger.open(server.url, config=config)
    second.record_run("0", 3, RunOutcome(state="complete", metrics={"test/mcc": float("nan"), "test/qwk": 0.1 + 0.2}))
    assert [row.state for row in Ledger.open(server.url, config=config, read_only=True).rows()] == ["running"]
    ledger = tools.run_search(server.url, config)
    assert tools.table(ledger) == whole
    (record,) = Ledger.open(server.url, config=config, read_only=True).run_records()
    assert record.outcome.metrics["test/qwk"] == 0.1 + 0.2
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(ledger)
    assert PASSWORD.encode() not in pickle.dumps(ledger._storage._backend)


def test_a_server_that_crashes_and_comes_back_costs_nothing(server, tools, monkeypatch):
    """While a writer waits for a server that was shot, a call that was cut off is done once, wherever it was cut."""
    config = tools.make_config(trials=3, epochs=2, pruner="none")
    config.study = "crash"
    ledger, told = Ledger.open(server.url, config=config), []
    ledger.outage.tell = told.append
    monkeypatch.setattr(outage, "TELL_S", 0.0)
    import study.ledger.book as book

    create, crashes = book.create_trial, []

    def create_and_crash(*args):
        create(*args)
        if not crashes:
            crashes.append(args)
            server.stop(9)
            threading.Timer(0.3, server.start).start()
            raise ConnectionResetError("the answer was lost")

    monkeypatch.setattr(book, "create_trial", create_and_crash)
    while (trial := ledger.next_trial()) is not None:
        if trial.number == 1:
            server.stop(9)
            threading.Timer(0.3, server.start).start()
        tools.run_trial(ledger, trial, 2)
    assert [(row.trial, row.state, row.epochs) for row in ledger.rows()] == [(str(i), "complete", 2) for i in range(3)]
    assert len(crashes) == 1
    assert len(told) == 4
    assert all("does not answer" in text and "for up to 60 s" in text for text in told[::2])
    assert all("answers again after" in text for text in told[1::2])
    assert not any(PASSWORD in text for text in told)
    server.stop(9)
    ledger.patience_s = 0.0
    with pytest.raises(EnvironmentFault, match="did not answer"):
        ledger.rows()
    with pytest.raises(EnvironmentFault, match="cannot be opened") as caught:
        Ledger.open(server.url, config=config)
    assert PASSWORD not in str(caught.value)
    server.start()


def test_second_driver_is_refused_wherever_its_directory_is(tmp_path, server):
    """Two drivers that share the ledger and no directory do not run one study; the second learns whose it is."""
    with lock_study(tmp_path / "a" / "quick", url=server.url):
        with (
            pytest.raises(InputError, match=f"quick is running as process {os.getpid()} on .* since 20"),
            lock_study(tmp_path / "b" / "quick", url=server.url),
        ):
            pass
        with lock_study(tmp_path / "b" / "other", url=server.url):
            pass
        assert lock_holder(tmp_path / "b" / "quick", url=server.url).pid == os.getpid()
    assert lock_holder(tmp_path / "b" / "quick", url=server.url) is None
    with lock_study(tmp_path / "b" / "quick", url=server.url):
        pass


def test_stale_lock_is_taken_over_and_a_living_one_is_not(tmp_path, server, elsewhere):
    """A lock without signs of life is taken over with a line; one whose holder comes back meanwhile is not."""
    engine, told = server_engine(server.url), []
    row = LockRow(engine, "quick", beat_s=BEAT_S)
    row.take(elsewhere)
    with pytest.raises(InputError, match=r"process 17 on far-away since .* last sign of life \d s ago"):
        LockRow(engine, "quick").take(here())
    make_old(engine)
    with lock_study(tmp_path / "quick", url=server.url, tell=told.append, beat_s=BEAT_S):
        assert len(told) == 1
        assert "taking over from process 17 on far-away" in told[0]
        late = Held(elsewhere)
        row.beat(late)
        assert late.taken_by.pid == os.getpid()

    row.take(elsewhere)
    make_old(engine)  # as after a failure of the server
    row = LockRow(engine, "quick", beat_s=1.0)
    returning = threading.Timer(0.2, lambda: row.beat(Held(elsewhere)))
    returning.start()
    with pytest.raises(InputError, match="far-away"):
        row.take(here())
    returning.join()
    row.free(elsewhere)


def test_lock_of_a_dead_process_of_this_machine_falls_at_once(server):
    """After a kill on this machine nobody waits for signs of life."""
    row = LockRow(server_engine(server.url), "dead")
    row.take(replace(here(), pid=2**22 + 1))
    started = time.monotonic()
    me = here()
    assert row.take(me).pid == 2**22 + 1
    assert time.monotonic() - started < 2
    row.free(me)


def test_lock_that_was_lost_stops_its_driver(tmp_path, server, elsewhere):
    """A driver that slept while another one took its study is told so."""
    stopped = threading.Event()
    engine = server_engine(server.url)
    with lock_study(tmp_path / "quick", url=server.url, beat_s=BEAT_S) as held:
        held.listen(stopped.set)
        with engine.begin() as connection:
            connection.execute(TABLE.update().where(TABLE.c.study == "quick").values(owner=elsewhere.owner, pid=17))
        assert stopped.wait(10)
        assert held.taken_by.pid == 17
    LockRow(engine, "quick").free(elsewhere)


def test_a_driver_elsewhere_is_asked_through_the_server(tmp_path, server):
    """A driver that shares no directory with whoever asks it to stop finds the request in the ledger's server."""
    asked, url = threading.Event(), server.url
    with lock_study(tmp_path / "a" / "quick", url=url, beat_s=BEAT_S) as held:
        held.listen(asked.set)
        ask_to_stop(tmp_path / "b" / "quick", replace(held.holder, owner="another"), url=url)
        ask_to_stop(tmp_path / "b" / "other", held.holder, url=url)
        assert not asked.wait(5 * BEAT_S)
        ask_to_stop(tmp_path / "b" / "quick", held.holder, url=url)
        assert asked.wait(10)
        assert not held.is_lost
    with lock_study(tmp_path / "a" / "quick", url=url, beat_s=BEAT_S) as held:
        assert not held.is_asked_to_stop


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("postgresql://me:pw@host/db", {"timeout": 30, "ssl_context": None}),
        ("postgres://me:pw@host/db?sslmode=disable&connect_timeout=3", {"timeout": 3, "ssl_context": False}),
        ("postgresql://me:pw@host/db?sslmode=require", {"timeout": 30, "ssl_context": True}),
        (
            "postgresql://me:pw@/db?host=/run/pg&port=5433",
            {"timeout": 30, "host": None, "unix_sock": "/run/pg/.s.PGSQL.5433", "ssl_context": False},
        ),
        ("postgresql+psycopg://me:pw@host/db?sslmode=require", {}),
    ],
)
def test_options_of_a_url_mean_what_they_mean_to_libpq(url, arguments):
    """What people write behind a PostgreSQL URL reaches the driver as its own arguments; the password is not shown."""
    address, found = with_driver(make_url(url))
    assert found == arguments
    assert address.password == "pw"
    assert "pw" not in shown(make_url(url))


def test_verified_encryption_and_unknown_options():
    """``verify-full`` checks the name; an unknown option, mode or file of roots is refused without the URL."""
    _, found = with_driver(make_url("postgresql://me:pw@host/db?sslmode=verify-full"))
    assert found["ssl_context"].check_hostname
    for query, text in (
        ("sslmode=maybe", "sslmode=maybe; expected one of disable"),
        ("sslmode=verify-ca&sslrootcert=/nowhere", "cannot be read"),
        ("password=geheim&colour=red", "option colour"),
    ):
        with pytest.raises(InputError, match=text) as caught:
            with_driver(make_url(f"postgresql://me:pw@host/db?{query}"))
        assert "geheim" not in str(caught.value)


def test_password_from_the_environment_or_the_password_file(tmp_path, monkeypatch):
    """A URL without a password finds it where libpq does; a file that others can read is ignored."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    path = tmp_path / "pgpass"
    path.write_text("# mine\nother:5432:db:me:no\nhost:*:db:me:ge\\:heim\n")
    monkeypatch.setenv("PGPASSFILE", str(path))
    path.chmod(0o644)
    assert with_driver(make_url("postgresql://me@host/db"))[0].password is None
    path.chmod(0o600)
    assert with_driver(make_url("postgresql://me@host/db"))[0].password == "ge:heim"
    monkeypatch.setenv("PGPASSWORD", "first")
    assert with_driver(make_url("postgresql://me@host/db"))[0].password == "first"
    assert with_driver(make_url("postgresql://me:own@host/db"))[0].password == "own"
