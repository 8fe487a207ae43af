"""What a paper on such a study has to say, after CLAIM (Mongan, Moy & Kahn, Radiology: AI 2020), in our own words."""

from dataclasses import dataclass
from typing import Literal

from study.report.page.evidence import Evidence

Who = Literal["study", "authors", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to say: ``where`` it stands (``study``), or who still has to say it."""

    part: str
    text: str
    who: Who
    where: str


def checklist(evidence: Evidence) -> list[Item]:
    """All items; those that the study answers name the paragraph or the section of the report."""
    has_data = evidence.data.manifest is not None
    is_confirmed = bool(evidence.result.confirmed)
    data: tuple[Who, str] = ("study", "") if has_data else ("missing", "prepare the data and write the report again")
    test: tuple[Who, str] = ("study", "") if is_confirmed else ("missing", f"`{evidence.command('confirm')}`")
    rows: list[tuple[str, str, tuple[Who, str], str]] = [
        ("Title, abstract", "says that a learning method was studied, and which", AUTHORS, ""),
        ("Introduction", "the clinical question and what the method is to be used for", AUTHORS, ""),
        ("Introduction", "what was asked, as one question with its metric", STUDY, "report, What was asked"),
        ("Design", "whether data were collected for this study or before it", AUTHORS, ""),
        ("Data", "where, when and how images were acquired; scanners", AUTHORS, "report, Data, names vendors"),
        ("Data", "ethics approval and consent", AUTHORS, ""),
        ("Data", "numbers of patients and images by source", data, "Data"),
        ("Data", "which images were left out, how many, and why", data, "Data; report, flow of exclusions"),
        ("Data", "how images were prepared: cropping, scaling, intensities", STUDY, "Preprocessing"),
        ("Data", "how identifiers were removed", STUDY, "ids are keyed hashes; no DICOM text is kept"),
        ("Ground truth", "what the labels are and how classes were made of them", STUDY, "Labels and splits"),
        ("Ground truth", "who set the labels, with what experience, and how far readers agree", AUTHORS, ""),
        ("Splits", "how data were split, at which level, with numbers by class", data, "Labels and splits"),
        ("Splits", "that no patient is on two sides", STUDY, "checked when the data is prepared"),
        ("Sample size", "why the test split is large enough", AUTHORS, "report, intervals of the comparison"),
        ("Model", "the network, its start weights and its head", STUDY, "Network and training"),
        ("Model", "software with versions", STUDY, "Software and reproducibility"),
        ("Training", "augmentation with its probabilities and ranges", STUDY, "Augmentation"),
        ("Training", "loss, optimiser, schedule, batches, epochs", STUDY, "Network and training"),
        ("Training", "how hyperparameters were chosen: space, algorithm, budget, failures", STUDY, "Search"),
        ("Training", "how the final model was selected, without the test split", test, "Confirmation"),
        ("Evaluation", "metrics, with the one that was asked for beforehand", STUDY, "Search; report, What was asked"),
        ("Evaluation", "uncertainty of every number, and of seeds and patients apart", test, "Statistics"),
        ("Evaluation", "tests, and correction for their number", test, "Statistics"),
        ("Evaluation", "how often the test split was read", test, "Confirmation"),
        ("Evaluation", "data from elsewhere that no part of the study has seen", AUTHORS, ""),
        ("Results", "performance by site, vendor, view, density and age", test, "report, Where it works"),
        ("Results", "errors: confusion, severity, cases that failed", test, "report, Errors"),
        ("Results", "calibration", test, "report, Calibration"),
        ("Results", "what the network looks at", STUDY, "report, Where it looks"),
        ("Discussion", "limits, possible biases, and what use would need", AUTHORS, ""),
        ("Other", "study file, seeds, fingerprints and commands", STUDY, "report, Make it again"),
        ("Other", "where code, weights and data can be had; funding; interests", AUTHORS, ""),
    ]
    return [Item(part=part, text=text, who=who, where=hint or where) for part, text, (who, hint), where in rows]


STUDY: tuple[Who, str] = ("study", "")
AUTHORS: tuple[Who, str] = ("authors", "")
