"""What a study leaves behind for people: its order, its words, its figure and its table."""

from study.report.figure import write_search_figure
from study.report.ranking import confirm_ranked, ranked, test_metric, verdict
from study.report.table import write_search_table

__all__ = ["confirm_ranked", "ranked", "test_metric", "verdict", "write_search_figure", "write_search_table"]
