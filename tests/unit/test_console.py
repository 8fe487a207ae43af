"""What a study looks like in a terminal, line by line."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from study.console import Board, Places, PlainView, closing_text, event_line, make_view, run_until_done
from study.console.live import LiveView
from study.console.tables import confirm_table, trials_table
from study.console.terminal import STOPPING
from study.errors import LostCluster
from study.report.words import cut, duration, number, params_text, probability, rate, without_password
from study.types import ConfirmRow, EpochResult, Event, StudyResult, TrialRow

NAN = float("nan")


def make_board(**changes: object) -> Board:
    options = {"study": "quickstart", "metric": "val/auroc_macro", "mode": "max", "trials_planned": 4, "epochs": 8}
    return Board(**{**options, "clock": lambda: 0.0, **changes})  # type: ignore[arg-type]


def epoch(number_of: int, value: float, *, trial: str = "3", seed: int = 0) -> Event:
    result = EpochResult(epoch=number_of, metrics={"val/auroc_macro": value}, images=424, seconds=2.0)
    return Event(kind="epoch", trial=trial, seed=seed, result=result, value=value)


def row(trial: str, state: str, value: float | None, **changes: object) -> TrialRow:
    options = {"params": {}, "metrics": {}, "seeds": (0,), "epochs": 8, **changes}
    return TrialRow(trial=trial, state=state, value=value, **options)  # type: ignore[arg-type]


def confirmed(trial: str, mean: float, **changes: object) -> ConfirmRow:
    options = {"params": {}, "seeds": (0, 1, 2), "values": (mean - 0.01, mean, mean + 0.01), "sd": 0.01}
    options |= {"low": mean - 0.025, "high": mean + 0.025, "val_mean": 0.8, **changes}
    return ConfirmRow(trial=trial, mean=mean, **options)  # type: ignore[arg-type]


ROWS = (
    row(
        "0",
        "complete",
        0.7312,
        params={"loss.name": "cross_entropy", "optim.lr": 1.23456e-3},
        metrics={"val/f1_macro": 0.612},
    ),
    row("1", "pruned", 0.55, params={"loss.name": "corn", "optim.lr": 1e-4}, metrics={"val/f1_macro": NAN}, epochs=2),
    row("2", "failed", None, params={"loss.name": "emd", "optim.lr": 9.9e-3}, epochs=1, reason="loss is not finite"),
    row(
        "3",
        "complete",
        0.8123,
        params={"loss.name": "focal", "loss.gamma": 2.3123, "optim.lr": 1e-3, "sampler.name": "source_label"},
        metrics={"val/f1_macro": 0.702},
    ),
    row("10", "pruned", 0.6, params={"loss.name": "emd", "optim.lr": 2e-3}, metrics={"val/f1_macro": 0.5}, epochs=2),
)
CONFIRMED = (
    confirmed("3", 0.8, params={"loss.name": "focal", "optim.lr": 1e-3}, effect=1.214, p=0.02, p_holm=0.04),
    confirmed("0", 0.77, params={"loss.name": "cross_entropy"}, effect=-0.2, p=0.52, p_holm=0.52),
    confirmed("baseline", 0.78),
)


def make_result(**changes: object) -> StudyResult:
    options = {"study": "quickstart", "state": "done", "metric": "val/auroc_macro", "mode": "max", "rows": ROWS}
    return StudyResult(**{**options, "trials_planned": 5, **changes})  # type: ignore[arg-type]


class TestWords:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.7126, "0.713"),
            (0.0, "0.000"),
            (-0.25, "-0.250"),
            (None, "-"),
            (NAN, "-"),
            (1e-5, "1e-05"),
            (123456.0, "1.23e+05"),
        ],
    )
    def test_number(self, value, text):
        """A metric has three decimals, and an undefined one is a dash, never a number."""
        assert number(value) == text

    def test_probability(self):
        """A small p-value is bounded, not rounded to zero."""
        assert [probability(p) for p in (0.0004, 0.0412, 1.0, NAN)] == ["<0.001", "0.041", "1.000", "-"]

    def test_duration(self):
        """Times read as people say them."""
        assert [duration(s) for s in (0.4, 45, 59.6, 200, 3600, 7500)] == [
            "0 s",
            "45 s",
            "1 min 00 s",
            "3 min 20 s",
            "1 h 00 min",
            "2 h 05 min",
        ]

    def test_rate(self):
        """Speed is images per second, and absent where no time was measured."""
        assert [rate(424, 2.0), rate(9, 2.0), rate(10, 0.0)] == ["212 images/s", "4.5 images/s", ""]

    def test_params(self):
        """Parameters go by their last name, and by their whole path where two would read the same."""
        assert (
            params_text({"loss.name": "focal", "loss.gamma": 2.3123, "optim.lr": 0.00123456})
            == "loss=focal gamma=2.31 lr=0.00123"
        )
        assert params_text({"a.lr": 1, "b.lr": 2.0, "name": "x"}) == "a.lr=1 b.lr=2 name=x"

    def test_cut(self):
        """A cut text fits its width and shows that it was cut."""
        assert [cut("abcdefgh", n) for n in (8, 7, 5, 3)] == ["abcdefgh", "abcd...", "ab...", "abc"]

    def test_password(self):
        """A password in an address never reaches the screen."""
        assert without_password("postgresql://ann:secret@db:5432/x") == "postgresql://ann:***@db:5432/x"
        assert without_password("sqlite:////tmp/ledger.db") == "sqlite:////tmp/ledger.db"


class TestEventLines:
    def test_epoch(self):
        """An epoch is one line with trial, epoch of epochs, metric and speed."""
        line = event_line(epoch(2, 0.712), make_board())
        assert line == "trial 3  epoch 2/8  val/auroc_macro 0.712  212 images/s"

    @pytest.mark.parametrize(
        ("event", "line"),
        [
            (Event(kind="stage", text="preparing images"), "preparing images"),
            (Event(kind="warning", text="3 files are in quarantine"), "warning: 3 files are in quarantine"),
            (
                Event(kind="started", trial="3", params={"loss.name": "emd", "optim.lr": 0.00123}),
                "trial 3  started  loss=emd lr=0.00123",
            ),
            (Event(kind="started", trial="baseline", seed=2), "baseline seed 2  started"),
            (Event(kind="ended", trial="3", state="complete", value=0.8), "trial 3  complete  val/auroc_macro 0.800"),
            (
                Event(kind="ended", trial="3", state="failed", text="loss is not finite"),
                "trial 3  failed  loss is not finite",
            ),
            (Event(kind="ended", trial="3", state="waiting"), "trial 3  interrupted"),
            (
                Event(kind="tested", trial="baseline", seed=1, value=0.7),
                "baseline seed 1  tested  test/auroc_macro 0.700",
            ),
            (Event(kind="progress", text="reading", done=30, total=120), "  reading 30 of 120"),
        ],
    )
    def test_others(self, event, line):
        """Every kind of event has its line."""
        assert event_line(event, make_board()) == line

    def test_end_takes_the_best_epoch(self):
        """A run that ends without a value is shown with the best of its epochs, whichever direction is better."""
        for mode, best in (("max", "0.800"), ("min", "0.600")):
            board = make_board(mode=mode)
            for number_of, value in enumerate((0.7, 0.8, NAN, 0.6), start=1):
                board.observe(epoch(number_of, value))
            line = event_line(Event(kind="ended", trial="3", state="pruned"), board)
            assert line == f"trial 3  pruned  val/auroc_macro {best}"

    def test_seed_shows_once_the_search_of_the_trial_is_over(self):
        """The runs of a confirmation name their seed; those of the search do not."""
        board = make_board(rows=ROWS)
        assert event_line(epoch(1, 0.5, trial="3", seed=1), board).startswith("trial 3 seed 1  epoch")
        assert event_line(epoch(1, 0.5, trial="7"), board).startswith("trial 7  epoch")


class TestPlainView:
    def test_stream(self):
        """A whole story is exactly these lines: no colours, no boxes, and of the progress a line for each tenth."""
        stream = io.StringIO()
        with make_view(stream, make_board()) as view:
            assert isinstance(view, PlainView)
            view.observe(Event(kind="stage", text="preparing images"))
            for done in range(1, 41):
                view.observe(Event(kind="progress", text="reading", done=done, total=40))
            view.observe(Event(kind="stage", text="searching"))
            view.observe(Event(kind="started", trial="0", params={"optim.lr": 0.01}))
            view.observe(epoch(1, 0.5, trial="0"))
            view.observe(Event(kind="ended", trial="0", state="complete"))
            view.observe(epoch(1, 0.6, trial="0", seed=1))
            view.note("a note")
        tenths = [f"  reading {4 * i} of 40" for i in range(1, 11)]
        assert stream.getvalue().splitlines() == [
            "preparing images",
            *tenths,
            "searching",
            "trial 0  started  lr=0.01",
            "trial 0  epoch 1/8  val/auroc_macro 0.500  212 images/s",
            "trial 0  complete  val/auroc_macro 0.500",
            "trial 0 seed 1  epoch 1/8  val/auroc_macro 0.600  212 images/s",
            "a note",
        ]

    @pytest.mark.parametrize("view_of", [PlainView, LiveView])
    def test_the_log_tells_the_story_too(self, view_of, caplog):
        """The study's log holds only the libraries' notes, and nobody can see afterwards what happened when."""
        with caplog.at_level("INFO", logger="study.events"), view_of(io.StringIO(), make_board()) as view:
            view.observe(Event(kind="started", trial="0", params={"optim.lr": 0.01}))
            view.observe(epoch(1, 0.5, trial="0"))
            view.observe(Event(kind="ended", trial="0", state="complete"))
        assert [record.message for record in caplog.records] == [
            "trial 0  started  lr=0.01",
            "trial 0  epoch 1/8  val/auroc_macro 0.500  212 images/s",
            "trial 0  complete  val/auroc_macro 0.500",
        ]

    def test_the_speed_of_a_progress(self):
        """Somebody who prepares 300,000 files cannot see how fast they are read, nor that they all fail."""
        stream = io.StringIO()
        view = PlainView(stream, make_board())
        view.observe(Event(kind="progress", text="reading", done=5, total=10, note="12.5 files/s, 2 in quarantine"))
        assert stream.getvalue() == "  reading 5 of 10, 12.5 files/s, 2 in quarantine\n"

    def test_each_part_of_a_stage_has_its_own_tenths(self):
        """A second part of the same stage starts to be shown from its first tenth on."""
        stream = io.StringIO()
        view = PlainView(stream, make_board())
        for text in ("drawing", "reading"):
            view.observe(Event(kind="progress", text=text, done=1, total=2))
            view.observe(Event(kind="progress", text=text, done=2, total=2))
        assert stream.getvalue().splitlines() == [
            "  drawing 1 of 2",
            "  drawing 2 of 2",
            "  reading 1 of 2",
            "  reading 2 of 2",
        ]


class TestBoard:
    def test_counts_go_on_after_a_resume(self):
        """What the ledger held counts towards the budget, and a confirmation counts nothing twice."""
        board = make_board(rows=ROWS, trials_planned=8)
        board.observe(epoch(1, 0.9, trial="11"))
        board.observe(Event(kind="ended", trial="11", state="complete"))
        board.observe(Event(kind="ended", trial="3", seed=1, state="complete"))
        board.observe(Event(kind="ended", trial="baseline", state="complete"))
        assert dict(board.counts) == {"complete": 3, "pruned": 2, "failed": 1}
        assert board.trials_left == 2
        assert (board.best_label, board.best_value) == ("trial 11", 0.9)

    def test_an_interrupted_trial_is_not_finished(self):
        """A trial that waits for a resume still counts as left."""
        board = make_board()
        board.observe(Event(kind="started", trial="0"))
        board.observe(Event(kind="ended", trial="0", state="waiting"))
        assert (board.trials_left, board.running) == (4, {})

    def test_eta(self):
        """The time left follows the pace of the stage's present part, and is unknown before the first step."""
        now = [0.0]
        board = make_board(clock=lambda: now[0])
        board.observe(Event(kind="stage", text="reading"))
        assert board.eta_s() is None
        now[0] = 10.0
        board.observe(Event(kind="progress", text="drawing", done=1, total=4))
        assert board.eta_s() == pytest.approx(30.0)
        now[0] = 50.0
        board.observe(Event(kind="progress", text="reading", done=0, total=4))
        now[0] = 52.0
        board.observe(Event(kind="progress", text="reading", done=2, total=4))
        assert board.eta_s() == pytest.approx(2.0)


