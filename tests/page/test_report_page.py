"""The report of a study as a page: self-contained, honest about what is missing, right in its numbers, without ids."""

import base64
import csv
import html
import io
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from study.report.page.answer import answer
from study.report.page.build import banner, build_page
from study.report.page.cells import escaped, to_csv, to_latex, word
from study.report.page.comparing import patient_difference
from study.report.page.evidence import Data, read_arms
from study.report.page.parts import Cell, Note, Pictures, Table
from study.report.page.render import html_of, write_page
from study.types import RunRow

ASK = {
    "over": "document.documentElement.scrollWidth - innerWidth",
    "outside": "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && "
    "e.getBoundingClientRect().right > innerWidth + 1).length",
    "broken": "[...document.images].forEach(i => { i.loading = 'eager' });"
    "Promise.all([...document.images].map(i => i.decode().then(() => 0, () => 1)))"
    ".then(all => all.reduce((a, b) => a + b, 0))",
    "images": "document.images.length",
    "answer": "document.querySelector('.answer').getBoundingClientRect().bottom",
    "small": "Math.min(...[...document.querySelectorAll('p, td, li, a')]"
    ".map(e => parseFloat(getComputedStyle(e).fontSize)))",
}


def tables(page):
    return {block.name: block for section in page.sections for block in section.blocks if isinstance(block, Table)}


def notes(page, kind):
    return [b for section in page.sections for b in section.blocks if isinstance(b, Note) and b.kind == kind]


def section(page, key):
    return next(each for each in page.sections if each.key == key)


def everything(folder):
    """All that a report's files say, with the pictures inside the page unpacked."""
    texts = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            text = path.read_bytes().decode("latin-1")
            texts += [
                text,
                *(base64.b64decode(found).decode("latin-1") for found in re.findall(r"base64,([\w+/=]+)", text)),
            ]
    return "\n".join(texts)


class TestPage:
    def test_stands_alone(self, page, tmp_path):
        """One file without script and without anything from elsewhere, small, with tables and figures beside it."""
        written = write_page(page, tmp_path / "report")
        text = written[0].read_text()
        assert len(text) < 10_000_000
        assert not re.search(r"<script|<link(?! rel=\"icon\" href=\"data:)|src=\"(?!data:)|url\(|@import", text)
        assert not re.search(r"(?:src|href)=\"https?:", text)
        names = {path.relative_to(tmp_path / "report").as_posix() for path in written}
        assert {"report.html", "tables/comparison.csv", "tables/comparison.tex", "figures/history.png"} <= names
        assert {"figures/roc-segments.svg", "figures/parallel.svg", "figures/slice-0.png", "tables/parts.csv"} <= names
        assert all(path.stat().st_size for path in written)
        again = write_page(page, tmp_path / "report")
        assert sorted(again) == sorted(written)

    def test_no_ids(self, page, evidence, tmp_path):
        """Neither an image's nor a patient's id, hashed or not, is in any file of the report."""
        write_page(page, tmp_path / "report")
        text = everything(tmp_path / "report")
        manifest = evidence.data.manifest
        planted = {str(name) for column in ("image_id", "patient_id") for name in manifest[column]}
        assert len(planted) > 100
        assert [name for name in planted if name in text] == []
        assert "MEIER" not in text
        assert "malignant" in text

    @pytest.mark.parametrize("width", [390, 1280])
    def test_in_a_browser(self, page, browser, tmp_path, width):
        """A phone and a desk see all of it: no error, no request, no sideways scrolling, nothing broken or tiny."""
        path = write_page(page, tmp_path / "report")[0]
        seen = browser.open(path, width=width, ask=ASK)
        assert seen.errors == []
        assert [url for url in seen.requests if not url.startswith(("data:", "file:"))] == []
        assert len([url for url in seen.requests if url.startswith("file:")]) == 1
        assert (seen.answers["over"], seen.answers["outside"], seen.answers["broken"]) == (0, 0, 0)
        assert seen.answers["images"] >= 14
        assert seen.answers["answer"] < 900
        assert seen.answers["small"] >= 11.5

    def test_hostile_names(self, evidence, quick):
        """What looks like markup in a name of the study is text."""
        row = replace(evidence.result.rows[0], params={"loss.name": "<script>alert(1)</script>", "optim.lr": 0.1})
        result = replace(evidence.result, rows=(row, *evidence.result.rows[1:]))
        text = html_of(build_page(replace(evidence, result=result)))
        assert "<script" not in text
        assert html.escape("<script>alert(1)</script>") in text

    def test_passwords(self, evidence, quick):
        """An address in the study file is shown without user, password and query."""
        data = evidence.config.data.model_copy(update={"prepared": "s3://AKIDEX:wJalrSecret@bucket/data?token=abc"})
        text = html_of(build_page(replace(evidence, config=evidence.config.model_copy(update={"data": data}))))
        assert "s3://bucket/data" in text
        assert not re.search("AKIDEX|wJalrSecret|token=abc", text)


