"""Write the tables of README.md and scripts/README.md from scripts/results/, between markers.

    python scripts/readme_tables.py

Tests fail while a page shows anything else than this script writes.
"""

import re
from collections.abc import Callable
from pathlib import Path

from tables.cells import RESULTS, Result, read
from tables.papers import audits, claim, formats, paper, trainings
from tables.peers import agreement, attacks, pipeline, supernet, training
from tables.rankings import engines, ranking, rules
from tables.searches import finds, fronts, paired, search
from tables.studies import gap, recipe, restarts, retraining, studies, study, sweep

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "scripts" / "README.md")
MARKED = re.compile(r"(<!-- (\w+): ([\w.*-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

KINDS: dict[str, Callable[[Result], str]] = {
    each.__name__: each
    for each in (
        agreement,
        attacks,
        audits,
        engines,
        finds,
        fronts,
        gap,
        paper,
        pipeline,
        ranking,
        recipe,
        restarts,
        retraining,
        rules,
        search,
        study,
        supernet,
        sweep,
        training,
    )
}
TOGETHER = {
    "formats": ("paper", formats),
    "papers": ("paper", trainings),
    "studies": ("study", studies),
}


def written(page: str) -> str:
    """The page with the tables that its markers ask for.

    ``<!-- search: digits -->`` is one result, ``<!-- formats: resnet8-*cpu -->`` rows of the
    paper of several that were trained alike, ``<!-- papers: resnet20-*cpu -->`` of several that
    were not, ``<!-- studies: fastat-* -->`` several studies,
    ``<!-- paired: digits.digits-square -->`` two of finds, and
    ``<!-- claim: resnet20.natural.mbn3x1.mbn1x3 -->`` what the paper says of two formats.
    """

    def filled(match: re.Match[str]) -> str:
        opening, kind, name, closing = match.groups()
        if kind in TOGETHER:
            one, together = TOGETHER[kind]
            files = sorted(RESULTS.glob(f"{one}-{name}.json"))
            of = {each.stem.removeprefix(f"{one}-"): read(each.stem) for each in files}
            return f"{opening}{together(of)}\n{closing}"
        if kind == "paired":
            before, after = (read(f"finds-{each}") for each in name.split("."))
            return f"{opening}{paired(before, after)}\n{closing}"
        if kind == "claim":
            return f"{opening}{claim(*name.split('.'))}\n{closing}"
        return f"{opening}{KINDS[kind](read(f'{kind}-{name}'))}\n{closing}"

    return MARKED.sub(filled, page)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page.read_text()))