class TestLiveView:
    def test_picture(self):
        """The live table shows stage, best, running trials with epoch, value and speed, counts, budget and log."""
        stream = io.StringIO()
        board = make_board(rows=ROWS, trials_planned=8, log="studies/quickstart/study.log")
        with LiveView(stream, board, width=100) as view:
            view.observe(Event(kind="stage", text="searching"))
            view.observe(Event(kind="started", trial="11", params={"loss.name": "emd"}))
            view.observe(epoch(3, 0.654, trial="11"))
            view.observe(Event(kind="ended", trial="12", state="failed", text="loss is not finite"))
            view.note("stopping")
        lines = [line.rstrip() for line in stream.getvalue().splitlines()]
        assert "stopping" in lines
        shown = "\n".join(lines)
        for part in (
            "searching",
            "6/8",
            "best    trial 3  val/auroc_macro 0.812",
            "trial 11    3/8            0.654       212     10 s  loss=emd",
            "last    trial 12  failed  -  loss is not finite",
            "trials  2 complete, 2 pruned, 2 failed, 2 of 8 left",
            "log     studies/quickstart/study.log",
        ):
            assert part in shown

    def test_narrow(self):
        """On 80 columns no line is longer, and the numbers stay whole."""
        stream = io.StringIO()
        with LiveView(stream, make_board(rows=ROWS), width=80) as view:
            view.observe(
                Event(kind="started", trial="11", params={"optim.lr": 1.0, "x.long_name_of_a_parameter": "y" * 60})
            )
            view.observe(epoch(3, 0.654, trial="11"))
        lines = stream.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert any("0.654" in line and "212" in line for line in lines)


