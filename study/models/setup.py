"""What every network is built from besides its own parameters."""

from dataclasses import dataclass

from study.errors import InputError
from study.models.heads import MakeHead


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every network is built from; see ``study.models.make_model`` for the meaning.

    Raises:
        InputError: a number that makes no network.
    """

    num_outputs: int
    in_channels: int = 1
    pretrained: bool | str = False
    drop_rate: float = 0.0
    image_hw: tuple[int, int] | None = None
    make_head: MakeHead | None = None

    def __post_init__(self) -> None:
        if self.num_outputs < 1 or self.in_channels < 1:
            raise InputError(
                f"num_outputs is {self.num_outputs} and in_channels is {self.in_channels}; expected at least 1 each",
                "take num_outputs from the criterion",
            )
        if not 0 <= self.drop_rate < 1:
            raise InputError(
                f"model.drop_rate is {self.drop_rate}; expected a number >= 0 and < 1", "change model.drop_rate"
            )
