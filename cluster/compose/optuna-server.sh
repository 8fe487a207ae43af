#!/usr/bin/env bash
# The Optuna dashboard on the ledger in PostgreSQL. Its own program takes the address as an argument, which a list of
# processes would show with the password; so it is started from Python.
set -euo pipefail
exec python - <<'PYTHON'
import os
from pathlib import Path

from optuna.storages import RDBStorage
from optuna_dashboard import run_server

password = (Path(os.environ.get("SECRETS_DIR", "/run/secrets")) / "postgres_password").read_text()
address = os.environ.get("POSTGRES_ADDRESS", "postgres:5432")
storage = RDBStorage(f"postgresql+pg8000://study:{password}@{address}/study", engine_kwargs={"pool_pre_ping": True})
run_server(storage, host=os.environ.get("DASHBOARD_HOST", "0.0.0.0"), port=int(os.environ.get("DASHBOARD_PORT", "8080")))
PYTHON
