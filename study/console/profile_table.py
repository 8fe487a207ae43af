"""A profile as a table: where the time of a run's steps goes."""

from typing import Final

from study.console.tables import Column, aligned
from study.training.clock import BESIDE
from study.training.profile import Profile

BAR: Final = 30  # characters of a bar that is all of the time


def profile_text(profile: Profile, *, width: int = 100) -> str:
    """Share, seconds and ms of a step for each part; what the loading tasks do beside it; and what to change."""
    height, across = profile.image_hw
    what = f"{profile.network}, {height} x {across} px, batch {profile.batch_size}, {profile.device} on {profile.node}"
    steps = f"{profile.steps} steps" + (" and the validation of one epoch" if profile.is_epoch else "")
    numbers = [Column(name, right=True) for name in ("share", "ms a step", "s")]
    columns = [Column("where the time goes"), *numbers, Column("")]
    shown = [row for row in profile.rows if row.seconds > 0 or not row.key.startswith(("augment", *BESIDE))]
    cells = [
        [row.name, f"{row.share:.1%}", f"{row.ms_per_step:.2f}", f"{row.seconds:.2f}", "█" * round(BAR * row.share)]
        for row in shown
    ]
    in_all = sum(row.seconds for row in profile.rows)
    total = ["in all", "100.0%", f"{1000 * in_all / max(profile.steps, 1):.2f}", f"{in_all:.2f}", ""]
    speed = f"{steps} in {profile.wall_s:.2f} s, {profile.images_per_second:.1f} images/s in the steps"
    before = f"before: first batch after {profile.first_batch_s:.1f} s, {profile.warm_up_steps} steps to warm up"
    table = aligned(columns, [*cells, total], width=width)
    lines = [f"{profile.run}: {what}", f"{speed}; {before}", "", *table, "", *_loading_lines(profile)]
    if profile.workers > 1:
        lines.append(f"one of {profile.workers} workers; the exchange of gradients between them is not measured")
    return "\n".join([*lines, "", f"hint: {profile.hint}"])


def _loading_lines(profile: Profile) -> list[str]:
    loading = profile.loading
    tasks = f"{loading.processes} loading process{'' if loading.processes == 1 else 'es'}"
    parts = (
        f"read and decode {loading.read_ms:.2f} ms, augment {loading.augment_ms:.2f} ms, rest {loading.other_ms:.2f} ms"
    )
    return [
        f"beside it, in {tasks}, an image takes: {parts}",
        f"one process makes {loading.images_per_second:.0f} images/s",
    ]
