"""Checks of a study file: its own faults, its data, and whether this machine can give what it asks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from study.doctor.finding import Finding
from study.errors import EnvironmentFault, StudyError

if TYPE_CHECKING:
    from study.config import DataConfig, Fault, PartialStudy

FILE_FIX = "correct the study file"
AREA = "file"


def check_file(
    file: Path,
    overrides: Sequence[str] = (),
    *,
    scale: str | None = None,
    is_cluster_up: bool = True,
    storage: Path = Path("studies"),
) -> list[Finding]:
    """Every fault of the file, alone and against the world, and what its data hold; tables are read, pixels never.

    ``storage`` is where a teacher's study would lie. ``is_cluster_up`` false leaves the resources unchecked, since the
    cluster was found not to answer.
    """
    from study.config import check_study_file

    try:
        partial, faults = check_study_file(file, overrides, scale=scale)
    except StudyError as error:
        return [Finding(area=AREA, state="missing", text=error.message, fix=error.fix, is_input=True)]
    findings = [
        _fault_finding(fault) for fault in [*faults, *_world_faults(partial, storage, is_cluster_up=is_cluster_up)]
    ]
    findings += [_fault_finding(fault) for fault in _teacher_faults(partial, storage)]
    findings += [Finding(area=AREA, state="warning", text=warning) for warning in partial.warnings]
    if not findings:
        findings.append(Finding(area=AREA, state="ok", text=f"{file}: no faults"))
    if partial.data is not None and not any(finding.state == "missing" for finding in findings):
        findings.append(_data_finding(partial.data))
    return findings


def _world_faults(partial: "PartialStudy", storage: Path, *, is_cluster_up: bool) -> "list[Fault]":
    from study.config import Fault
    from study.distributed.preflight import check_world
    from study.distributed.sharing import faults_here

    try:
        if is_cluster_up:
            return faults_here(partial, study_dir=storage / (partial.study or ""))
        return check_world(partial, available=None)
    except EnvironmentFault as error:
        return [Fault("resources", error.message)]


def _teacher_faults(partial: "PartialStudy", storage: Path) -> "list[Fault]":
    if partial.pseudo is None:
        return []
    from study.distributed.teacher import teacher_faults

    return teacher_faults(partial.pseudo, partial.config, storage=storage)


def _fault_finding(fault: "Fault") -> Finding:
    text = f"{fault.path}: {fault.message}" if fault.path else fault.message
    return Finding(area=AREA, state="missing", text=text, fix=FILE_FIX, is_input=True)


def _data_finding(data: "DataConfig") -> Finding:
    from study.distributed.preparing import manifest_for

    manifest = manifest_for(data)
    kept = manifest[manifest["drop_reason"].fillna("") == ""]
    patients = kept.groupby("split")["patient_id"].nunique()
    parts = ", ".join(f"{int(patients.get(split, 0))} {split}" for split in ("train", "val", "test"))
    text = f"{len(kept)} images of {int(patients.sum())} patients ({parts}); {len(manifest) - len(kept)} dropped"
    return Finding(area="data", state="ok", text=text)
