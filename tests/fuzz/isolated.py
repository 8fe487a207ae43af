"""Judging many inputs in a process that may die: forked, limited in memory and time, replaced when it is gone.

An input is a function of (seed, number), so that any of them can be made again alone.
"""

import faulthandler
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LIMIT_S = 10.0  # processor time of one input; waiting for a busy machine is not its fault
WALL_S = 120.0
GROWTH = 2**30  # bytes of memory that one input may add
ROOM = 3 * GROWTH  # bytes of address space before an allocation fails: more than GROWTH, so that growth is seen
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is fuzzed.

    ``make`` writes input number n into an empty folder; ``judge`` reads it and gives "accepted" or the reason it was
    refused for, and raises whatever ought not to happen.
    """

    name: str
    make: Callable[[random.Random, Path], None]
    judge: Callable[[random.Random, Path], str]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one input; ``fault`` is empty where all is well."""

    number: int
    reason: str = ""
    fault: str = ""
    seconds: float = 0.0
    growth: int = 0


@dataclass(kw_only=True)
class Outcome:
    """What became of all inputs."""

    target: str
    seed: int
    answers: list[Answer] = field(default_factory=list)
    wall_s: float = 0.0
    saved: dict[int, Path] = field(default_factory=dict)

    @property
    def faults(self) -> list[Answer]:
        """Inputs that crashed, hung, grew, printed, or raised what nobody expects."""
        return [answer for answer in self.answers if answer.fault]

    def table(self, *, rows: int = 14) -> str:
        """Counts by reason, the slowest and the largest input, and every fault."""
        count = len(self.answers)
        lines = [f"{self.target}: {count:,} inputs, seed {self.seed}, {self.wall_s:.0f} s"]
        reasons = Counter(plain(answer.reason) for answer in self.answers if not answer.fault)
        accepted = reasons.pop("accepted", 0)
        lines.append(f"  {accepted:>7,}  accepted")
        lines += [f"  {number:>7,}  {reason[:100]}" for reason, number in reasons.most_common(rows)]
        rest = reasons.most_common()[rows:]
        if rest:
            lines.append(f"  {sum(number for _, number in rest):>7,}  {len(rest)} other reasons")
        lines.append(f"  {len(self.faults):>7,}  faults")
        slowest = max(self.answers, key=lambda answer: answer.seconds)
        largest = max(self.answers, key=lambda answer: answer.growth)
        lines.append(f"  slowest {slowest.seconds:.2f} s (input {slowest.number}), ")
        lines[-1] += f"most memory {largest.growth / MIB:.0f} MiB (input {largest.number})"
        lines += [
            f"  fault of input {each.number}: {each.fault} {self.saved.get(each.number, '')}" for each in self.faults
        ]
        return "\n".join(lines)


def plain(reason: str) -> str:
    """A reason without its numbers and quoted words, so that equal ones are counted together."""
    return re.sub(r"\d[\d.,]*", "N", re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", reason))


def examine(target: Target, numbers: Sequence[int], *, seed: int = 0, keep: Path | None = None) -> Outcome:
    """Judge inputs one after another in a forked process; inputs with faults are kept in ``keep``."""
    outcome = Outcome(target=target.name, seed=seed)
    keep = keep or Path(tempfile.gettempdir()) / "study-fuzz"
    begin, left = time.monotonic(), list(numbers)
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_quick_folder()) as scratch:
        while left:
            done = _one_process(target, left, seed=seed, scratch=Path(scratch))
            outcome.answers += done
            left = left[len(done) :]
            for answer in done:
                if answer.fault:
                    outcome.saved[answer.number] = _save(target, answer, seed=seed, keep=keep)
    outcome.wall_s = time.monotonic() - begin
    return outcome


def generator(seed: int, number: int) -> random.Random:
    """The random numbers of one input."""
    return random.Random(f"{seed}/{number}")


def _quick_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _save(target: Target, answer: Answer, *, seed: int, keep: Path) -> Path:
    folder = keep / f"{target.name}-{seed}-{answer.number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    target.make(generator(seed, answer.number), folder)
    (folder / "fault.txt").write_text(answer.fault + "\n")
    return folder


def _one_process(target: Target, numbers: Sequence[int], *, seed: int, scratch: Path) -> list[Answer]:
    """Answers in order, up to the input with which the process ended."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    sys.stdout.flush()
    process = context.Process(target=_work, args=(target, numbers, seed, scratch, theirs), daemon=True)
    process.start()
    theirs.close()
    answers: list[Answer] = []
    try:
        while len(answers) < len(numbers):
            number = numbers[len(answers)]
            ending = _wait(ours, process.pid or 0)
            if ending:
                process.kill()
                answers.append(Answer(number=number, fault=ending, seconds=LIMIT_S))
                break
            try:
                answers.append(ours.recv())
            except EOFError:
                process.join()
                text = f"the process died (exit code {process.exitcode})"
                answers.append(Answer(number=number, fault=text))
                break
    finally:
        process.join()
        ours.close()
    return answers


def _wait(pipe: object, pid: int) -> str:
    """Wait for the next answer; a text if there is none in time."""
    begin, cpu = time.monotonic(), _cpu_s(pid)
    while not pipe.poll(0.5):  # type: ignore[attr-defined]
        if _cpu_s(pid) - cpu > LIMIT_S:
            return f"no answer within {LIMIT_S:.0f} s of processor time"
        if time.monotonic() - begin > WALL_S:
            return f"no answer within {WALL_S:.0f} s"
    return ""


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _work(target: Target, numbers: Sequence[int], seed: int, scratch: Path, pipe: object) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + ROOM,) * 2)
    printed = scratch / "printed"
    output = os.open(printed, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    for number in numbers:
        folder = scratch / "input"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        rng = generator(seed, number)
        target.make(rng, folder)
        pipe.send(_judged(target, rng, folder=folder, number=number, printed=output))  # type: ignore[attr-defined]
    pipe.close()  # type: ignore[attr-defined]
    os._exit(0)  # without the parent's exit handlers


def _judged(target: Target, rng: random.Random, *, folder: Path, number: int, printed: int) -> Answer:
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark of memory starts anew
    before, begin, reason, fault = _status("VmRSS"), time.process_time(), "", ""
    try:
        reason = target.judge(rng, folder)
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        fault = f"{type(error).__name__} in {where}: {str(error)[:200]}"
    seconds, growth = time.process_time() - begin, _status("VmHWM") - before
    sys.stdout.flush()
    sys.stderr.flush()
    size = os.lseek(printed, 0, os.SEEK_END)
    if size and not fault:
        fault = f"printed {os.pread(printed, 200, 0)!r}"
    os.ftruncate(printed, 0)
    os.lseek(printed, 0, os.SEEK_SET)
    if seconds > LIMIT_S:
        fault = fault or f"took {seconds:.1f} s"
    if growth > GROWTH:
        fault = fault or f"memory grew by {growth / MIB:.0f} MiB"
    return Answer(number=number, reason=reason, fault=fault, seconds=seconds, growth=max(growth, 0))


def _status(name: str) -> int:
    """A field of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
