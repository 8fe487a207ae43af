"""A storage for looking at a ledger file: Optuna's own without what makes and migrates tables.

That part imports alembic and its templates, a quarter of a second of one core, which is more than the answer takes.
"""

from types import SimpleNamespace
from typing import Any, Final

from optuna.storages import RDBStorage
from sqlalchemy import create_engine
from sqlalchemy.orm import scoped_session, sessionmaker

REVISION: Final = "v3.2.0.a"  # of the tables that the releases of Optuna make which this was written for


class _Looking(RDBStorage):
    """Optuna's storage on tables that are known to fit."""

    def __init__(self, url: str, engine: Any) -> None:
        # What `RDBStorage.__init__` sets, but for its manager of versions.
        self.url, self.engine, self.engine_kwargs = url, engine, {}
        self.skip_compatibility_check = True
        self.heartbeat_interval = self.grace_period = None
        self.heartbeat_stale_trial_callback = self.failed_trial_callback = None
        self.scoped_session = scoped_session(sessionmaker(bind=engine))
        self._version_manager: Any = SimpleNamespace(url=url)


def looked_at(url: str, options: dict[str, Any]) -> RDBStorage | None:
    """The storage in an SQLite file, opened without a write; None when its tables are of another release of Optuna."""
    engine = create_engine(url, **options)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1 FROM version_info").first()
        tables = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first()
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first() if tables else None
    if found is None or found[0] != REVISION:
        engine.dispose()
        return None
    return _Looking(url, engine)