@pytest.mark.usefixtures("quick")
class TestAnswer:
    def test_holds(self, page, evidence):
        """A difference that survives correction is told with its size, interval and p-values."""
        assert page.answer == (
            "Trial 4 (loss=emd lr=0.004) is better than the baseline by 0.080 macro AUROC (95 % CI 0.057 to 0.103), "
            "p < 0.001; it holds after Holm's correction over 2 comparisons (p = 0.001)."
        )
        assert page.banner == ""

    def test_chosen_by_validation(self, evidence):
        """The answer is about the configuration that validation prefers, though another one is better on test."""
        rows = tuple(
            replace(row, mean=0.9, values=(0.9, 0.9, 0.91)) if row.trial == "1" else row
            for row in evidence.result.confirmed
        )
        assert answer(replace(evidence, result=replace(evidence.result, confirmed=rows)))[0].startswith("Trial 4")

    def test_does_not_hold(self, evidence):
        """A difference that does not survive is not called one."""
        rows = tuple(
            replace(row, p=0.04, p_holm=0.08) if row.trial == "4" else row for row in evidence.result.confirmed
        )
        told, _ = answer(replace(evidence, result=replace(evidence.result, confirmed=rows)))
        assert "is not shown to be better" in told
        assert "does not hold after Holm's correction over 2 comparisons (p = 0.080)" in told

    def test_less_is_better(self, evidence):
        """Of a metric that should be small, the smaller one is the better one."""
        config = evidence.config
        search = config.search.model_copy(update={"metric": "val/grade_mae", "mode": "min"})
        result = replace(evidence.result, metric="val/grade_mae", mode="min")
        told, _ = answer(replace(evidence, config=config.model_copy(update={"search": search}), result=result))
        assert "is not shown to be worse than the baseline: it has 0.023 more" in told
        assert "grade MAE" in told

    @pytest.mark.parametrize(
        ("state", "words"), [("interrupted", "not finished"), ("running", "is running"), ("new", "has not begun")]
    )
    def test_unfinished(self, evidence, state, words):
        """A study that is not done says so at the head, with the command that goes on where it stands still."""
        result = replace(evidence.result, state=state, confirmed=())
        told = banner(replace(evidence, result=result))
        assert words in told
        assert ("study resume example" in told) == (state != "running")


@pytest.mark.usefixtures("quick")
class TestComparison:
    def test_numbers(self, page, evidence):
        """Mean, SD, interval, p and bold face are those of the values, recomputed here from scipy."""
        from scipy import stats

        rows = {row[0].text: row for row in tables(page)["comparison"].rows}
        a, base = [0.85, 0.86, 0.87], [0.78, 0.79, 0.77]
        assert rows["trial 4"][3] == Cell(text="0.860 ± 0.010", value="0.860 ± 0.010", bold=True)
        p = stats.ttest_ind(a, base, equal_var=False).pvalue
        assert rows["trial 4"][7].value == pytest.approx(p)
        assert rows["trial 4"][8].value == pytest.approx(2 * p)
        other = stats.ttest_ind([0.80, 0.79, 0.82], base, equal_var=False).pvalue
        assert rows["trial 1"][8].value == pytest.approx(other)
        assert not rows["trial 1"][3].bold
        assert [cell.text for cell in rows["baseline"][5:]] == ["-"] * 4

    def test_other_metrics_are_corrected_together(self, page, evidence):
        """Two metrics of two trials are four comparisons, and grade MAE wins by being small."""
        table = tables(page)["metrics"]
        assert table.columns == ("", "F1 ↑", "grade MAE ↓")
        assert "all 4 comparisons" in table.note
        assert table.rows[0][1].text.startswith("0.660 ± 0.010 (")
        assert [row[0].text for row in table.rows] == ["trial 4", "trial 1", "baseline"]

    def test_tasks(self, page):
        """Auxiliary tasks have a table of their own, undefined metrics a dash."""
        table = tables(page)["tasks-test"]
        assert [cell.text for cell in table.rows[0]] == ["density", "trial 4", "0.760 ± 0.010", "-", "-", "-"]
        assert len(table.rows) == 3

    def test_patients(self, evidence):
        """The paired difference is the mean over seeds of macro areas, and its interval comes from whole patients."""
        first, second = (list(arm.test.values()) for arm in (evidence.chosen, evidence.baseline))
        found = patient_difference(first, second, metric="auroc_macro")
        areas = [
            np.mean([roc_auc_score(f.labels_n, f.probs_nk, multi_class="ovr", average="macro") for f in side])
            for side in (first, second)
        ]
        assert found.difference == pytest.approx(areas[0] - areas[1])
        assert found.low < found.difference < found.high
        mirrored = patient_difference(second, first, metric="auroc_macro")
        assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
        assert patient_difference(first, first, metric="grade_mae").difference == 0
        assert patient_difference(first, second, metric="breast/auroc_macro") is None
        shifted = replace(second[0], patients_n=second[0].patients_n[::-1])
        assert patient_difference(first, [shifted], metric="auroc_macro") is None


