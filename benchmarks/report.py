"""What all benchmarks have in common: their options, their files, how two runs are compared, tables and pictures.

A result is a dict that says what was asked, when, on which machine, with which versions and how many threads, and has
rows. A row is a dict: `case`, `dtype`, `threads` (those that apply) say what was measured; `samples` has the numbers
themselves, for each library one in each round, and `unit` theirs ("s", "MiB"): less is better. The rest of a row is
what follows from the samples, for those who read the file.

    python -m benchmarks.NAME --json                             writes benchmarks/results/NAME.json
    python -m benchmarks.NAME --against benchmarks/results/NAME.json     measures, and says what is different now

How to read it: `parser` and `parse` are the command line, `circumstances` and `write` the files, `compare` the
comparison; tables and pictures come last.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = {"torch": "PyTorch", "jax": "JAX", "autograd": "autograd", "mygrad": "MyGrad", "numpy": "NumPy"}
RUN_TO_RUN = 0.05  # by which ratios move from one run to the next: where arrays lie, what else the machine does
ENOUGH = 20  # rounds, so that a number counts
TOLERANCE = 1e-4  # within which losses are equal

Row = dict[str, Any]
Array = np.ndarray[Any, Any]


# The command line


def parser(
    script: str,
    doc: str | None,
    peers: Sequence[str] = (),
    threads: bool = False,
    rounds: tuple[int, int] | None = None,
    against: str = "FILE",
) -> argparse.ArgumentParser:
    """The options that scripts have in common; each adds its own.

    Args:
        script: its name.
        doc: its docstring, of which the first line is shown.
        peers: the packages that it can compare with, of `PACKAGES`; none: it has no option `--peers`.
        threads: whether it has the option `--threads`.
        rounds: how many there are, and how many if --quick; None: it has no option `--rounds`.
        against: "FILE|floor" if `--against floor` means something.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{script}", description=(doc or "").split("\n")[0])
    if peers:
        names = ",".join(peers)
        made.add_argument("--peers", type=_names(peers), default=list(peers), help=f"default: {names}")
    if threads:
        made.add_argument(
            "--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}),
            help="how many, one table for each (default: one, and as many as processors)",
        )  # fmt: skip
    if rounds:
        full, few = rounds
        made.add_argument("--rounds", type=int, help=f"how often each is timed (default: {full}, or {few} if --quick)")
    made.add_argument("--quick", action="store_true", help="few rounds, nothing large: numbers for a look only")
    made.add_argument("--json", action="store_true", help=f"write {script}.json to benchmarks/results")
    made.add_argument("--plot", action="store_true", help=f"write {script}.png and {script}.svg to benchmarks/results")
    made.add_argument("--against", metavar=against, help="compare with an earlier result")
    made.set_defaults(both_rounds=rounds, can_floor="floor" in against)
    return made


def _names(known: Sequence[str]) -> Any:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {','.join(known)}")
        return chosen

    return names


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options that were given. Peers that are not installed are named and left out; `earlier` is the result to
    compare with, or None; `floor` is whether that is the floor."""
    given = made.parse_args(argv)
    if given.both_rounds and given.rounds is None:
        given.rounds = given.both_rounds[given.quick]
    if min(getattr(given, "threads", [1])) < 1 or getattr(given, "rounds", 1) < 1:
        made.error("rounds and threads are at least 1")
    given.floor = given.can_floor and given.against == "floor"
    try:
        earlier = given.against and not given.floor
        given.earlier = json.loads(Path(given.against).read_text("utf-8")) if earlier else None
    except (OSError, ValueError) as error:
        made.error(f"--against {given.against}: expected a result that --json wrote: {error}")
    if given.earlier is not None and not _samples(given.earlier):
        made.error(f"--against {given.against}: it has no samples to compare with; write it anew with --json")
    for name in getattr(given, "peers", ()):
        if find_spec(name) is None:
            print(f"{PACKAGES[name]} is not installed and left out")
    given.peers = [name for name in getattr(given, "peers", ()) if find_spec(name) is not None]
    if (busy := load()) > 1:
        print(f"the machine is busy with something else (load {busy:.1f})", file=sys.stderr)
    return given


def finish(script: str, given: argparse.Namespace, results: dict[str, Any]) -> None:
    """Say what is different from an earlier result, and write this one, if asked to."""
    if given.earlier is not None:
        show_differences(given.earlier, compare(given.earlier, results))
    if given.json:
        write(results, RESULTS / f"{script}.json")


# Files


def load() -> float:
    """How many processes wanted a processor in the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, number of cores, system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return {"cpu": cpu, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


@cache
def blas() -> str:
    """The library that multiplies NumPy's matrices, with its version."""
    found = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()


def circumstances(doc: str | None, peers: Iterable[str] = ()) -> dict[str, Any]:
    """What a result begins with: the question, when and where it was answered, and with which versions."""
    packages = dict.fromkeys(["numpy", "numba", "llvmlite", *peers])
    return {
        "question": (doc or "").split("\n")[0],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"load_before": round(load(), 2)},
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("minigrad", *packages) if _installed(name)},
        "blas": blas(),
    }


