"""What a run takes of a cluster, and a study of one that it shares."""

from typing import Annotated, Self

from pydantic import Field

from study.config.fields import Concurrent, NotNegative, Positive, Span, Workers
from study.config.record import Section


class ResourcesConfig(Section):
    """Per run: workers (ranks), GPUs and CPUs of each; ``concurrent`` runs side by side, auto fills the cluster.

    ``workers: [1, 4]`` takes what the cluster has room for; what a batch holds, and what is normalised together, is
    always as with four. Studies that meet on a cluster share it by their ``priority``.
    ``wait`` (``90 seconds``, ``10 minutes``, ``2 hours``) is how long a study that has no room for any run waits.
    """

    workers: Workers = 1
    gpus_per_worker: NotNegative = 0.0
    cpus_per_worker: Positive = 1.0
    concurrent: Concurrent = "auto"
    priority: Annotated[float, Field(gt=0, le=1000)] = 1.0
    wait: Span = "10 minutes"

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many workers a run may have, the fewest first: each number divides the largest."""
        fewest, most = (self.workers, self.workers) if isinstance(self.workers, int) else self.workers
        return tuple(size for size in range(fewest, most + 1) if most % size == 0)

    @property
    def most_workers(self) -> int:
        """The most workers of a run, among which a batch is cut whether they are there or not."""
        return self.sizes[-1]

    @property
    def most_gpus(self) -> float:
        """GPUs of a run with all its workers."""
        return self.most_workers * self.gpus_per_worker

    def sized(self, workers: int) -> Self:
        """The same with so many workers, no more and no fewer."""
        return self.model_copy(update={"workers": workers})