@pytest.mark.usefixtures("quick")
class TestWhatIsMissing:
    def test_nothing_confirmed(self, own_runs):
        """Without the confirm stage figures are drawn on validation, which is said beside the command to confirm."""
        bare = replace(own_runs, result=replace(own_runs.result, confirmed=()))
        for path in (bare.directory / "runs").rglob("predictions_test.parquet"):
            path.unlink()
        bare = bare.with_arms(read_arms(bare.directory, bare.rows_to_show(), data=bare.data, classes=()))
        page = build_page(bare)
        assert any(note.command == "study confirm example" for note in notes(page, "missing"))
        assert any("too good" in note.text for note in notes(page, "warning"))
        assert "Nothing is confirmed" in page.caveat
        assert "comparison" not in tables(page)

    def test_no_predictions(self, evidence):
        """Run folders that were removed leave sections that say so."""
        page = build_page(
            evidence.with_arms(
                read_arms(evidence.directory / "gone", evidence.rows_to_show(), data=evidence.data, classes=())
            )
        )
        told = [note for note in notes(page, "missing") if "predictions" in note.text]
        assert len(told) == 4
        assert all(note.command for note in told)

    def test_no_dataset(self, evidence):
        """Without the prepared data the rest is there, and parts by view are left out."""
        gone = Data(fault="data/gone is no prepared dataset")
        bare = replace(evidence, data=gone)
        page = build_page(bare.with_arms(read_arms(bare.directory, bare.rows_to_show(), data=gone, classes=())))
        assert "data/gone is no prepared dataset" in notes(page, "missing")[0].text
        assert {row[0].text for row in tables(page)["parts"].rows} == {"all", "segment"}

    def test_empty_study(self, evidence):
        """A study without a trial has a page."""
        result = replace(evidence.result, rows=(), confirmed=(), state="new")
        page = build_page(replace(evidence, result=result, arms=(), ledgered=type(evidence.ledgered)()))
        assert page.answer == "No trial is complete yet."
        assert html_of(page)

    def test_folds(self, own_runs):
        """A trial of several folds has the predictions of each, from their own folders."""
        runs = own_runs.directory / "runs"
        for fold in (1, 2):
            shutil.copytree(runs / f"4-s{fold}", runs / f"0-f{fold}-s0")
        folds = tuple(RunRow(seed=0, fold=fold, state="complete") for fold in (1, 2))
        row = replace(own_runs.result.rows[0], runs=folds)
        (arm,) = read_arms(own_runs.directory, [row], data=own_runs.data, classes=())
        assert [fold.run for fold in arm.val.values()] == ["0-f1-s0", "0-f2-s0"]

    def test_damaged_predictions(self, own_runs):
        """A damaged file is an error that names the run, not a wrong figure."""
        from study.errors import StudyError

        (own_runs.directory / "runs" / "4-s0" / "predictions_test.parquet").write_bytes(b"PAR1 not at all")
        with pytest.raises(StudyError, match=r"4-s0/predictions_test\.parquet"):
            read_arms(own_runs.directory, own_runs.rows_to_show(), data=own_runs.data, classes=())

    def test_one_seed_and_no_baseline(self, evidence):
        """One seed has neither SD nor p-value, and nothing pretends to."""
        unknown = dict.fromkeys(("sd", "low", "high", "p", "p_holm", "effect"), float("nan"))
        row = replace(evidence.result.confirmed[0], values=(0.85,), mean=0.85, seeds=(0,), **unknown)
        page = build_page(replace(evidence, result=replace(evidence.result, confirmed=(row,))))
        cells = tables(page)["comparison"].rows[0]
        assert [cell.text for cell in cells[3:]] == ["0.850", "-", "-", "-", "-", "-"]
        assert "no confirmed baseline" in page.caveat
        assert html_of(page)


