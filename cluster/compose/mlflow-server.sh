#!/usr/bin/env bash
# MLflow's server with its sign-in and its artifact proxy. Passwords are read from files and handed on in the
# environment and in a file of mode 600, so that no list of processes shows them.
set -euo pipefail
umask 077
secrets="${SECRETS_DIR:-/run/secrets}"
database="postgresql+pg8000://study:$(cat "$secrets/postgres_password")@${POSTGRES_ADDRESS:-postgres:5432}"

MLFLOW_BACKEND_STORE_URI="$database/mlflow"
MLFLOW_AUTH_ADMIN_USERNAME="admin"
MLFLOW_AUTH_ADMIN_PASSWORD="$(cat "$secrets/mlflow_admin_password")"
MLFLOW_FLASK_SERVER_SECRET_KEY="$(cat "$secrets/mlflow_session_key")"
AWS_ACCESS_KEY_ID="$(cat "$secrets/s3_access_key")"
AWS_SECRET_ACCESS_KEY="$(cat "$secrets/s3_secret_key")"
MLFLOW_AUTH_CONFIG_PATH="$(mktemp)"
export MLFLOW_BACKEND_STORE_URI MLFLOW_AUTH_ADMIN_USERNAME MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY MLFLOW_AUTH_CONFIG_PATH
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = $database/mlflow_users
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI

python - "$MLFLOW_ARTIFACTS_DESTINATION" <<'PYTHON'
"""Make the bucket of the artifacts, when the store has none of that name."""
import sys
from urllib.parse import urlsplit

import boto3

bucket = urlsplit(sys.argv[1]).netloc
client = boto3.client("s3", endpoint_url=__import__("os").environ["MLFLOW_S3_ENDPOINT_URL"])
if bucket not in {each["Name"] for each in client.list_buckets()["Buckets"]}:
    client.create_bucket(Bucket=bucket)
PYTHON

exec mlflow server \
  --app-name basic-auth \
  --serve-artifacts \
  --host "${MLFLOW_HOST:-0.0.0.0}" \
  --port "${MLFLOW_PORT:-5000}" \
  --workers "${MLFLOW_WORKERS:-2}" \
  --allowed-hosts "${MLFLOW_ALLOWED_HOSTS:-localhost,localhost:5000,127.0.0.1,127.0.0.1:5000,mlflow,mlflow:5000}"