class TestTrialsTable:
    def test_at_100_columns(self):
        """Complete trials by value, then pruned by value, then failed with the reason; floats with three digits."""
        assert trials_table(make_result(), width=100).splitlines() == [
            "rank  trial  parameters                              val/auroc_macro  val/f1_macro  epochs  state",
            "   1      3  loss=focal gamma=2.31 lr=0.001 samp...            0.812         0.702       8  complete",
            "   2      0  loss=cross_entropy lr=0.00123                     0.731         0.612       8  complete",
            "         10  loss=emd lr=0.002                                 0.600         0.500       2  pruned",
            "          1  loss=corn lr=0.0001                               0.550             -       2  pruned",
            "          2  loss=emd lr=0.0099                                    -             -       1  failed",
            "             reason: loss is not finite",
        ]

    def test_at_80_columns(self):
        """Parameters give way, numbers never."""
        assert trials_table(make_result(), width=80).splitlines()[:2] == [
            "rank  trial  parameters          val/auroc_macro  val/f1_macro  epochs  state",
            "   1      3  loss=focal gamm...            0.812         0.702       8  complete",
        ]

    def test_a_smaller_value_can_be_better(self):
        """With mode min the smallest value ranks first, and a NaN ranks last of its kind."""
        rows = (row("0", "complete", 0.9), row("1", "complete", 0.2), row("2", "complete", NAN))
        lines = trials_table(make_result(rows=rows, metric="val/f1_macro", mode="min")).splitlines()
        assert [line.split()[1] for line in lines[1:]] == ["1", "0", "2"]
        assert lines[0].split() == ["rank", "trial", "parameters", "val/f1_macro", "epochs", "state"]


