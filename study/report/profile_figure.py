"""A profile as a picture: one bar, whose parts are where the time of a step goes."""

import os
from pathlib import Path
from typing import Final

from study.training.profile import Profile

# Waiting in warm colours, computing in cold ones, all else grey; Okabe and Ito's, lightened where they are several.
COLOURS: Final = {
    "wait/read": "#D55E00",
    "wait/augment": "#E69F00",
    "wait/hand_over": "#F0E442",
    "transfer": "#CC79A7",
    "augment": "#8C6D31",
    "forward": "#0072B2",
    "loss": "#7FB8D8",
    "backward": "#56B4E9",
    "optimiser": "#009E73",
    "rest": "#9A9A9A",
    "validation": "#C8C8C8",
    "checkpoint": "#E6E6E6",
}
LEAST_LABELLED: Final = 0.04  # share from which on a part has its share written on it


def write_profile_figure(profile: Profile, path: Path) -> Path:
    """Draw a profile into a PNG file (1500 x 450 px); replaces an older file as a whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    left = 0.0
    for row in profile.rows:
        if row.seconds <= 0:
            continue
        axes.barh([0], [row.ms_per_step], left=left, color=COLOURS[row.key], edgecolor="white", label=row.name)
        if row.share >= LEAST_LABELLED:
            axes.text(left + row.ms_per_step / 2, 0, f"{row.share:.0%}", ha="center", va="center", fontsize=9)
        left += row.ms_per_step
    axes.set_yticks([])
    axes.set_xlim(0, left)
    axes.set_xlabel("ms a step")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncol=6, frameon=False, fontsize=8)
    title = f"{profile.run}: {profile.network}, batch {profile.batch_size}, {profile.images_per_second:.1f} images/s"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(partial, format="png")
    partial.replace(path)
    return path
