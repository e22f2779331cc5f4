"""What the scripts share: mistakes, paired timing, memory, peers, and where results are kept."""

import argparse
import filecmp
import functools
import json
import math
import operator
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import mbnas  # before torch: it says how torch's threads are to wait

# isort: split
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mbnas import data as datasets
from mbnas import pipeline
from mbnas.auditing import version
from mbnas.checkpoints import NETWORK_FILE, digest, network_file, require_images_of
from mbnas.environment import environment
from mbnas.errors import MbnasError, SettingsError
from mbnas.files import UNWRITABLE, read_json, write_text
from mbnas.images import Images
from mbnas.inspection import audit_file
from mbnas.journal import Journal
from mbnas.layers import ActivationQuantizer, QuantizedConv2d, WeightQuantizer
from mbnas.ledger import Ledger
from mbnas.networks import Network
from mbnas.normalisation import of_weight, unchanged
from mbnas.progress import bar, log
from mbnas.quantizers import staircase
from mbnas.runs import RunFolder

RESULTS = Path(__file__).parent / "results"
SOURCES = ("mbnas", "search_spaces", "scripts/*.py", "scripts/paper.csv")  # of results


def _commit() -> str:
    """Of the code that runs; results may have changed since."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(RESULTS.parent.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    if shutil.which("git") is None:
        return "unknown"
    changed = git("status", "--porcelain", *SOURCES)
    return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


COMMIT = _commit()  # now: it may be another one when what takes hours has ended


def expanded(network: Network) -> Network:
    """The network with M x N convolutions a layer, as public implementations have it."""
    for name, layer in network.convolutions.items():
        assert isinstance(layer, QuantizedConv2d)
        network.convolutions[name] = ExpandedConv2d(layer)
    return network


class ExpandedConv2d(torch.nn.Module):
    """sum_m sum_n alpha_m beta_n conv(B_m, A_n); each base is computed once."""

    def __init__(self, layer: QuantizedConv2d) -> None:
        super().__init__()
        assert isinstance(layer.weights, WeightQuantizer)
        assert isinstance(layer.activations, ActivationQuantizer)
        self.row, self.weight = layer.row, layer.weight
        self.weights, self.activations = layer.weights, layer.activations
        self.kept: list[Tensor] | None = None

    def freeze(self) -> None:
        """Keep the weight bases, which are computed in every pass otherwise."""
        with torch.no_grad():
            self.kept = self.bases(mbnas.Surrogate.STE)

    def bases(self, surrogate: mbnas.Surrogate) -> list[Tensor]:
        """B_m, each (C_out, C_in, k, k)."""
        W, u = self.weight, self.weights.u
        one, standard = W.new_ones(1), of_weight(W)
        return [staircase(W, u[m : m + 1], one, surrogate, standard) for m in range(len(u))]

    def forward(
        self,
        x: Tensor,
        norm: torch.nn.BatchNorm2d,
        surrogate: mbnas.Surrogate = mbnas.Surrogate.STE,
        weight_surrogate: mbnas.Surrogate = mbnas.Surrogate.STE,
    ) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
        alpha, v, beta = self.weights.alpha.squeeze(-1), self.activations.v, self.activations.beta
        z = norm(x)
        one, identity = z.new_ones(1), unchanged(z)
        B = self.bases(weight_surrogate) if self.kept is None else self.kept
        A = [staircase(z, v[n : n + 1], one, surrogate, identity) for n in range(len(v))]
        stride, padding = self.row.stride, self.row.kernel // 2
        return functools.reduce(
            operator.add,
            (
                alpha[m] * beta[n] * F.conv2d(A[n], B[m], stride=stride, padding=padding)
                for m in range(len(B))
                for n in range(len(A))
            ),
        )


@contextmanager
def plain() -> Iterator[None]:
    """Inside, quantizers run as separate tensor operations."""
    with (
        mock.patch.multiple("mbnas.loops", suits=_never),
        mock.patch.multiple("mbnas.fusion", suits=_never),
    ):
        yield


def _never(x: Tensor) -> bool:
    return False


def compiled() -> AbstractContextManager[Any]:
    """Inside, everything runs as it does outside."""
    return nullcontext()


def run(main: Callable[[], object]) -> None:
    """The whole of a script; a user's mistake or Ctrl-C ends it with one line, not a traceback."""
    try:
        main()
    except MbnasError as mistake:
        sys.exit(str(mistake))
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        sys.exit(f"cannot write {error.filename}: {error.strerror}; name another folder")
    except KeyboardInterrupt:
        print("interrupted; a script that keeps what is finished goes on with it", file=sys.stderr)
        sys.exit(130)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of a script, whose docstring ``--help`` begins with as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_effort(parser: argparse.ArgumentParser) -> None:
    """How much audits try."""
    parser.add_argument(
        "--effort",
        type=mbnas.Effort,
        choices=list(mbnas.Effort),
        default=mbnas.Effort.QUICK,
        help="of audits (default: quick)",
    )