class TestConfirmTable:
    def test_at_100_columns(self):
        """Mean, SD, interval, effect and corrected p of each configuration; the baseline stands last."""
        assert confirm_table(make_result(confirmed=CONFIRMED), width=100).splitlines() == [
            "Confirmed on the test split: test/auroc_macro",
            "trial     parameters            seeds      mean ± SD   95 % interval  Hedges g  p (Holm)",
            "3         loss=focal lr=0.001       3  0.800 ± 0.010  0.775 to 0.825      1.21     0.040",
            "0         loss=cross_entropy        3  0.770 ± 0.010  0.745 to 0.795     -0.20     0.520",
            "baseline  as in the study file      3  0.780 ± 0.010  0.755 to 0.805         -         -",
            "Trial 3 is better than the baseline on the test split (p < 0.05 after Holm's correction, 3 seeds).",
        ]

    def test_at_80_columns(self):
        """No line is longer than the terminal, and the numbers stay whole."""
        lines = confirm_table(make_result(confirmed=CONFIRMED), width=80).splitlines()
        assert max(map(len, lines)) <= 80
        assert "0.800 ± 0.010  0.775 to 0.825      1.21     0.040" in lines[2]

    @pytest.mark.parametrize(
        ("rows", "sentence"),
        [
            (
                (confirmed("3", 0.8, p_holm=0.05), CONFIRMED[2]),
                "No difference from the baseline is established with 3 seeds.",
            ),
            ((confirmed("3", 0.8), CONFIRMED[2]), "No difference from the baseline is established with 3 seeds."),
            ((confirmed("3", 0.8),), "No baseline was confirmed, so a difference from it cannot be judged."),
            (
                (
                    confirmed("3", 0.8, p_holm=0.01),
                    confirmed("4", 0.6, p_holm=0.01),
                    confirmed("5", 0.9, p_holm=0.01),
                    CONFIRMED[2],
                ),
                (
                    "Trials 5 and 3 are better than the baseline and trial 4 is worse than the baseline "
                    "on the test split (p < 0.05 after Holm's correction, 3 seeds)."
                ),
            ),
            (
                (confirmed("3", 0.8, seeds=(0,), values=(0.8,)), confirmed("baseline", 0.7, seeds=(0,), values=(0.7,))),
                "No difference from the baseline is established with 1 seed.",
            ),
        ],
    )
    def test_sentence(self, rows, sentence):
        """What the numbers mean is said in words, and nothing is claimed that they do not establish."""
        lines = confirm_table(make_result(confirmed=rows), width=200).splitlines()
        assert lines[-1] == sentence

    def test_lower_is_better(self):
        """For a metric that should be small, the trial with the smaller mean is the better one."""
        rows = (confirmed("3", 0.6, p_holm=0.01), CONFIRMED[2])
        assert "Trial 3 is better than" in confirm_table(make_result(confirmed=rows, mode="min", metric="val/log_loss"))