@pytest.mark.usefixtures("quick")
class TestParts:
    def test_flow(self, page, evidence):
        """Exclusions are counted by reason, and the boxes add up."""
        flow = section(page, "data").blocks[0]
        assert flow.steps[0].leaving == (("BI-RADS 3", 4), ("cannot read <path>", 1))
        assert flow.steps[0].detail.startswith("101 images")
        assert flow.steps[1].detail.startswith("96 images")
        assert flow.steps[-1].detail == f"{len(evidence.chosen.test[0].labels_n)} images"

    def test_failures(self, page, evidence):
        """Failed trials stand under their reason; retries are told."""
        (row,) = tables(page)["failures"].rows
        assert [cell.text for cell in row] == ["other", "the loss is not finite at step 7", "1", "3"]
        assert tables(page)["retries"].rows[0][4].text.startswith("memory ran out")
        assert section(page, "failures").finding == "1 run failed."

    def test_confusion_and_severity(self, page, evidence):
        """Shares of errors are those counted by hand from the predictions."""
        rows = {row[0].text: row for row in tables(page)["severity"].rows}
        folds = list(evidence.chosen.test.values())
        mae = np.mean([np.abs(f.decoded_n - f.labels_n).mean() for f in folds])
        low = np.mean([(f.decoded_n < f.labels_n).mean() for f in folds])
        assert rows["trial 4"][1].text.split(" ± ")[0] == f"{mae:.3f}"
        assert rows["trial 4"][2].text.split(" ± ")[0] == f"{low:.3f}"

    def test_parts_add_up(self, page, evidence):
        """Every column of parts covers the whole split."""
        table = tables(page)["parts"]
        sizes = {}
        for row in table.rows:
            sizes[row[0].text] = sizes.get(row[0].text, 0) + row[2].value
        assert set(sizes) == {"all", "segment", "view", "age"}
        assert set(sizes.values()) == {len(evidence.chosen.test[0].labels_n)}

    def test_two_classes(self, evidence):
        """Two classes have no grades to be two off, and every section is there."""

        def halve(fold):
            probs = np.stack([fold.probs_nk[:, 0], fold.probs_nk[:, 1:].sum(axis=1)], axis=1)
            labels = np.minimum(fold.labels_n, 1)
            return replace(fold, classes=("no", "yes"), labels_n=labels, decoded_n=probs.argmax(axis=1), probs_nk=probs)

        arms = [
            replace(
                arm,
                **{
                    split: {seed: halve(fold) for seed, fold in getattr(arm, split).items()}
                    for split in ("val", "test")
                },
            )
            for arm in evidence.arms
        ]
        page = build_page(evidence.with_arms(arms))
        assert "more than one grade" not in section(page, "mistakes").finding
        assert not notes(page, "missing")[1:]


class TestFiles:
    TABLE = Table(
        name="t",
        caption="50 % of a_b & c",
        columns=("", "p < x"),
        rows=((word("a&b_c\\d"), Cell(text="0.5 ± 0.1", value=0.51234, bold=True)),),
    )

    def test_latex(self):
        """No sign of LaTeX survives, bold is bold, and every row has as many fields as the head."""
        text = to_latex(self.TABLE)
        assert r"a\&b\_c\textbackslash{}d & \textbf{0.5 $\pm$ 0.1} \\" in text
        assert r"\caption{50 \% of a\_b \& c}" in text
        assert r"\begin{tabular}{lr}" in text
        assert escaped("↑ ↓ …") == r"$\uparrow$ $\downarrow$ \ldots{}"
        assert escaped("#{}~^$") == r"\#\{\}\textasciitilde{}\textasciicircum{}\$"

    def test_csv(self):
        """Numbers are whole in CSV."""
        assert list(csv.reader(io.StringIO(to_csv(self.TABLE)))) == [["", "p < x"], ["a&b_c\\d", "0.51234"]]

    def test_every_table_is_rectangular(self, page, evidence):
        """Rows and heads of all tables have as many fields, and no file is written twice."""
        blocks = [block for each in page.sections for block in each.blocks]
        for block in blocks:
            if isinstance(block, Table):
                assert {len(row) for row in block.rows} <= {len(block.columns)}, block.name
        written = [block.name for block in blocks if isinstance(block, Table)]
        drawn = [one.name for block in blocks if isinstance(block, Pictures) for one in block.pictures]
        assert (len(written), len(drawn)) == (len(set(written)), len(set(drawn)))
