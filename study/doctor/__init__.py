"""Is everything here that a study needs? Each finding comes with its fix."""

import os
from collections.abc import Sequence
from pathlib import Path

from study.doctor.finding import Finding, exit_code, findings_table
from study.doctor.licences import Licence, licences, licences_exit_code, licences_table
from study.doctor.machine import (
    check_cores,
    check_decoders,
    check_disk,
    check_packages,
    check_python,
    check_shared_memory,
)
from study.doctor.services import check_ledger, check_libraries, check_mlflow_uri, check_ray_address, check_store
from study.doctor.studyfile import check_file

__all__ = [
    "Finding",
    "Licence",
    "examine",
    "exit_code",
    "findings_table",
    "licences",
    "licences_exit_code",
    "licences_table",
]


def examine(
    *, storage: Path, file: Path | None = None, overrides: Sequence[str] = (), scale: str | None = None
) -> list[Finding]:
    """All checks, in the order in which they are best read; nothing is changed, nothing is started.

    ``storage`` is where studies live; ``file`` a study file, at a ``scale`` of it, checked with its data and against
    this machine. Addresses come from ``RAY_ADDRESS``, ``STUDY_LEDGER_URL`` and ``MLFLOW_TRACKING_URI``.
    """
    cluster = check_ray_address(os.environ.get("RAY_ADDRESS"))
    services = [
        cluster,
        check_store(storage),
        check_ledger(os.environ.get("STUDY_LEDGER_URL"), storage),
        check_mlflow_uri(os.environ.get("MLFLOW_TRACKING_URI")),
    ]
    machine = [
        check_python(),
        check_packages(),
        *check_decoders(),
        check_cores(),
        check_shared_memory(),
        check_disk(storage),
    ]
    findings = [*machine, *check_libraries(), *(finding for finding in services if finding is not None)]
    if file is not None:
        is_cluster_up = cluster is None or cluster.state == "ok"
        findings += check_file(file, overrides, scale=scale, is_cluster_up=is_cluster_up, storage=storage)
    return findings
