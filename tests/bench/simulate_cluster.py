"""A search on 16 to 1,024 GPUs: hours, bytes, object store, driver and cost, by a simulation of discrete events.

    .venv/bin/python -m tests.bench.simulate_cluster [--price 3.0] [--figure docs/at-scale.png]
    .venv/bin/python -m tests.bench.simulate_cluster --validate     (a pilot and a real study on this machine: minutes)

What happens when is simulated: trials that are suggested, started, reported, pruned and followed by others, one driver
that does all of that in turn, and nodes that fetch the dataset at first use. How long each thing takes is a table of
constants (`COSTS`), each with where it was measured or why it was assumed. Not simulated: failures, other users,
stragglers. A heap of events is all it needs (no simpy: it would be a dependency for 40 lines).
"""

import argparse
import heapq
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal, NamedTuple

MIB, GB, TB = 2.0**20, 1e9, 1e12


class Cost(NamedTuple):
    """A number of the simulation: value, unit, and where it comes from."""

    value: float
    unit: str
    origin: str


COSTS: Final[Mapping[str, Cost]] = {
    "gpu_images_per_s": Cost(195, "images/s", "H200: 778 at 512 px (docs/training.md); a quarter at 1024 px: assumed"),
    "validation_speed": Cost(3.0, "times training", "a forward pass alone: assumed"),
    "ddp_share": Cost(0.97, "of linear", "7.75 of 8 GPUs, EfficientNet-B4 (NVIDIA's DeepLearningExamples): quoted"),
    "load_ms": Cost(5.2, "ms of a core/image", "1/230 s of augmenting (docs/pictures.md), 0.59 ms of zstd, and "
                    "20 ms of Ray for a block of 64 images (docs/stream.md)"),
    "trial_start_s": Cost(0.3, "s", "first batch in a warm process (docs/stream.md)"),
    "compile_s": Cost(5.7, "s/trial", "with the cache of another run (docs/training.md)"),
    "slot_start_s": Cost(7.3, "s", "a TorchTrainer until its loop begins (README.md)"),
    "suggest_0_ms": Cost(11.7, "ms", "docs/ledger.md: 19.9 ms after 100 trials, 93.5 after 1,000"),
    "suggest_n_ms": Cost(0.082, "ms/trial before", "the same"),
    "report_ms": Cost(14.0, "ms/epoch", "7 to keep, 7 to prune: processor time on SQLite after 60 to 250 trials "
                      "(bench_driver.py)"),
    "finish_ms": Cost(6.6, "ms/trial", "the same"),
    "tell_ms": Cost(2.3, "ms/epoch", "Ray: at most 500 results/s (Tune's page on scalability); journal and "
                    "events.jsonl 0.3 ms (docs/events.md)"),
    "follower_mb": Cost(534, "MB/slot", "their shares of memory: SlotController 288, SynchronizationActor 117, "
                        "ResourceTrainable 129 (/proc/*/smaps_rollup in a study)"),
    "start_cpu_s": Cost(7.0, "s of a core/slot", "processor time of a SlotController until its workers run"),
    "checkpoint_mb": Cost(129, "MB", "EfficientNet-B3 with AdamW (bench_driver.py --checkpoint)"),
    "checkpoint_mb_per_s": Cost(200, "MB/s", "the same, on a virtual disk"),
    "shared_gb_per_s": Cost(10.0, "GB/s in all", "a parallel file system or a store in its region: assumed"),
    "node_gb_per_s": Cost(2.0, "GB/s/node", "its network, beside its other work: assumed"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The study and the cluster; the defaults are EMBED at 1024 px with EfficientNet-B3, one GPU a run."""

    gpus: int = 64
    gpus_per_node: int = 8
    cores_per_gpu: float = 12.0
    driver_cores: float = 16.0
    workers: int = 1
    trials: int = 1000
    epochs: int = 30
    min_epochs: int = 3
    reduction_factor: int = 3
    is_pruned: bool = True
    is_drawn: bool = False  # whether a rung stops a share of the trials by lot, whatever the others did
    train_images: int = 180_000
    val_images: int = 60_000
    stored_bytes: float = 90e9 / 300_000
    frame_bytes: float = 1024.0**2
    cache: Literal["node", "shared"] = "node"
    confirm_runs: int = 9
    most_slots: int = 1000
    price: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"gpus": 1, "gpus_per_node": 1, "workers": 1, "trials": 1, "epochs": 1, "most_slots": 1, "price": 0}
        for name, low in least.items():
            if not low <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {low} or more")
        if self.gpus < self.workers:
            raise ValueError(f"a run takes {self.workers} GPUs; there are {self.gpus}")

    @property
    def slots(self) -> int:
        """Runs side by side: as many as fit, and as `sizes.MOST_SLOTS` allows."""
        return max(1, min(self.gpus // self.workers, self.most_slots, self.trials))

    @property
    def nodes(self) -> int:
        """Machines in use."""
        return math.ceil(self.slots * self.workers / self.gpus_per_node)


@dataclass(kw_only=True)
class Answer:
    """What a search and its confirmation take. ``load`` is the share of time in which the driver is busy."""

    hours: float = 0.0
    search_hours: float = 0.0
    gpu_hours: float = 0.0
    busy_share: float = 0.0
    cost: float = 0.0
    epochs: int = 0
    full_trials: int = 0
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    store_gib_per_node: float = 0.0
    driver_gib: float = 0.0
    load: float = 0.0
    longest_wait_s: float = 0.0
    busiest_minute: float = 0.0


class Driver:
    """One thread that does one thing after the other, in the order in which they come."""

    def __init__(self) -> None:
        self.free_at = self.busy_s = self.longest_wait_s = 0.0
        self.by_minute: dict[int, float] = defaultdict(float)

    def serve(self, now: float, seconds: float) -> float:
        """When it is done with something that came now."""
        began = max(now, self.free_at)
        self.longest_wait_s = max(self.longest_wait_s, began - now)
        self.free_at, self.busy_s = began + seconds, self.busy_s + seconds
        self.by_minute[int(began // 60)] += seconds
        return self.free_at


class Simulation:
    """A search of one plan, with the values of the constants."""

    def __init__(self, plan: Plan, costs: Mapping[str, float]) -> None:
        self.plan, self.costs, self.driver, self.answer = plan, costs, Driver(), Answer()
        self._rungs: dict[int, list[float]] = defaultdict(list)
        self._events: list[tuple[float, int, Iterator[float]]] = []
        self._fetched: dict[int, float] = {}
        self._asked, self._number, self._training, self._train_s = 0, 0, 0, 0.0

    def run(self) -> Answer:
        """The answer."""
        plan, answer = self.plan, self.answer
        for slot in range(plan.slots):
            turn = (slot + 1) * self.costs["start_cpu_s"] / plan.driver_cores
            self._push(max(self.costs["slot_start_s"], turn), self._slot(slot))
        ended = self._go_on()
        answer.search_hours = ended / 3600
        self._asked = 0
        for slot in range(plan.slots):
            self._push(ended, self._confirm(slot))
        ended = self._go_on(ended)
        answer.hours = ended / 3600
        answer.gpu_hours = answer.hours * plan.slots * plan.workers
        answer.cost = answer.gpu_hours * plan.price
        answer.busy_share = self._train_s / (ended * plan.slots)
        answer.load, answer.longest_wait_s = self.driver.busy_s / ended, self.driver.longest_wait_s
        answer.busiest_minute = max(self.driver.by_minute.values(), default=0.0) / 60
        answer.store_gib_per_node = self._store_bytes() / 2**30
        answer.driver_gib = plan.slots * self.costs["follower_mb"] * 1e6 / 2**30
        if plan.cache == "node":
            answer.read_bytes = len(self._fetched) * self._images() * plan.stored_bytes
        return answer

    def _push(self, at: float, process: Iterator[float]) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, process))

    def _go_on(self, ended: float = 0.0) -> float:
        """Let things happen until nothing is left; when the last one did. A process yields when it wants to go on."""
        while self._events:
            self.now, _, process = heapq.heappop(self._events)
            ended = max(ended, self.now)
            at = next(process, None)
            if at is not None:
                self._push(at, process)
        return ended

    def _slot(self, slot: int) -> Iterator[float]:
        """Trial after trial, as the study hands them out; the last moment of one is the first of the next."""
        plan, costs = self.plan, self.costs
        while self._asked < plan.trials:
            self._asked += 1
            ask_s = (costs["suggest_0_ms"] + costs["suggest_n_ms"] * self._asked) / 1000
            yield self.driver.serve(self.now, ask_s)
            # A trial is as good as its number says, so that plans differ in nothing but what is asked.
            luck = random.Random(1_000_003 * plan.seed + self._asked)
            skill = luck.gauss(0.0, 1.0)
            yield self.now + costs["trial_start_s"] + costs["compile_s"]
            for epoch in range(1, plan.epochs + 1):
                yield from self._epoch(slot)
                yield self.driver.serve(self.now, (costs["report_ms"] + costs["tell_ms"]) / 1000)
                if self._stops(epoch, skill + luck.gauss(0.0, 1.0) / epoch, chance=luck.random()):
                    break
            else:
                self.answer.full_trials += 1
            yield self.driver.serve(self.now, costs["finish_ms"] / 1000)

    def _confirm(self, slot: int) -> Iterator[float]:
        while self._asked < self.plan.confirm_runs:
            self._asked += 1
            for _ in range(self.plan.epochs):
                yield from self._epoch(slot)

    def _epoch(self, slot: int) -> Iterator[float]:
        """Train, validate, save; the first one on a node also fetches the dataset."""
        plan, costs = self.plan, self.costs
        self._training += 1
        rate = self._rate()
        seconds = (plan.train_images + plan.val_images / costs["validation_speed"]) / rate
        began = self.now
        until = began + seconds
        if plan.cache == "node":
            until = max(until, self._fetch(slot * plan.workers // plan.gpus_per_node))
        else:
            self.answer.read_bytes += self._images() * plan.stored_bytes
        until += costs["checkpoint_mb"] / costs["checkpoint_mb_per_s"]
        yield until
        self._training -= 1
        self._train_s += self.now - began
        self.answer.epochs += 1
        self.answer.written_bytes += costs["checkpoint_mb"] * 1e6

    def _rate(self) -> float:
        """Images a second of one run: what its GPUs train, its cores load, and the shared storage hands out."""
        plan, costs = self.plan, self.costs
        rate = plan.workers * min(costs["gpu_images_per_s"], 1000 * plan.cores_per_gpu / costs["load_ms"])
        rate *= costs["ddp_share"] if plan.workers > 1 else 1.0
        if plan.cache == "shared":
            runs_on_node = max(1, plan.gpus_per_node // plan.workers)
            share = min(
                costs["shared_gb_per_s"] / self._training, costs["node_gb_per_s"] / min(runs_on_node, self._training)
            )
            rate = min(rate, share * GB / plan.stored_bytes)
        return rate

    def _fetch(self, node: int) -> float:
        """When a node has the whole dataset: all of them begin at once and share the storage."""
        if node not in self._fetched:
            speed = min(self.costs["node_gb_per_s"], self.costs["shared_gb_per_s"] / self.plan.nodes) * GB
            self._fetched[node] = self.now + self._images() * self.plan.stored_bytes / speed
        return self._fetched[node]

    def _images(self) -> int:
        return self.plan.train_images + self.plan.val_images

    def _stops(self, epoch: int, value: float, *, chance: float = 0.0) -> bool:
        """Successive halving, as `study.ledger.pruning` decides it, or by ``chance`` where the plan says so."""
        plan, rung = self.plan, self.plan.min_epochs
        if not plan.is_pruned or epoch >= plan.epochs:
            return False
        while rung < epoch:
            rung *= plan.reduction_factor
        if rung != epoch:
            return False
        if plan.is_drawn:
            return chance >= 1 / plan.reduction_factor
        self._rungs[rung].append(value)
        values = sorted(self._rungs[rung], reverse=True)
        return value < values[max(1, len(values) // plan.reduction_factor) - 1]

    def _store_bytes(self) -> float:
        """Ray's object store on a full node: 32 blocks of 64 MiB a rank in a large cluster, two more handed out."""
        plan = self.plan
        block = min(64 * MIB // plan.frame_bytes, 1024) * plan.frame_bytes
        tasks = math.ceil(plan.gpus * plan.cores_per_gpu / 0.5 / plan.workers)
        ranks = min(plan.gpus_per_node, plan.slots * plan.workers)
        return ranks * (min(2 + tasks, 32) + 2) * block


def values(**changes: float) -> dict[str, float]:
    """The constants' values, some of them others."""
    return {name: cost.value for name, cost in COSTS.items()} | changes


def simulate(plan: Plan, **changes: float) -> Answer:
    """The answer for a plan."""
    return Simulation(plan, values(**changes)).run()


def averaged(plan: Plan, *, seeds: int = 5) -> Answer:
    """The mean answer over some seeds: who is stopped, and so which trial is the last, is a matter of luck."""
    answers = [simulate(replace(plan, seed=seed)) for seed in range(seeds)]
    means = {each.name: fmean(getattr(answer, each.name) for answer in answers) for each in fields(Answer)}
    return Answer(**{name: round(mean) if name in ("epochs", "full_trials") else mean for name, mean in means.items()})


def sensitivity(plan: Plan) -> list[tuple[str, float, float]]:
    """Hours with half and with twice of each constant, by how much they part; assumptions of the plan among them.

    Trials are stopped by lot: in a real halving a millisecond decides which of two is first, and so which goes on.
    """
    plan = replace(plan, is_drawn=True)
    found = [(name, simulate(plan, **{name: c.value / 2}).hours, simulate(plan, **{name: c.value * 2}).hours)
             for name, c in COSTS.items()]  # fmt: skip
    for name in ("cores_per_gpu", "driver_cores", "train_images", "stored_bytes", "epochs"):
        value: Any = getattr(plan, name)
        low, high = (simulate(replace(plan, **{name: type(value)(value * f)})).hours for f in (0.5, 2))
        found.append((name, low, high))
    return sorted(found, key=lambda row: -abs(row[2] - row[1]))


SIZES: Final = (16, 32, 64, 128, 256, 512, 1024)


def table(rows: Mapping[int, Answer]) -> str:
    """A line for each number of GPUs, in Markdown."""
    columns: dict[str, Callable[[Answer], str]] = {
        "hours": lambda a: f"{a.hours:,.1f}",
        "search": lambda a: f"{a.search_hours:,.1f}",
        "GPU hours": lambda a: f"{a.gpu_hours:,.0f}",
        "cost": lambda a: f"{a.cost:,.0f}",
        "in use": lambda a: f"{a.busy_share:.0%}",
        "epochs": lambda a: f"{a.epochs:,}",
        "read": lambda a: f"{a.read_bytes / TB:,.1f} TB",
        "store/node": lambda a: f"{a.store_gib_per_node:.0f} GiB",
        "driver's node": lambda a: f"{a.driver_gib:,.0f} GiB",
        "driver busy": lambda a: f"{a.load:.2%}",
        "busiest minute": lambda a: f"{a.busiest_minute:.0%}",
        "longest wait": lambda a: f"{a.longest_wait_s:.1f} s",
    }
    lines = [f"| GPUs | {' | '.join(columns)} |", f"|{'---|' * (1 + len(columns))}"]
    for gpus, answer in rows.items():
        lines.append(f"| {gpus:,} | {' | '.join(cell(answer) for cell in columns.values())} |")
    return "\n".join(lines)


def figure(cases: Mapping[str, Mapping[int, Answer]], tornado: list[tuple[str, float, float]], path: Path) -> None:
    """Hours over GPUs of several cases, and the tornado."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(12, 4.6), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(drawn)
    left, right = drawn.subplots(1, 2)
    for (name, rows), colour in zip(cases.items(), ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=False):
        left.loglog(list(rows), [answer.hours for answer in rows.values()], marker="o", color=colour, label=name)
    left.set(xlabel="GPUs", ylabel="hours until confirmed", title="1,000 trials, EMBED at 1024 px (simulated)")
    left.set_xticks(SIZES, [str(size) for size in SIZES])
    left.grid(color="#E6E6E6", which="both")
    left.legend(frameon=False, fontsize=8)
    shown = [row for row in tornado if abs(row[2] - row[1]) > 0.005 * row[1]][:10]
    for place, (_, low, high) in enumerate(reversed(shown)):
        right.barh(place, high - low, left=low, color="#56B4E9" if high >= low else "#E69F00")
    right.set_yticks(range(len(shown)), [row[0] for row in reversed(shown)])
    right.set(
        xlabel="hours (left end of a blue bar: half, right: twice; orange: the other way)",
        title="what the hours depend on",
    )
    drawn.savefig(path, format="png")


def validate() -> None:
    """A pilot of four trials gives the constants of this machine; then a study of twelve is predicted, and run."""
    from tests.bench.simulate_check import compare

    compare()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--price", type=float, default=Plan.price, help="of a GPU hour")
    parser.add_argument("--at", type=int, default=256, help="GPUs for which the sensitivity is shown")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--validate", action="store_true")
    given = parser.parse_args()
    if given.validate:
        validate()
        return
    try:
        base, asked = Plan(price=given.price), Plan(price=given.price, gpus=given.at)
    except ValueError as error:
        parser.error(str(error))
    kinds: dict[str, Callable[[int], Plan]] = {
        "shards on each node": lambda gpus: replace(base, gpus=gpus),
        "shards on shared storage": lambda gpus: replace(base, gpus=gpus, cache="shared"),
        "8 GPUs a run": lambda gpus: replace(base, gpus=gpus, workers=8),
        "no pruning": lambda gpus: replace(base, gpus=gpus, is_pruned=False),
    }
    cases = {name: {gpus: averaged(make(gpus)) for gpus in SIZES} for name, make in kinds.items()}
    for name, rows in cases.items():
        print(f"\n{name}\n\n{table(rows)}")
    tornado = sensitivity(asked)
    print(f"\nhours at {given.at} GPUs with half and with twice of each constant\n")
    print("| constant | value | half | twice |\n|---|---|---|---|")
    for name, low, high in tornado:
        value = f"{COSTS[name].value:g} {COSTS[name].unit}" if name in COSTS else f"{getattr(base, name):g}"
        print(f"| `{name}` | {value} | {low:.2f} | {high:.2f} |")
    if given.figure:
        figure(cases, tornado, given.figure)


if __name__ == "__main__":
    main()
