"""The lock of a study as a row of the ledger's server, for drivers that share nothing else.

The row holds who drives the study and when it last gave a sign of life, by the server's clock alone. A row without one
for 30 s is stale. Whoever finds that waits for two more, since after a failure of the server itself every row is old
until its holder reaches it again, and takes the row only if it is unchanged.
"""

import logging
import time
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from study.ledger.locking import BEAT_S, STALE_S, Held, LockHolder, busy, is_dead_here
from study.ledger.storage import UNANSWERED, answered

logger = logging.getLogger(__name__)

TABLE: Final = Table(
    "study_drivers",
    MetaData(),
    Column("study", String(512), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("host", String(512), nullable=False),
    Column("place", String(512), nullable=False),
    Column("since", String(64), nullable=False),
    Column("beat", DateTime(timezone=True), nullable=False),
)

REQUESTS: Final = Table(
    "study_stops",
    TABLE.metadata,
    Column("study", String(512), primary_key=True),
    Column("owner", String(64), nullable=False),
)


class LockRow:
    """The row of one study; every method is one short transaction."""

    def __init__(self, engine: Engine, study: str, *, beat_s: float = BEAT_S) -> None:
        self._engine, self._study, self._beat_s = engine, study, beat_s
        self._stale_s = STALE_S * beat_s / BEAT_S

    @answered
    def take(self, holder: LockHolder) -> LockHolder | None:
        """Make the row this holder's; the former one when it was taken over from one that died.

        Raises:
            InputError: its holder lives.
            EnvironmentFault: the server does not answer.
        """
        self._make_table()
        former = self._try(holder, unchanged_since=None)
        if former is None or is_dead_here(former[0]):
            return former[0] if former else None
        time.sleep(2 * self._beat_s)
        again = self._try(holder, unchanged_since=former[1])
        return again[0] if again else None

    def free(self, holder: LockHolder) -> None:
        """Give the row back; one that somebody else has stays."""
        try:
            with self._engine.begin() as connection:
                connection.execute(delete(TABLE).where(self._mine(holder)))
                connection.execute(delete(REQUESTS).where(self._asked(holder)))
        except UNANSWERED as error:
            logger.warning("the study's lock stays in the ledger for %.0f s: %s", self._stale_s, type(error).__name__)

    def beat(self, held: Held) -> None:
        """Give a sign of life, or learn that somebody else has the row or asks to stop.

        Raises what the driver of the database does.
        """
        with self._engine.begin() as connection:
            if connection.execute(
                update(TABLE).where(self._mine(held.holder)).values(beat=func.clock_timestamp())
            ).rowcount:
                if connection.scalar(select(REQUESTS.c.owner).where(self._asked(held.holder))):
                    held.ask_to_stop()
                return
            found = self._read(connection)
            if found is not None:
                held.lose(found[0])
            else:  # the table was emptied, or the server lost its last seconds
                self._put(connection, held.holder)

    @answered
    def ask_to_stop(self, holder: LockHolder) -> None:
        """Ask a holder of the row to save and stop.

        Raises:
            EnvironmentFault: the server does not answer.
        """
        self._make_table()
        request = insert(REQUESTS).values(study=self._study, owner=holder.owner)
        with self._engine.begin() as connection:
            connection.execute(
                request.on_conflict_do_update(index_elements=[REQUESTS.c.study], set_={"owner": holder.owner})
            )

    def holder(self) -> LockHolder | None:
        """Who drives the study now; None when nobody does or the server does not tell."""
        try:
            with self._engine.connect() as connection:
                found = self._read(connection)
        except UNANSWERED:  # no such table yet, or no server
            return None
        return found[0] if found and found[2] < self._stale_s and not is_dead_here(found[0]) else None

    def _try(self, holder: LockHolder, *, unchanged_since: datetime | None) -> tuple[LockHolder, datetime] | None:
        """Take the row when it is free, dead, or stale and unchanged.

        Returns None when it was free; else the former holder with its last sign of life, taken over unless it is
        stale for the first time.
        """
        with self._engine.begin() as connection:
            found = self._read(connection, lock=True)
            if found is None or found[0].owner == holder.owner:
                if found is None and not self._put(connection, holder):
                    found = self._read(connection, lock=True)
                    assert found is not None  # noqa: S101 - it was in the way
                    raise busy(self._study, found[0], age_s=found[2])
                return None
            former, beat, age = found
            is_dead = is_dead_here(former)
            if age < self._stale_s and not is_dead and beat != unchanged_since:
                raise busy(self._study, former, age_s=age)
            if is_dead or beat == unchanged_since:
                connection.execute(update(TABLE).where(TABLE.c.study == self._study).values(self._values(holder)))
            return former, beat

    def _read(self, connection: Connection, *, lock: bool = False) -> tuple[LockHolder, datetime, float] | None:
        """Holder, last sign of life and its age in seconds."""
        age = func.extract("epoch", func.clock_timestamp() - TABLE.c.beat).label("age")
        query = select(TABLE, age).where(TABLE.c.study == self._study)
        row = connection.execute(query.with_for_update() if lock else query).first()
        if row is None:
            return None
        holder = LockHolder(pid=row.pid, host=row.host, since=row.since, place=row.place, owner=row.owner)
        return holder, row.beat, float(row.age)

    def _put(self, connection: Connection, holder: LockHolder) -> bool:
        values = {"study": self._study} | self._values(holder)
        done = connection.execute(insert(TABLE).values(values).on_conflict_do_nothing())
        return bool(done.rowcount)

    def _values(self, holder: LockHolder) -> dict[str, Any]:
        return {
            "owner": holder.owner,
            "pid": holder.pid,
            "host": holder.host,
            "place": holder.place,
            "since": holder.since,
            "beat": func.clock_timestamp(),
        }

    def _mine(self, holder: LockHolder) -> Any:
        return (TABLE.c.study == self._study) & (TABLE.c.owner == holder.owner)

    def _asked(self, holder: LockHolder) -> Any:
        return (REQUESTS.c.study == self._study) & (REQUESTS.c.owner == holder.owner)

    def _make_table(self) -> None:
        try:
            TABLE.metadata.create_all(self._engine, checkfirst=True)
        except DBAPIError:
            # Two drivers that begin at once both find no table; only if it is still missing, something is wrong.
            TABLE.metadata.create_all(self._engine, checkfirst=True)
