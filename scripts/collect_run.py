"""Keep what the README shows of a finished run, in scripts/results/.

    python scripts/collect_run.py RUN --command "mbnas search ..." --commit COMMIT

Reads settings.yaml, manifest.json, pareto.json, rescored.jsonl and, of each candidate, metrics.json
and its audits. Minutes are those from its start to the last audit of its own, pauses included.
"""

from pathlib import Path
from typing import Any

import bench

from mbnas import Effort, runs
from mbnas.errors import SettingsError
from mbnas.files import read_json
from mbnas.inspection import audit_file


def collected(folder: runs.RunFolder, command: str, commit: str) -> dict[str, Any]:
    """All that is shown, and what someone needs to judge or repeat it.

    Raises:
        SettingsError: if nothing was retrained, or audited by several versions of the attacks.
    """
    settings, manifest = folder.settings(), read_json(folder.manifest_file)
    candidates, effort = bench.finds(folder), settings.test.audit
    if not candidates:
        raise SettingsError(f"{str(folder.path)!r} has retrained nothing that could be shown")
    audits = {each: audits_of(each) for each in candidates}
    if len({audit.get("attacks") for each in audits.values() for audit in each.values()}) > 1:
        raise SettingsError(
            f"{str(folder.path)!r} was audited by several versions of the attacks, which cannot be "
            "compared; move away all audit-*.json in candidates/ but those of one"
        )
    records = [retrained(each, found, effort) for each, found in audits.items()]
    rescored = {record["id"]: record for record in folder.rescored.read()}
    started = folder.settings_file.stat().st_mtime
    finished = [audit_file(each, effort).stat().st_mtime for each in candidates]
    return {
        "command": command,
        "commit": commit,
        "versions": manifest["versions"],
        "hardware": manifest["hardware"],
        "seed": settings.seed,
        "space": settings.name,
        "layers": settings.space.layers,
        "budget": settings.search.budget,
        "threat": settings.threat.model_dump(mode="json"),
        "minutes": (max(finished) - started) / 60,
        "evaluations": len(folder.trials.read()),
        "scored on": settings.search.images,
        "judged by others": settings.data.validation >= 2 * settings.search.images,
        "pareto": [row | rescored[row["id"]] for row in read_json(folder.pareto_file)],
        "retrained": sorted(records, key=lambda each: each["bops"]),
    }


def audits_of(candidate: Path) -> dict[str, Any]:
    """Records of all its audits, by effort."""
    files = {each.value: audit_file(candidate, each) for each in Effort}
    return {effort: read_json(file) for effort, file in files.items() if file.exists()}


def retrained(candidate: Path, audits: dict[str, Any], effort: Effort) -> dict[str, Any]:
    """What was measured of a retrained network, and what its audits came to, other efforts' too."""
    further = {each: shown(audit) for each, audit in audits.items()}
    own = further.pop(effort)
    return {**read_json(candidate / "metrics.json"), "audit": own, "further audits": further}


def shown(audit: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an audit's record; networks below this folder are named as seen from it."""
    kept = {key: audit[key] for key in ("worst_case", "verdict", "images")}
    after = {
        each.replace(f"{Path.cwd()}/", ""): left for each, left in audit["standing_after"].items()
    }
    return {**kept, "standing_after": after}


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--command", required=True, help="that made the run")
    parser.add_argument("--commit", required=True, help="of the code that made it")
    parser.add_argument("--name", help="of the result (default: the run's space)")
    arguments = parser.parse_args()
    folder = runs.reopen(arguments.run)
    result = collected(folder, arguments.command, arguments.commit)
    print(bench.keep_described(f"search-{arguments.name or result['space']}", result))


if __name__ == "__main__":
    bench.run(main)
