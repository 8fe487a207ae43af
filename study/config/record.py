"""The base of all records of the study file."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all records: frozen, strict about types, closed to unknown keys, no NaN and no infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )
