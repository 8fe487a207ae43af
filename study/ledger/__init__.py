"""The ledger: one Optuna storage that is the truth about a study.

It holds every trial with its parameters, every epoch with all metrics, states, attempts, reasons, the runs of the
confirmation and each reading of the test split. Whoever opens it needs nothing else to go on exactly where the study
stood, or to print its table.
"""

from study.ledger.book import Ledger
from study.ledger.lock import lock_holder, lock_study
from study.ledger.locking import Held, LockHolder, is_here
from study.ledger.now import Now, RunNow
from study.ledger.pruners import PRUNERS
from study.ledger.pruning import HalvingPruner
from study.ledger.records import LedgerRun, LedgerStatus, LedgerTrial, Reading, RunRecord
from study.ledger.several import stopped
from study.ledger.stopping import ask_to_stop
from study.ledger.storage import default_url
from study.ledger.suggestion import ALGORITHMS
from study.ledger.telling import Teller

__all__ = [
    "ALGORITHMS",
    "PRUNERS",
    "HalvingPruner",
    "Held",
    "Ledger",
    "LedgerRun",
    "LedgerStatus",
    "LedgerTrial",
    "LockHolder",
    "Now",
    "Reading",
    "RunNow",
    "RunRecord",
    "Teller",
    "ask_to_stop",
    "default_url",
    "is_here",
    "lock_holder",
    "lock_study",
    "stopped",
]
