"""What has to be known of a network to use it, as plain data; ``model.json`` of an exported folder."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from study.errors import InputError

FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task: its classes in order, and the loss whose outputs become their probabilities.

    ``params`` are those of `study.losses.make_criterion`; ``class_counts`` and ``raw_class_counts`` the numbers of
    training images that it was made with; ``weight`` its factor among several tasks.
    """

    name: str
    classes: tuple[str, ...]
    loss: str
    params: Mapping[str, Any]
    class_counts: tuple[float, ...]
    raw_class_counts: tuple[float, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A network and all around it.

    ``network`` and ``network_params`` are those of `study.models.make_model`, ``drop_rate`` that of training;
    ``image_hw`` is the frame in px; ``tasks`` stand in the order of the outputs, the deciding one first;
    ``reconstruction`` is the factor of a last output that tells the squared error of reconstruction, 0 without one;
    ``preparation`` are the settings that pictures were prepared with; ``precision`` is that of training. ``seen`` says
    what the training images were like: for each property its values with their counts, or the smallest and largest.
    ``origin`` says which run it is, what it was trained on and with which versions, without ids or paths.
    """

    network: str
    drop_rate: float
    network_params: Mapping[str, bool]
    channels: int
    image_hw: tuple[int, int]
    tasks: tuple[TaskRecord, ...]
    reconstruction: float
    preparation: Mapping[str, Any]
    precision: str
    seed: int
    seen: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the task that decides."""
        return self.tasks[0].classes

    def to_plain(self) -> dict[str, Any]:
        """The record as JSON can hold it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], *, name: str) -> Self:
        """The record from what :meth:`to_plain` gave; ``name`` is the file, for the message.

        Raises:
            InputError: it was written in another format, or is damaged.
        """
        if plain.get("format") != FORMAT:
            raise InputError(f"{name} has format {plain.get('format')!r}; expected {FORMAT}", "export the run again")
        try:
            tasks = tuple(TaskRecord(**_with_tuples(task, TASK_TUPLES)) for task in plain["tasks"])
            height, width = plain["image_hw"]
            return cls(**{**plain, "tasks": tasks, "image_hw": (int(height), int(width))})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{name} is damaged ({type(error).__name__})", "export the run again") from error


TASK_TUPLES: Final = ("classes", "class_counts", "raw_class_counts")


def _with_tuples(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: tuple(value) if key in names else value for key, value in fields.items()}