def kept(script: str, results: Mapping[str, Any]) -> list[Row]:
    """The rows of a file that was written under the same circumstances as `results`: they go on to be true."""
    try:
        earlier = json.loads((RESULTS / f"{script}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return []
    same = lambda result: [
        {k: v for k, v in result.get("machine", {}).items() if k != "load_before"},
        *(result.get(name) for name in ("python", "versions", "blas")),
    ]
    return [row for row in earlier["rows"] if row.get("samples")] if same(earlier) == same(results) else []


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def write(results: Mapping[str, Any], path: Path) -> None:
    """Write results as JSON, samples in a line: to a draft, which then gets the name."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".tmp")
    text = json.dumps(results, indent=2, ensure_ascii=False)
    text = re.sub(r"\[[-+.\deE,\s]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    draft.write_text(text + "\n", "utf-8")
    draft.replace(path)
    print(f"written to {path}")


# Numbers


def rounded(x: float) -> float:
    """To four digits.

    Example:
        >>> rounded(123456.0), rounded(0.00123456)
        (123500.0, 0.001235)
    """
    return float(f"{x:.4g}")


def number(x: float) -> str:
    """As text, with at most four digits that are not 0, and no exponent.

    Example:
        >>> number(123456.0), number(0.00123456)
        ('123,456', '0.001235')
    """
    return f"{x:,.4g}" if x < 1000 else f"{x:,.0f}"


def quartiles(samples: Sequence[float]) -> list[float]:
    """The first quartile, the median, and the third.

    Example:
        >>> quartiles([5.0, 1.0, 2.0, 3.0, 4.0])
        [2.0, 3.0, 4.0]
    """
    return [rounded(float(q)) for q in np.percentile(samples, [25, 50, 75])]


def interval(ratios: Array) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the median (Efron and Tibshirani 1993, section 13.3).

    Example:
        >>> interval(np.ones(5))
        (1.0, 1.0)
    """
    resamples = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(resamples, axis=1), [2.5, 97.5])
    return float(low), float(high)


def ratio(over: Sequence[float], under: Sequence[float]) -> dict[str, Any]:
    """How many times as large one library's samples are as another's in the same round: median, and its interval."""
    ratios = np.asarray(over) / np.asarray(under)
    low, high = interval(ratios)
    return {"ratio": rounded(float(np.median(ratios))), "ratio_95": [rounded(low), rounded(high)]}


def differing(losses: Mapping[str, float]) -> dict[str, str]:
    """The libraries whose loss is not that of most, and what is wrong with it.

    Example:
        >>> differing({"minigrad": 0.50001, "PyTorch": 0.5, "JAX": 0.6})
        {'JAX': 'wrong loss: 0.6, not 0.50001'}
    """
    usual = float(np.median([*losses.values()])) if losses else 0.0
    near = lambda loss: abs(loss - usual) <= TOLERANCE * abs(usual)  # false for NaN, too
    return {library: f"wrong loss: {loss:g}, not {usual:g}" for library, loss in losses.items() if not near(loss)}


# Two runs


def _samples(result: Any) -> dict[tuple[Any, ...], dict[str, list[float]]]:
    """The samples of a result, by row."""
    rows = result.get("rows", []) if isinstance(result, dict) else []
    names = ("case", "dtype", "threads", "unit")
    return {tuple(row.get(name) for name in names): row["samples"] for row in rows if row.get("samples")}


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Row]:
    """What is different between two results: a row for each library in each of their common rows.

    The change is now by before: of the medians, with a bootstrap interval in which both runs are resampled. Where
    there are peers, `relative` is the change that is left if theirs (the geometric mean) is taken out: a machine that
    is slower today slows them, too. What is judged is that, or else the change itself: it is "noise" where the
    interval contains 1, or where it is less than what runs differ by anyway (5 %).

    Example:
        >>> row = {"case": "exp", "unit": "s", "samples": {"minigrad": [1.0] * 9, "NumPy": [2.0] * 9}}
        >>> later = row | {"samples": {"minigrad": [3.0] * 9, "NumPy": [4.0] * 9}}
        >>> [(r["library"], r["change"], r["verdict"]) for r in compare({"rows": [row]}, {"rows": [later]})]
        [('minigrad', 3.0, 'worse'), ('NumPy', 2.0, 'better')]
    """
    old, rng = _samples(before), np.random.default_rng(0)
    found: list[Row] = []
    for key, samples in _samples(now).items():
        common = [name for name in samples if name in old.get(key, {})]
        medians = {name: [_resampled(each[name], rng) for each in (old[key], samples)] for name in common}
        changes = {name: later / earlier for name, (earlier, later) in medians.items()}
        for name in common:
            peers = [changes[other] for other in common if _family(other) != _family(name)]
            change = changes[name]
            relative = change / np.exp(np.mean(np.log(peers), axis=0)) if peers else change
            low, high = np.percentile(relative[1:], [2.5, 97.5])
            is_noise = low <= 1 <= high or abs(relative[0] - 1) < RUN_TO_RUN
            verdict = "noise" if is_noise else "worse" if relative[0] > 1 else "better"
            row: Row = dict(zip(("case", "dtype", "threads", "unit"), key, strict=True)) | {"library": name}
            row |= {"change": rounded(float(change[0])), "relative": rounded(float(relative[0]))}
            found.append(row | {"relative_95": [rounded(float(low)), rounded(float(high))], "verdict": verdict})
    return found


