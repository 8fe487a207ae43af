"""The pages about sources: one each, with a study file that works and every option."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from study.config.data import DataConfig
from study.config.sources import Source
from study.data.sources import SOURCES

PAGES = Path(__file__).parents[4] / "docs" / "sources"
RECORDS = {get_args(record.model_fields["kind"].annotation)[0]: record for record in get_args(get_args(Source)[0])}


def snippets(page: Path) -> list[dict]:
    return [
        yaml.safe_load(text) for text in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    ]


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_page_of_a_source(kind):
    """A source has no page, its study file is refused, or an option is not explained."""
    page = PAGES / f"{kind}.md"
    sources = [source for snippet in snippets(page) for source in DataConfig.model_validate(snippet["data"]).sources]
    assert kind in {source.kind for source in sources}
    text = page.read_text()
    for heading in ("## Counts", "## What is dropped", "**Licence"):
        assert heading in text or kind in ("table", "phantom")
    for option in set(RECORDS[kind].model_fields) - {"kind", "name", "root", "allow_outside"}:
        assert f"`{option}`" in text


def test_what_holds_for_all():
    """An option of all sources is explained on no page."""
    assert "`allow_outside: true`" in (PAGES / "README.md").read_text()


def test_index():
    """A source is not in the index of all sources, or a link of the index leads nowhere."""
    text = (PAGES / "README.md").read_text()
    linked = re.findall(r"\[`(\w+)`\]\((\w+)\.md\)", text)
    assert {kind for kind, _ in linked} >= set(SOURCES)
    assert all(kind == page and (PAGES / f"{page}.md").is_file() for kind, page in linked)
    for snippet in snippets(PAGES / "README.md"):
        DataConfig.model_validate(snippet["data"])