def above_zero(text: str) -> float:
    """A length, for ``argparse``."""
    try:
        length = float(text)
    except ValueError:
        length = math.nan
    if not 0 < length < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return length


def positive(text: str) -> int:
    """A count, for ``argparse``."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def images_in(data: Path | None) -> list[str]:
    """Where images lie as a change of settings; none where the settings know."""
    return [] if data is None else [f"data.root={json.dumps(str(data), ensure_ascii=False)}"]


def settled(space: Path, own: Sequence[str], changes: Sequence[str]) -> mbnas.Settings:
    """The settings of a space with ``own`` changes, which say what a script does, and the user's.

    Raises:
        SettingsError: if these contradict the former.
    """
    settings = mbnas.load(space, (*own, *changes))
    if mbnas.load(space, (*own, *changes, *own)) != settings:
        raise SettingsError(
            f"a change by --set or --vary contradicts {', '.join(own)}; leave it away: what these "
            "say is the script's own, or said by its other options"
        )
    return settings


def finds(run: RunFolder) -> list[Path]:
    """Folders of the Pareto members that a run has trained and audited: others lack its audit."""
    front = read_json(run.pareto_file, advice="let its search come to its end first")
    members, effort = [run.candidate(each["id"]) for each in front], run.settings().test.audit
    return sorted(each for each in members if audit_file(each, effort).exists())


def copied(run: RunFolder, target: Path, without: str) -> RunFolder:
    """A copy of a run at ``target``, made now if there is none; names like ``without`` stay out.

    Raises:
        SettingsError: if there is one of another run.
    """
    copy = RunFolder(target)
    if not target.exists():
        unfinished = target.with_name(f"{target.name}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(run.path, unfinished, ignore=shutil.ignore_patterns(without))
        unfinished.rename(target)
    pairs = ((run.supernet_file, copy.supernet_file), (run.trials.path, copy.trials.path))
    if not all(filecmp.cmp(*pair, shallow=False) for pair in pairs):
        raise SettingsError(
            f"{str(target)!r} is a copy of another run than {str(run.path)!r}; give another --work"
        )
    return copy


def test_images(network: Path, settings: mbnas.Settings, root: Path | None, count: int) -> Images:
    """The first ``count`` that belong to a saved network, in ``root`` or where it was trained."""
    named = settings.data.model_copy(update={"root": root or settings.data.root})
    images = datasets.load_test(named)
    require_images_of(network, images)
    return first(images, count)


def name_of(network: Path) -> str:
    """That of its folder, where all networks have the same name, else that of the file."""
    file = network_file(network).resolve()
    return file.parent.name if file.name == NETWORK_FILE else file.stem


def names_of(networks: Sequence[Path], parser: argparse.ArgumentParser) -> list[str]:
    """Of each network; a script whose results are named so ends here if two are alike."""
    names = [name_of(each) for each in networks]
    if len(set(names)) < len(names):
        parser.error(f"results are named like networks, which are not all different: {names}")
    return names


@contextmanager
def ledger(
    journal: Journal, network: Path, decided: Mapping[str, object], total: int
) -> Iterator[Ledger]:
    """Results of ``total`` attacks on a network, with a bar.

    Args:
        decided: by what, beside the network and the version of the attacks; those of others are
            refused.
    """
    origin = {"network": digest(network), "version of the attacks": version(), **decided}
    with bar(journal.path.stem, 1 + total, len(journal.read())) as advance:
        yield Ledger(journal, origin, advance)


def first(images: Images, count: int) -> Images:
    """So many images.

    Raises:
        SettingsError: if there are not.
    """
    if count > len(images):
        raise SettingsError(f"--images {count}: there are {len(images)}")
    return images.first(count)


def audited(network: Path, effort: mbnas.Effort, images: Sequence[str]) -> dict[str, Any]:
    """What :func:`mbnas.audit_checkpoint` finds, or found by this version of the attacks.

    Raises:
        SettingsError: if another version had audited the network: that is only read.
    """
    found = mbnas.audit_checkpoint(network, effort, images)
    if found.get("attacks") != version():
        raise SettingsError(
            f"{str(network)!r} was audited by another version of the attacks; move its "
            f"audit-{effort}.json and .html away to audit it by this one"
        )
    return found


class SeenThrough(torch.nn.Module):
    """What other libraries are given: a module of one argument, its gradient by one surrogate."""

    def __init__(self, network: Network, surrogate: mbnas.Surrogate) -> None:
        super().__init__()
        self.network, self.surrogate = network, surrogate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes)."""
        logits: Tensor = self.network(x, self.surrogate)
        return logits