class TestClosingText:
    PLACES = Places(
        directory="out/quickstart",
        ledger="postgresql://ann:secret@db/x",
        mlflow_uri="sqlite:////out/mlflow.db",
        log="out/quickstart/study.log",
        figure="out/quickstart/report/search.png",
        program=".venv/bin/study",
        mlflow=".venv/bin/mlflow",
        options=" --storage out",
    )

    def test_places_and_commands(self):
        """The end names every file and three commands that can be copied, without passwords."""
        text = closing_text(make_result(), self.PLACES)
        assert text.splitlines()[-10:] == [
            "Files",
            "  study   out/quickstart",
            "  ledger  postgresql://ann:***@db/x",
            "  MLflow  sqlite:////out/mlflow.db",
            "  log     out/quickstart/study.log",
            "  figure  out/quickstart/report/search.png",
            "Next",
            "  .venv/bin/study best quickstart --storage out --yaml",
            "  .venv/bin/study status quickstart --storage out",
            "  .venv/bin/mlflow ui --backend-store-uri sqlite:////out/mlflow.db",
        ]

    def test_nothing_complete(self):
        """A study in which every trial failed says so instead of showing an empty ranking."""
        text = closing_text(make_result(rows=ROWS[2:3]), self.PLACES)
        assert "No trial is complete, so nothing can be ranked or confirmed." in text
        assert closing_text(make_result(rows=()), self.PLACES).startswith("No trial has finished.")


