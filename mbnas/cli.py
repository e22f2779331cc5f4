"""The command line: parses, calls, prints. Data goes to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import torch
import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from mbnas import backbones, config, inspection, parallel, pipeline, report, runs
from mbnas.assignment import Assignment
from mbnas.auditing import page
from mbnas.bops import bops, itemise
from mbnas.checkpoints import network_file
from mbnas.devices import pick_device
from mbnas.errors import DataError, MbnasError, SettingsError
from mbnas.files import UNWRITABLE, at_home
from mbnas.formats import Format
from mbnas.progress import CONSOLE, show_messages
from mbnas.search.executors import Executor, default_workers
from mbnas.settings import Effort, Settings, Training

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Example: mbnas search --space search_spaces/digits.yaml --budget 5e6\n\n"
    "Layer-wise search over multi-bit networks for accuracy, robustness and bit-operations.",
)

INTERRUPTED = 130
"""Exit code, that of a shell: 128 and the number of the signal."""
# A shell reads ~ as the home folder, but not behind the = of an option.
_path_option = partial(typer.Option, parser=at_home)
_path_argument = partial(typer.Argument, parser=at_home)
Space = Annotated[Path | None, _path_option(help="YAML file of the search space.")]
Budget = Annotated[str | None, typer.Option(help="Most BOPS a network may cost, e.g. 2e8.")]
DataFolder = Annotated[Path | None, _path_option("--data", help="Folder of the images.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="KEY.PATH=VALUE in place of what the space or the run says; may be repeated."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print data as JSON instead of a table.")]


def main() -> None:
    """Entry point: a user's mistake ends in one line and its exit code."""
    show_messages()
    # A scheduler that takes the machine back should hear how to go on, as at Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with parallel.together():
            if app(standalone_mode=False, prog_name="mbnas") == INTERRUPTED:
                raise KeyboardInterrupt  # which typer has swallowed
    except MbnasError as error:
        _fail(str(error), error.exit_code)
    except TyperException as error:
        reason = error.format_message().rstrip(".").replace("Value error, ", "")
        commands = {getattr(each.callback, "__name__", "") for each in app.registered_commands}
        known = [word for word in sys.argv[1:2] if word in commands]
        _fail(f"{reason}; see {' '.join(['mbnas', *known, '--help'])}", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; the same command goes on with what was kept, if anything", INTERRUPTED)
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        _fail(
            f"{reason}; what was finished is safe: go on with fewer --workers or where more memory "
            "is free, or begin anew with a smaller supernet.batch_size or retraining.batch_size",
            SettingsError.exit_code,
        )
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        _fail(
            f"cannot read or write {error.filename or 'what this prints'}: {error.strerror}; what "
            "was finished is safe: make room, get access, or go on in a copy or another "
            "--out; a search goes on with --resume",
            DataError.exit_code,
        )


def _fail(message: str, code: int) -> NoReturn:
    # Of processes that train together one on each machine says what is wrong there.
    CONSOLE.quiet = os.environ.get("LOCAL_RANK", "0") != "0"
    CONSOLE.print(f"mbnas: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


@app.command(short_help="Train a supernet, search it, retrain the best.")
def search(
    space: Space = None,
    budget: Budget = None,
    data: DataFolder = None,
    out: Annotated[Path | None, _path_option(help="New run folder.")] = None,
    overrides: Override = None,
    seed: Seed = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Candidates scored side by side.")
    ] = None,
    evaluations: Annotated[int | None, typer.Option(help="Candidates in all.")] = None,
    executor: Annotated[Literal["ray", "inprocess"], typer.Option(help="Who scores.")] = "ray",
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    retrain: Annotated[int | None, typer.Option(help="Pareto members to retrain.")] = None,
    supernet: Annotated[
        Path | None, _path_option(help="Run whose supernet to search again, not to train one.")
    ] = None,
    resume: Annotated[Path | None, _path_option(help="Interrupted run to go on with.")] = None,
    as_json: Json = False,
) -> None:
    """Example: mbnas search --space search_spaces/digits.yaml --budget 5e6

    Train a supernet, search it, retrain the most useful Pareto members.
    """
    changes = _changes(
        overrides,
        {
            "search.budget": budget,
            "data.root": data,
            "seed": seed,
            "search.evaluations": evaluations,
            "retraining.candidates": retrain,
        },
    )
    if resume is not None:
        settings = _resumed_settings(resume, space, changes)
        folder = resume
        if out is not None and out.resolve() != resume.resolve():
            raise SettingsError("--resume goes on in its own folder; leave --out away")
        if supernet is not None:
            raise SettingsError("--resume goes on with its own supernet; leave --supernet away")
    else:
        if supernet is not None and space is None:
            space = runs.reopen(supernet).settings_file
        settings = config.load(_required(space), changes)
        pipeline.require_searchable(settings, supernet)
        folder = out or Path(f"runs/{settings.name}-{settings.search.budget:g}-seed{settings.seed}")
    device = pick_device(settings.device)
    scoring = Executor(executor, workers or default_workers(executor, device), address)
    try:
        if resume is not None:
            outcome = pipeline.resume_search(folder, settings, scoring)
        else:
            outcome = pipeline.run_search(settings, folder, scoring, supernet)
    except KeyboardInterrupt:
        if not runs.RunFolder(folder).settings_file.exists():
            _fail("interrupted before the run began; give the same command again", INTERRUPTED)
        flags: list[tuple[str, object]] = [
            ("--executor", executor),
            ("--workers", workers),
            ("--address", address),
        ]
        if resume is not None:  # some of it the folder does not know
            flags += [
                *(("--space", space), ("--budget", budget), ("--data", data), ("--seed", seed)),
                *(("--evaluations", evaluations), ("--retrain", retrain)),
                *(("--set", each) for each in overrides or ()),
            ]
        given = [(flag, str(value)) for flag, value in flags if value not in (None, "ray")]
        start = [*parallel.launcher(), "mbnas", "search", *["--json"] * as_json]
        go_on = [*start, "--resume", str(folder), *chain.from_iterable(given)]
        _fail(f"interrupted; go on with: {shlex.join(go_on)}", INTERRUPTED)
    if as_json:
        _print_json(
            {
                "run": str(folder),
                "pareto": [
                    {**trial.row(), "worst_case": outcome.worst_cases[trial.id]}
                    for trial in outcome.front
                ],
                "retrained": list(outcome.retrained),
            }
        )
        return
    _print(report.pareto_table(outcome.front, outcome.worst_cases))
    if outcome.retrained:
        _print(report.retrained_table(outcome.retrained, settings.space.layers))
    _say_next(folder, outcome, data)


@app.command(short_help="Size and cost of a space, one network itemised.")
def profile(
    space: Space = None,
    budget: Budget = None,
    assignment: Annotated[
        str | None, typer.Option(help="MxN for every layer, or MxN,MxN,... (default: largest).")
    ] = None,
    overrides: Override = None,
    as_json: Json = False,
) -> None:
    """Example: mbnas profile --space search_spaces/resnet20.yaml --assignment 3x1

    Size of a space, cost of its networks, and one assignment itemised.
    """
    settings = config.load(_required(space), _changes(overrides, {"search.budget": budget}))
    table, choices, limit = settings.table, settings.space, settings.search.budget
    chosen = (
        Assignment.parse(assignment, choices.layers) if assignment is not None else choices.largest
    )
    layers = itemise(table, chosen)
    smallest = bops(table, choices.smallest)
    uniform = {str(each.layers[0]): bops(table, each) for each in choices.uniforms}
    if as_json:
        _print_json(
            {
                "space": settings.name,
                "size": choices.size,
                "smallest": smallest,
                "largest": bops(table, choices.largest),
                "uniform": uniform,
                "budget": limit,
                "feasible": None if limit is None else smallest <= limit,
                "assignment": str(chosen),
                "bops": bops(table, chosen),
                "layers": [
                    {**asdict(layer), "bases": str(layer.bases), "bops": layer.bops}
                    for layer in layers
                ],
            }
        )
    else:
        _print(report.cost_table(layers))
        _print(report.space_table(settings))
    if limit is not None:
        pipeline.check_budget(settings)


@app.command(short_help="Train one candidate of a run on its own.")
def retrain(
    run: Annotated[Path, _path_argument(help="Run folder.")],
    candidate: Annotated[str, typer.Option(help="Id of an evaluated candidate.")],
    start: Annotated[
        Literal["supernet", "scratch"] | None, typer.Option(help="Initial weights.")
    ] = None,
    data: DataFolder = None,
    overrides: Override = None,
    as_json: Json = False,
) -> None:
    """Example: mbnas retrain runs/digits-5e+06-seed0 --candidate 1a2b3c4d

    Train one candidate of a run on its own and measure it on test images.
    """
    changes = _changes(overrides, {"data.root": data, "retraining.start": start})
    settings = runs.reopen(run).settings(changes)
    metrics = pipeline.retrain_candidate(run, candidate, settings)
    if as_json:
        _print_json(metrics)
        return
    _print(report.retrained_table([metrics], settings.space.layers))
    _say(f"next: {_command('audit', f'{run}/candidates/{candidate}', data=data)}")


@app.command(short_help="Train one network of any number format.")
def train(
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="float, pact4, pact2x4, xnor, mbn3x1, mbn3x1,1x1,..., wprune4, cprune4"
        ),
    ],
    backbone: Annotated[str | None, typer.Option(help="In place of that of the space.")] = None,
    training: Annotated[
        Training | None, typer.Option(help="Perturbations to train on, not those of the space.")
    ] = None,
    start: Annotated[Path | None, _path_option(help="Trained network to start from.")] = None,
    teacher: Annotated[
        Path | None, _path_option(help="Trained network whose logits are learned, not labels.")
    ] = None,
    space: Space = None,
    data: DataFolder = None,
    out: Annotated[Path | None, _path_option(help="Folder of the network.")] = None,
    overrides: Override = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Example: mbnas train --backbone resnet20 --format mbn3x1 --training fastat

    Train one network by the recipe of a space (default: the one named like the backbone), from
    scratch or from what fits of another one (--start), and measure it on test images. Interrupted,
    the same command goes on.
    """
    for option, folder_of in (("--start", start), ("--teacher", teacher)):
        if folder_of in (Path("supernet"), Path("scratch")):  # words of the settings of a search
            raise SettingsError(
                f"{option} {folder_of} is for a search; give the folder of a trained network, by "
                "its whole path if it has that name"
            )
    changes = _changes(
        overrides,
        {
            "backbone.name": backbone,
            "data.root": data,
            "seed": seed,
            "retraining.training": training,
            "retraining.start": start,
            "retraining.teacher": teacher,
        },
    )
    settings = config.load(space or _named_like(backbone), changes)
    chosen = Format.parse(format_, settings.space.layers)
    short = str(chosen) if len(str(chosen)) < 32 else chosen.id
    words = (settings.name, short, settings.retraining.training, f"seed{settings.seed}")
    folder = out or Path("runs") / "-".join(words)
    metrics = pipeline.train_network(settings, format_, folder)
    if as_json:
        _print_json(metrics)
        return
    _print(report.retrained_table([metrics], settings.space.layers))
    _say(f"next: {_command('audit', str(folder), data=data)}")


@app.command(short_help="Measure a network on test images.")
def evaluate(
    checkpoint: Annotated[Path, _path_argument(help="candidates/<id> of a run, or its file.")],
    data: DataFolder = None,
    overrides: Override = None,
    as_json: Json = False,
) -> None:
    """Example: mbnas evaluate runs/digits-5e+06-seed0/candidates/1a2b3c4d

    Measure a network on the test images of its data set.
    """
    metrics = inspection.evaluate_checkpoint(checkpoint, _changes(overrides, {"data.root": data}))
    if as_json:
        _print_json(metrics)
    else:
        _print(report.attack_table(metrics))
        _say(f"next: {_command('audit', str(checkpoint), data=data)}")


@app.command(short_help="Try everything to break a network.")
def audit(
    checkpoint: Annotated[Path, _path_argument(help="candidates/<id> of a run, or its file.")],
    effort: Annotated[Effort, typer.Option(help="How much is tried.")] = Effort.STANDARD,
    transfer: Annotated[
        list[Path] | None,
        _path_option(help="Network whose adversarial images are tried, too; may be repeated."),
    ] = None,
    data: DataFolder = None,
    overrides: Override = None,
    as_json: Json = False,
) -> None:
    """Example: mbnas audit runs/digits-5e+06-seed0/candidates/1a2b3c4d --effort quick

    Attack a network with everything there is and say how far its robustness can be trusted.
    """
    changes = _changes(overrides, {"data.root": data})
    found = inspection.audit_checkpoint(checkpoint, effort, changes, transfer or ())
    if as_json:
        _print_json(found)
        return
    folder = network_file(checkpoint).parent
    _print(page.table(found, folder.resolve().name))
    written = inspection.audit_file(folder, effort)
    _say(f"the page is {written.with_suffix('.html')}, the record {written}")


def _named_like(backbone: str | None) -> Path:
    """The space of a backbone."""
    if backbone is None:
        return _required(None)
    backbones.require_known(backbone)
    path = Path(f"search_spaces/{backbone}.yaml")
    if not path.is_file():
        spaces = sorted(str(each) for each in path.parent.glob("*.yaml"))
        there = f"one of {', '.join(spaces)}" if spaces else "FILE, or go to the root of a checkout"
        raise SettingsError(
            f"no space {str(path)!r} here; say by --space whose recipe and data {backbone} is to "
            f"be trained with: {there}"
        )
    return path


def _required(space: Path | None) -> Path:
    if space is None:
        raise SettingsError("no space; give --space FILE, such as search_spaces/digits.yaml")
    return space


def _changes(overrides: Sequence[str] | None, flags: dict[str, Any]) -> list[str]:
    """Flags are shorthand for ``--set``; JSON strings are YAML, so paths survive."""
    given = {key: value for key, value in flags.items() if value is not None}
    twice = given.keys() & {each.partition("=")[0].strip() for each in overrides or ()}
    if twice:
        key = min(twice)
        raise SettingsError(f"{key} is given by a flag and by --set; leave one of them away")
    as_text = partial(json.dumps, ensure_ascii=False)  # YAML joins no pairs of surrogates
    return [*(overrides or ()), *(f"{key}={as_text(str(v))}" for key, v in given.items())]


def _resumed_settings(path: Path, space: Path | None, changes: Sequence[str]) -> Settings:
    folder = runs.reopen(path)
    settings = folder.settings(changes) if space is None else config.load(space, changes)
    if settings.search.budget is None:  # a space leaves that to the command
        budget = folder.settings().search.budget
        settings = config.validate(settings.model_dump(), [f"search.budget={budget}"])
    return settings


def _say(text: str) -> None:
    """As it is, brackets and all."""
    CONSOLE.print(text, highlight=False, soft_wrap=True, markup=False)


def _print(table: Table) -> None:
    Console().print(table)


def _print_json(value: Any) -> None:  # noqa: ANN401 (whatever JSON can hold)
    print(json.dumps(value, indent=2))


def _command(command: str, folder: str, *options: str, data: Path | None) -> str:
    """To be given next, on images that may have been moved since settings were written."""
    place = f"./{folder}" if folder.startswith("-") else folder  # which would be an option
    moved = [] if data is None else ["--data", str(data)]
    return shlex.join(["mbnas", command, place, *options, *moved])


def _say_next(folder: Path, outcome: pipeline.Outcome, data: Path | None) -> None:
    costliest, known = outcome.front[-1], {each["id"] for each in outcome.retrained}
    others = [each for each in outcome.front if each.id not in known]
    settings, retrain = shlex.quote(f"{folder}/settings.yaml"), ("retrain", str(folder))
    if outcome.retrained:
        network = f"{folder}/candidates/{outcome.retrained[0]['id']}"
        first = _command("audit", network, data=data)
    else:
        first = _command(*retrain, "--candidate", costliest.id, data=data)
        others = others[:-1]
    lines = (
        f"everything is in {folder}, the picture in {folder}/pareto.html",
        "next:",
        f"  {first}",
        *(f"  {_command(*retrain, '--candidate', each.id, data=data)}" for each in others[:1]),
        f"  mbnas profile --space {settings} --assignment {costliest.assignment}",
    )
    _say("\n".join(lines))