def _resampled(samples: Sequence[float], rng: np.random.Generator) -> Array:
    """The median of the samples, then those of 2,000 resamples."""
    array = np.asarray(samples, np.float64)
    return np.concatenate([[np.median(array)], np.median(rng.choice(array, (2000, len(array))), axis=1)])


def _family(library: str) -> str:
    """Whose a library is: compiled and eager minigrad, say, are no peers of one another."""
    return library.partition(" ")[0].partition(",")[0]


def show_differences(before: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Print what `compare` found, what is no noise first."""
    lines = [
        (
            " ".join(str(row[name]) for name in ("case", "dtype") if row[name]),
            str(row["threads"] or ""),
            row["library"],
            f"{row['change']:.3f}",
            f"{row['relative']:.3f}",
            "{:.3f} to {:.3f}".format(*row["relative_95"]),
            row["verdict"],
        )
        for row in sorted(rows, key=lambda row: row["verdict"] == "noise")
    ]
    columns = ("case", "threads", "library", "now / then", "beside peers", "95 %", "")
    print_table(f"Against {before.get('date', 'an earlier result')}: above 1 is more now", columns, lines)
    noise = sum(row["verdict"] == "noise" for row in rows)
    print(f"{len(rows) - noise} of {len(rows)} differences are more than noise")


# Tables and pictures


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, with rich if it is there."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        print(f"\n{title}")
        for cells in (columns, *rows):
            print("  ".join(cell.ljust(n) for cell, n in zip(cells, widths, strict=True)).rstrip())
        return
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # not cut to 80 columns in files and pipes


def figure(script: str, columns: int = 1, rows: int = 1, size: tuple[float, float] = (6, 4.5)) -> Any:
    """A figure, and an array of axes; `save` writes it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    width, height = size
    return plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained", num=script
    )


def save(drawn: Any, script: str) -> None:
    """Write a figure as PNG and as SVG."""
    from matplotlib import pyplot as plt

    RESULTS.mkdir(exist_ok=True)
    for kind in ("png", "svg"):
        path = RESULTS / f"{script}.{kind}"
        drawn.savefig(path, dpi=100, metadata={"Date": None} if kind == "svg" else None)
        print(f"written to {path}")
    plt.close(drawn)
