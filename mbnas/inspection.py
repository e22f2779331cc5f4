"""What a saved network is worth: measured or audited on the test images of its data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mbnas import config, parallel
from mbnas import data as datasets
from mbnas.auditing import PLANS, audit, begun_with, feasible, page, version
from mbnas.checkpoints import NETWORK_FILE, digest, load_network, network_file, require_images_of
from mbnas.devices import pick_device
from mbnas.environment import environment
from mbnas.errors import DataError, SettingsError
from mbnas.files import alone_in, at_home, read_json, write_json, write_text
from mbnas.final import final_scores
from mbnas.formats import Format
from mbnas.images import Images
from mbnas.journal import Journal
from mbnas.networks import Network, freeze
from mbnas.progress import log
from mbnas.retraining import described, frozen_network
from mbnas.sameness import require_same, require_same_networks
from mbnas.settings import Effort, Settings
from mbnas.threads import suited_to

_KEEP = "move it away, and its page, to keep both audits, or delete it"
_ANEW = "move it away, and its page, to audit by this one"


def evaluate_checkpoint(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Measure a network on the test images of its data set.

    Args:
        overrides: ``key.path=value`` changes to the settings it was trained with.

    Raises:
        DataError: if the checkpoint is corrupt, or the images are not those it belongs to.
        SettingsError: if ``overrides`` are no settings, or those of another network.
    """
    network, format_, settings, images = _opened(at_home(path), overrides)
    with suited_to(settings.table, settings.retraining):
        scores = parallel.led(lambda: final_scores(network, images, settings))
        return {**described(settings, format_), "test": asdict(scores)}


def audit_checkpoint(
    path: str | Path,
    effort: Effort,
    overrides: Sequence[str] = (),
    transfer: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Audit a network and leave ``audit-<effort>.json`` and ``.html`` beside it.

    An interrupted audit goes on where it stopped; a finished one is not made again, unless it tried
    the adversarial images of fewer networks, or by another plan, than would be tried now.

    Args:
        overrides: ``key.path=value`` changes to the settings it was trained with.
        transfer: networks whose adversarial images are tried on this one; those that were
            retrained in the same run are tried in any case.

    Returns:
        What the JSON file holds.

    Raises:
        DataError: if a checkpoint is corrupt, the images are not those it belongs to, another
            process works in its folder, or there is such an audit of another network.
        SettingsError: if there is such an audit under another threat, with another seed, or with
            other networks to transfer from, or if ``overrides`` are no settings, or those of
            another network.
    """
    path = at_home(path)
    network, format_, settings, images = _opened(path, overrides)
    others = siblings(network_file(path).parent)
    known = [network_file(each).resolve() for each in others]
    own, sources = network_file(path).resolve(), {each.name: each for each in others}
    for each in map(at_home, transfer):
        file = network_file(each).resolve()
        if file == own:
            log.warning("%s is the network under audit itself and no other to transfer from", each)
        elif file not in known:
            sources[_place(each)] = each
    return parallel.led(
        lambda: audited(network, format_.id, settings, images, path, effort, sources)
    )


def audited(
    network: Network,
    name: str,
    settings: Settings,
    images: Images,
    path: Path,
    effort: Effort,
    sources: Mapping[str, Path],
) -> dict[str, Any]:
    """The record of an audit of a frozen network on test images, made now unless one is there.

    It lies, with its page, beside the file of the network.

    Args:
        path: the file of the network, or the folder it lies in.
        sources: networks whose adversarial images are tried on this one, by name.

    Raises:
        DataError: if another process works there, there is an audit of another network, or a
            source is corrupt or of other images.
        SettingsError: if there is an audit under another threat, with another seed, or with other
            networks to transfer from.
    """
    plan, folder = feasible(PLANS[effort]), network_file(path).parent
    journal = Journal(folder / f"audit-{effort}.jsonl")
    file = audit_file(folder, effort)
    tried = {each: digest(source) for each, source in sources.items()}
    asked = set(tried.values())
    with alone_in(folder), suited_to(settings.table, settings.retraining):
        known = _known(file, path, settings)
        names = _tried(known)
        enough = (plan.record(), replace(plan, autoattack=True).record())
        if known is not None and known["plan"] in enough and asked <= names.keys():
            log.info("%s was made before; this is what it says", file)
            if known.get("attacks") != version():
                log.warning("it was made by another version of the attacks; %s", _ANEW)
            if begun_with(journal) <= known["sources"].keys():  # left by a kill
                journal.remove()
        else:
            _require_no_more_tried(names, asked, file)
            found = audit(
                network,
                images.first(plan.images),
                settings.threat,
                plan,
                seed=settings.seed,
                journal=journal,
                sources={each: frozen_network(of, images) for each, of in sources.items()},
            )
            made = {"network": digest(path), "sources": tried, "environment": environment()}
            known = {**made, **page.record(found)}
            write_text(file.with_suffix(".html"), page.page(known, name))
            write_json(file, known)
            journal.remove()
    return known


def audit_file(folder: Path, effort: Effort) -> Path:
    """Where the record of an audit lies; its page lies beside it."""
    return folder / f"audit-{effort}.json"


def _known(file: Path, path: Path, settings: Settings) -> dict[str, Any] | None:
    """The record of an earlier audit, if there is one.

    Raises:
        DataError: if it was made of another network.
        SettingsError: if it was made under another threat or with another seed.
    """
    if not file.exists():
        return None
    asked = {"threat": settings.threat.model_dump(mode="json"), "seed": settings.seed}
    record: dict[str, Any] = read_json(
        file, "network", "plan", "sources", *asked, advice="delete it to audit anew"
    )
    if record["network"] != digest(path):
        raise DataError(
            f"{str(file)!r} is the audit of another network than {str(path)!r}; {_KEEP}"
        )
    made = {key: record[key] for key in asked}
    require_same(made, asked, f"{str(file)!r} was made", _KEEP)
    return record


def _tried(record: Mapping[str, Any] | None) -> dict[str, str]:
    """The networks whose adversarial images an audit tried, if there was one: digest to name."""
    return {of: name for name, of in record["sources"].items()} if record else {}


def _require_no_more_tried(tried: Mapping[str, str], asked: AbstractSet[str], file: Path) -> None:
    """Let no audit take the place of one that has tried the adversarial images of more networks."""
    missing = sorted(name for of, name in tried.items() if of not in asked)
    if missing:
        raise SettingsError(
            f"{str(file)!r} was made with adversarial images of {', '.join(missing)}, too; give "
            f"--transfer PATH for each of these networks, or {_KEEP}"
        )


def _place(path: Path) -> str:
    """Where a network lies, however that is spelt: an unfinished audit knows it by this."""
    file = network_file(path).resolve()
    return str(file.parent if file.name == NETWORK_FILE else file)


def siblings(folder: Path) -> list[Path]:
    """The other retrained networks of the run that ``folder`` is a candidate of, if of any."""
    folder = folder.resolve()
    if folder.parent.name != "candidates":
        return []
    files = sorted(folder.parent.glob(f"*/{NETWORK_FILE}"))
    return [file.parent for file in files if file.parent != folder]


def _opened(path: Path, overrides: Sequence[str]) -> tuple[Network, Format, Settings, Images]:
    """A network, frozen, and the test images that belong to it, both on the device."""
    network, format_, saved = load_network(path)
    settings = config.validate(saved.model_dump(mode="json"), overrides)
    require_same_networks(saved, settings, f"{str(path)!r} was trained")
    images = datasets.load_test(settings.data)
    require_images_of(path, images)
    device = pick_device(settings.device)
    return freeze(network.to(device)), format_, settings, images.to(device)
