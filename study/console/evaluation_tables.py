"""What a network did on another dataset, as text."""

from typing import TYPE_CHECKING, Final

from study.report.words import number

if TYPE_CHECKING:
    from study.portable.evaluating import Evaluation

SHOWN: Final = ("auroc_macro", "f1_macro", "balanced_accuracy", "qwk", "grade_mae", "mcc", "ece")


def evaluation_text(found: "Evaluation", *, name: str, members: int) -> str:
    """The metrics of all images, the AUROC of each segment, and whom the numbers are about."""
    who = f"{name}, mean of {members} seeds" if members > 1 else name
    lines = [f"{who} on {found.images:,} images of {found.patients:,} patients"]
    lines += [f"{found.left_out:,} images left out: their patients taught the network"] if found.left_out else []
    lines += [f"{found.unlabelled:,} images without a label left out"] if found.unlabelled else []
    width = max(map(len, SHOWN))
    lines += ["", *(f"  {key:<{width}}  {number(found.metrics.get(key))}" for key in SHOWN)]
    lines[-len(SHOWN)] += f"  (95 % of patients' bootstraps: {number(found.low)} to {number(found.high)})"
    local = [key for key in found.metrics if key.startswith("segment/") and key.endswith("/auroc_macro")]
    if len(local) > 1:
        lines += ["", "  auroc_macro by segment"]
        lines += [f"    {key.split('/')[1]}  {number(found.metrics[key])}" for key in sorted(local)]
    return "\n".join(lines)
