"""Studies whose files lie in a store (`s3://`, `gs://`): local copies, and how they and the store are kept alike.

All code above works on plain directories. A directory below a *copy* of a store (`places`) belongs to it: a run's
folder goes there as one snapshot (`snapshots`), in the background (`outgoing`); the study's own files go one by one
(`files`). For any other directory every function here does nothing.
"""

from study.remote.files import FilesMirror, bring_file, bring_study, has_file, probe, push_file, study_names_in
from study.remote.outgoing import adopt, bring, bring_all, claim, forget, send, settle
from study.remote.places import at_work, check_store, copy_root, is_copy, root_of, shown_place
from study.remote.snapshots import StaleAttempt

__all__ = [
    "FilesMirror",
    "StaleAttempt",
    "adopt",
    "at_work",
    "bring",
    "bring_all",
    "bring_file",
    "bring_study",
    "check_store",
    "claim",
    "copy_root",
    "forget",
    "has_file",
    "is_copy",
    "probe",
    "push_file",
    "root_of",
    "send",
    "settle",
    "shown_place",
    "study_names_in",
]
