#!/bin/sh
# The image of PostgreSQL runs this once, on an empty volume: a database each for the ledger, MLflow and its users.
set -eu
for name in mlflow mlflow_users; do
  psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" -v ON_ERROR_STOP=1 --command "CREATE DATABASE $name OWNER $POSTGRES_USER"
done
