"""docs/guide/publishers.md: its sample passes the check, and does what the page says of it."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config import load_site
from gateway.selection import Selection

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "publishers.md").read_text()


def test_the_sample_of_the_guide_is_a_site_file_without_problems(tmp_path: Path) -> None:
    (sample,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "site.yaml"
    path.write_text(sample)
    site = load_site(path)
    assert [problem.reason for problem in site.warnings] == []
    tables = [table for link in site.links for table in link.tables]
    partner = site.publishers["partner"]
    assert partner.tags is not None
    shown = Selection(partner.tags, tables).tables(tables)
    assert {(table.device, name) for table in shown for name in table.names} == {
        ("machine-a", "p"), ("boiler", "energy_gas"),
    }  # fmt: skip
    assert str(partner.budget) == "50 MB/day"
    assert (partner.rate and partner.rate.octets, partner.widen) == (64_000, 4)
    assert site.publishers["group"].backlog == "newest"
