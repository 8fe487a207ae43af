"""How to make it again: versions, seeds, fingerprints, commands; and how often the test split was read."""

import hashlib
import platform
from importlib import metadata
from typing import Final

import study
from study.config import config_yaml
from study.report.page.cells import word
from study.report.page.evidence import Evidence
from study.report.page.parts import Block, Listing, Note, Section, Table
from study.report.words import and_list

PACKAGES: Final = (
    "torch",
    "timm",
    "ray",
    "optuna",
    "mlflow",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "albumentations",
    "opencv-python-headless",
    "pydicom",
    "matplotlib",
)


def again_section(evidence: Evidence) -> Section:
    """Everything that another group needs."""
    config, ledgered = evidence.config, evidence.ledgered
    file = evidence.directory / "study.yaml"
    seeds = and_list([str(seed) for seed in config.confirm.seeds]) if config.confirm else "none"
    facts = {
        "data fingerprint": ledgered.fingerprint or "not recorded yet",
        "study file, SHA-256": hashlib.sha256(config_yaml(config).encode()).hexdigest(),
        "seed of the search": str(config.seed),
        "seeds of the confirmation": seeds,
        "seed of the split": str(getattr(config.data.splits, "seed", 0)),
    }
    facts |= {f"version of {name}": version for name, version in versions().items()}
    table = Table(
        name="versions",
        caption="Seeds, fingerprints and versions",
        columns=("", "value"),
        rows=tuple((word(name), word(value)) for name, value in facts.items()),
        words=(0, 1),
        note="Versions are those of the machine that wrote this report.",
    )
    again = f"{config.study}-again"
    commands = "\n".join(
        [
            f"{evidence.program} prepare {file}",
            f"{evidence.program} run {file} --set study={again}{evidence.options}",
            f"{evidence.program} report {again}{evidence.options}",
        ]
    )
    blocks: list[Block] = [Listing(title="Commands", text=commands), table]
    count = len(ledgered.readings)
    if count:
        first, last = ledgered.readings[0].time[:16], ledgered.readings[-1].time[:16]
        runs = len({(reading.trial, reading.seed) for reading in ledgered.readings})
        text = f"The test split was read {count} times by {runs} runs, from {first} to {last} UTC; "
        text += "each reading is in the ledger."
        blocks.append(Note(text=text))
    else:
        blocks.append(Note(text="The test split has not been read."))
    finding = (
        "With one run at a time the same file, data and versions give the same trials and the same numbers on a CPU."
    )
    return Section(key="again", title="Make it again", finding=finding, blocks=tuple(blocks))


def versions() -> dict[str, str]:
    """Versions of this program, of Python and of the packages that numbers depend on."""
    found = {"study": study.__version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