class TestStopping:
    def test_result_and_error_come_back(self):
        """What the work returns or raises reaches the caller."""
        assert run_until_done(lambda _stop: 7, note=print) == 7
        with pytest.raises(ValueError, match="broken"):
            run_until_done(self._raise, note=print)

    def test_a_check_that_fails_ends_the_wait(self, monkeypatch):
        """Work that hangs is left alone; work that has an end of its own within a moment is heard."""
        monkeypatch.setattr("study.console.terminal._LAST_WORDS_S", 0.05)
        gone = LostCluster("gone")
        with pytest.raises(LostCluster, match="gone"):
            run_until_done(lambda _stop: threading.Event().wait(20), note=print, check=lambda: gone, poll_s=0.01)
        monkeypatch.setattr("study.console.terminal._LAST_WORDS_S", 10)
        assert run_until_done(lambda _stop: time.sleep(0.2) or 5, note=print, check=lambda: gone, poll_s=0.01) == 5

    @staticmethod
    def _raise(_stop):
        raise ValueError("broken")

    @pytest.mark.parametrize("number_of", [signal.SIGINT, signal.SIGTERM])
    def test_first_signal_asks_the_work_to_stop(self, number_of):
        """The first signal sets the stop flag, is told once, and the former handler is back in the end."""
        notes: list[str] = []
        before = signal.getsignal(number_of)
        threading.Timer(0.3, os.kill, (os.getpid(), number_of)).start()
        assert run_until_done(lambda stop: stop.wait(5), note=notes.append)
        assert notes == [STOPPING]
        assert signal.getsignal(number_of) == before

    def test_second_signal_ends_the_process(self, tmp_path):
        """The second signal quits with code 130 though the work goes on; handlers behind Python's back are replaced."""
        code = """
            import ctypes, signal, threading, time
            from study.console import run_until_done
            def work(stop):
                stop.wait()
                time.sleep(30)
            def foreign():
                time.sleep(0.3)
                print("ready", flush=True)
            threading.Thread(target=foreign, daemon=True).start()
            def note(text):
                print(text, flush=True)
                ctypes.CDLL(None).signal(int(signal.SIGTERM), 1)
            run_until_done(work, note=note, poll_s=0.02)
        """
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"{STOPPING}\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 130

    def test_signals_that_come_together_are_one(self):
        """`timeout` and schedulers signal a process and its group: the second one would end it before it has saved."""
        code = """
            import os, signal, time
            from study.console import run_until_done
            def work(stop):
                for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                    os.kill(os.getpid(), number)
                stop.wait()
                time.sleep(0.5)
                return "saved"
            print(run_until_done(work, note=print))
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, f"{STOPPING}\nsaved\n")

    def test_nohup(self):
        """A closed terminal stops a study in order, unless nohup says that it shall go on."""
        code = """
            import os, signal, sys, time
            from study.console import run_until_done
            if sys.argv[1] == "nohup":
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            def work(stop):
                os.kill(os.getpid(), signal.SIGHUP)
                return stop.wait(float(sys.argv[2]))
            print(run_until_done(work, note=lambda text: None, poll_s=0.02))
        """
        for how, seconds, stopped in (("nohup", "0.5", "False\n"), ("plain", "60", "True\n")):
            command = [sys.executable, "-c", textwrap.dedent(code), how, seconds]
            assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == stopped

    def test_an_alarm_of_a_library_does_not_end_the_work(self):
        """An alarm that a library's handler has set when the signal came does not kill the process while it saves."""
        code = """
            import os, signal, threading, time
            from study.console import run_until_done
            def work(stop):
                signal.setitimer(signal.ITIMER_REAL, 0.6)
                os.kill(os.getpid(), signal.SIGTERM)
                stop.wait()
                time.sleep(1)
                return "saved"
            print(run_until_done(work, note=print, poll_s=0.02))
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, f"{STOPPING}\nsaved\n")


def test_quiet_terminal_catches_everything_and_restores(tmp_path: Path):
    """Output of this process, of C code and of children goes to the log; the terminal gets what is meant for it."""
    log = tmp_path / "deep" / "study.log"
    code = f"""
        import logging, os, subprocess, sys
        from pathlib import Path
        from study.console import quiet_terminal
        try:
            with quiet_terminal(Path({str(log)!r})) as terminal:
                print("python chatter"); print("python complaint", file=sys.stderr)
                os.write(2, b"c chatter\\n")
                subprocess.run(["sh", "-c", "echo child chatter"])
                logging.getLogger("x").info("logged")
                terminal.write("for the user\\n")
                raise ValueError
        except ValueError:
            pass
        print("back"); print("back too", file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "back\n"
    assert done.stderr == "for the user\nback too\n"
    written = log.read_text()
    for text in ("python chatter", "python complaint", "c chatter", "child chatter", "INFO x: logged"):
        assert text in written
