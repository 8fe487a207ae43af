"""What was asked: the metric, the space, the budget, and the study file itself."""

import re
from collections.abc import Mapping
from typing import Any, Final

from study.config import StudyConfig, config_yaml
from study.data.files import is_remote, shown
from study.report.page.answer import metric_name
from study.report.page.cells import word
from study.report.page.evidence import Evidence
from study.report.page.parts import Listing, Note, Section, Table
from study.report.words import and_list
from study.space import SearchSpace
from study.space.nodes import value_text, values_text

ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\",\]}]+")


def question_section(evidence: Evidence) -> Section:
    """The question as a sentence, the search space as a table, the study file folded away."""
    config = evidence.config
    blocks: list[Table | Listing | Note] = []
    if config.search is None:
        blocks.append(Note(text="Nothing was searched: one configuration was trained as the study file has it."))
    else:
        blocks.append(_space_table(config.search.space))
    blocks.append(_settings_table(config))
    blocks.append(Listing(title="The study file, resolved", text=public_yaml(config), folded=True))
    return Section(key="question", title="What was asked", finding=question(config), blocks=tuple(blocks))


def question(config: StudyConfig) -> str:
    """What the study wants to know."""
    metrics = and_list([metric_name(metric) for metric in config.metrics])
    if config.search is None:
        return f"One configuration, judged by {metrics}."
    paths = [node.path for node in config.search.space.nodes]
    aim = {"max": "largest", "min": "smallest"}[config.mode]
    names = and_list(list(dict.fromkeys(paths)))
    return f"Which values of {names} give the {aim} {metrics} on validation?"


def public_yaml(config: StudyConfig) -> str:
    """The study file as it may be shown: addresses without user, password and query."""
    text = config_yaml(config)
    return ADDRESS.sub(lambda found: shown(found.group()) if is_remote(found.group()) else found.group(), text)


def _space_table(space: SearchSpace) -> Table:
    rows = []
    for node in space.nodes:
        conditions = [f"{part.path} = {' or '.join(map(value_text, part.values))}" for part in node.when]
        if node.inside is not None:
            conditions.insert(0, value_text(space.at(node.inside[0]).choices[node.inside[1]]))
        scale = "logarithmic" if node.log else ""
        rows.append(tuple(word(text) for text in (node.path, values_text(node), scale, " and ".join(conditions))))
    return Table(
        name="space",
        caption="The search space",
        columns=("parameter", "values", "scale", "only when"),
        rows=tuple(rows),
        words=(0, 1, 2, 3),
    )


def _settings_table(config: StudyConfig) -> Table:
    rows = [(word(name), word(value)) for name, value in _settings(config).items() if value]
    return Table(
        name="settings", caption="How it was searched and judged", columns=("", "value"), rows=tuple(rows), words=(0, 1)
    )


def _settings(config: StudyConfig) -> dict[str, str]:
    search, confirm = config.search, config.confirm
    found = {
        "network": f"{config.model.name}{', pretrained' if config.model.pretrained else ', from random weights'}",
        "loss of the baseline": config.loss.name,
        "batches": f"{config.train.batch_size} images, sampler {config.sampler.name}",
        "optimiser": f"{config.optim.name}, learning rate {config.optim.lr:g}, schedule {config.optim.schedule}",
        "epochs": str(config.train.epochs),
        "augmentation": config.augment.policy,
    }
    if search is not None:
        pruner = search.pruner
        found |= {
            "algorithm": search.algorithm,
            "trials": f"{config.num_trials}" if config.num_trials else "",
            "other limits": _limits(search.budget.model_dump()),
            "pruning": "none" if pruner.name == "none" else f"{pruner.name}, not before epoch {pruner.min_epochs}",
            "constraints": "; ".join(f"{name} {bound}" for name, bound in search.constraints.items()),
        }
    if confirm is not None:
        side = "and the baseline" if confirm.baseline else "without a baseline"
        seeds = and_list([str(seed) for seed in confirm.seeds])
        found["confirmation"] = f"the best {confirm.top} {side}, seeds {seeds}"
    return found


def _limits(budget: Mapping[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in budget.items() if value is not None)