def repair_torchvision() -> None:
    """Let others import ``torchvision.datasets`` beside a torch of another build."""
    sys.modules.setdefault("torchvision.datasets", datasets._torchvision_datasets())


def retrained_together(
    run: RunFolder,
    chosen: Sequence[str],
    settings: mbnas.Settings,
    images: Sequence[str],
    effort: mbnas.Effort = mbnas.Effort.QUICK,
) -> list[dict[str, Any]]:
    """What candidates of a run, by id, reach on test images once they are retrained there.

    All are trained before the first is audited: adversarial images of each are tried on all others.

    Args:
        images: where they lie, see :func:`images_in`.
        effort: of their audits.
    """
    trained = [pipeline.retrain_candidate(run.path, each, settings) for each in chosen]
    audits = [audited(run.candidate(each), effort, images) for each in chosen]
    return [
        {
            "assignment": metrics["assignment"],
            "bops": metrics["bops"],
            **reached(metrics["test"], audit),
        }
        for metrics, audit in zip(trained, audits, strict=True)
    ]


def reached(test: Mapping[str, Any], audit: Mapping[str, Any]) -> dict[str, Any]:
    """By what studies compare networks, on test images, as fractions; and the audit's verdict."""
    return {
        "natural": test["natural"],
        "robust": test["pgd"]["mean"],
        "worst case": audit["worst_case"]["accuracy"],
        "verdict": audit["verdict"],
    }


def paired(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each case in each round; a round runs them all, one after another."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, run in cases.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(reference: list[float], case: list[float]) -> tuple[float, float, float]:
    """How many times as fast as the reference: median, least and most over the rounds."""
    each = [one / other for one, other in zip(reference, case, strict=True)]
    return statistics.median(each), min(each), max(each)


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that ``run`` holds at a time on the device."""
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [each for each in record.profiler.kineto_results.events() if each.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def keep(name: str, measured: Any) -> Path:  # noqa: ANN401 (whatever JSON can hold)
    """Write what was measured, where and by what, to ``scripts/results/``."""
    described = {"command": command(), "commit": COMMIT, **environment(), "measured": measured}
    return keep_described(name, described)


def keep_described(name: str, result: Mapping[str, Any]) -> Path:
    """Write a result that names its command to ``scripts/results/``.

    Beside what another command measured, not in its place: parts and trials are no results.
    """
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    if target.exists() and json.dumps(result["command"]) not in target.read_text():
        log.warning("%s was made by another command and is kept; move this to replace it", target)
        target = RESULTS / f"{name}.new.json"
    write_text(target, json.dumps(result, indent=1) + "\n")
    return target


def command() -> str:
    """That started this script, from the root of the repository; folders elsewhere by name."""

    def shown(argument: str) -> str:
        key, equals, value = argument.rpartition("=")
        return key + equals + (Path(value).name.upper() if Path(value).is_absolute() else value)

    words = ["python", f"scripts/{Path(sys.argv[0]).name}", *map(shown, sys.argv[1:])]
    return shlex.join(words)


def show(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table to the terminal."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
