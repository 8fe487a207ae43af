#!/usr/bin/env bash
# Makes the passwords of compose.yaml as files that only you can read, and the file .env that tells it who you are.
# Existing files stay as they are. Run it once:  cluster/compose/secrets.sh
set -euo pipefail
umask 077
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
folder="$here/secrets"
mkdir -p "$folder"
chmod 700 "$folder"

keep_or_make() {  # NAME TEXT
  if [[ -s "$folder/$1" ]]; then
    echo "kept  $folder/$1"
  else
    printf '%s' "$2" > "$folder/$1"
    echo "made  $folder/$1"
  fi
}

random() {  # BYTES; hexadecimal, so that it needs no quoting in a URL
  od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'
}

keep_or_make postgres_password "$(random 24)"
keep_or_make mlflow_admin_password "$(random 24)"
keep_or_make mlflow_session_key "$(random 32)"
keep_or_make s3_access_key "$(random 10)"
keep_or_make s3_secret_key "$(random 24)"
access="$(cat "$folder/s3_access_key")"
secret="$(cat "$folder/s3_secret_key")"
actions='["Admin", "Read", "Write", "List", "Tagging"]'
credentials="[{\"accessKey\": \"$access\", \"secretKey\": \"$secret\"}]"
keep_or_make s3_identities.json "{\"identities\": [{\"name\": \"study\", \"credentials\": $credentials, \"actions\": $actions}]}"
printf 'STUDY_UID=%s\nSTUDY_GID=%s\n' "$(id -u)" "$(id -g)" > "$here/../.env"
