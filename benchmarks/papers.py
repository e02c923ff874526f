"""Do the models reach the numbers of the papers that they come from?

Each row runs the preset of a page on MNIST, as anyone can run it by hand, and puts what it reached beside what was
published.

    python -m benchmarks.papers                   all rows; takes as long as `MINUTES` of the pages say, in all
    python -m benchmarks.papers --only gan vae-paper   only the rows of these pages, or these rows
    python -m benchmarks.papers --quick           only two rows, `pca-paper` and `classifier-nielsen`, which
                                                  take a minute or two each
    python -m benchmarks.papers --json            ... also written to benchmarks/results/papers.json, row by row; rows
                                                  that are not run now stay there
    python -m benchmarks.papers --show            run nothing: show what that file holds

What is shown, `--plot` draws and `--against FILE` compares: by how much each number differs from that in the file.

MNIST is found as `models.datasets.load` does. Each run is a process of its own, in runs/papers/, whose time and peak
memory are those of training, evaluation and pictures together. `ROWS` is the table: the command, what was published
and where, the number of the summary that is held against it, what has to be reached, and the exact protocol. The
autoencoder's row needs PyTorch (`pip install -e '.[bench]'`), the others `pip install -e '.[models]'`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import minigrad as mg
from benchmarks import report
from benchmarks.report import machine, number, print_table, write

RUNS = Path("runs") / "papers"
QUICK = ("pca-paper", "classifier-nielsen")

Summary = dict[str, Any]
Rows = Mapping[str, dict[str, Any]]  # by name, what `measured` returns


@dataclass(frozen=True)
class Number:
    """One number of a row.

    Attributes:
        name: with the unit.
        found: the number, from the summaries of the row's runs, one a seed.
        published: what it is held against, in words, with the source.
        least, most: what has to be reached; None where nothing is asked.
    """

    name: str
    found: Callable[[list[Summary]], float]
    published: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Row:
    """One preset of a page, on one or several seeds."""

    model: str
    preset: str
    protocol: str
    numbers: tuple[Number, ...]
    options: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    reference: Callable[[], Summary] | None = None  # something else to run, whose summary comes last

    @property
    def name(self) -> str:
        """Of the row and its folders."""
        return "-".join([self.model, self.preset, *(option.strip("-") for option in self.options)])


def one(*path: str) -> Callable[[list[Summary]], float]:
    """The number at a place in the summary of the first run."""

    def found(summaries: list[Summary]) -> float:
        value: Any = summaries[0]
        for key in path:
            value = value[key]
        return float(value)

    return found


def ratio(over: tuple[str, ...], under: tuple[str, ...]) -> Callable[[list[Summary]], float]:
    """The quotient of two numbers of the first run."""
    return lambda summaries: one(*over)(summaries) / one(*under)(summaries)


def by_pytorch() -> Summary:
    """The test loss of the autoencoder's network, trained by PyTorch: same weights at the start, same minibatches."""
    import torch

    from models import autoencoder, datasets

    recipe, images = autoencoder.RECIPES["paper"], datasets.load("mnist")
    with mg.random.use(mg.random.Generator(0)):
        ours = autoencoder.networks(images.pixels, recipe)["autoencoder"]
        order, _ = mg.random.current().split(2)
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    pixels, hidden, code = images.pixels, recipe.hidden, recipe.code
    net = torch.nn.Sequential(
        linear(pixels, hidden),
        relu(),
        linear(hidden, code),
        relu(),
        linear(code, hidden),
        relu(),
        linear(hidden, pixels),
    )
    with torch.no_grad():
        for theirs, (name, parameter) in zip(net.parameters(), ours.parameters().items(), strict=True):
            value = parameter.data.T if name.endswith("weight") else parameter.data
            theirs.copy_(torch.from_numpy(value.copy()))
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    batches = mg.data.minibatches(images.train, batch_size=recipe.batch_size, generator=order)
    for epoch in range(recipe.epochs):
        order.state.assign(np.array([order.state.data[0], epoch], np.uint64))
        for batch in batches:
            x = torch.from_numpy(batch.data.copy())
            optimizer.zero_grad()
            (bce(net(x), x, reduction="sum") / len(x)).backward()
            optimizer.step()
    with torch.no_grad():
        test = torch.from_numpy(images.test)
        return {"test_loss": (bce(net(test), test, reduction="sum") / len(test)).item()}


ROWS = (
    Row(
        model="pca",
        preset="paper",
        protocol="MNIST, pixels / 255, trained on the 60,000 training images, squared error of the 10,000 test images, "
        "summed over the pixels of each; PCA from the eigenvectors of the training images' covariance",
        numbers=(
            Number(
                "squared error of a test image, K = 30",
                one("squared_error", "linear autoencoder"),
                "13.87 (Hinton and Salakhutdinov 2006)",
            ),
            Number(
                "... relative to PCA's",
                ratio(("squared_error", "linear autoencoder"), ("squared_error", "PCA")),
                "1, the optimum in training (Pearson 1901)",
                most=1.005,
            ),
            Number(
                "largest angle to PCA's subspace, degrees",
                one("largest_principal_angle"),
                "0 (Baldi and Hornik 1989)",
                most=2.0,
            ),
        ),
    ),
    Row(
        model="autoencoder",
        preset="paper",
        protocol="MNIST, pixels / 255 as probabilities; 784-128-32-128-784, five epochs of Adam at batch 128; PyTorch "
        "on the same weights at the start and the same minibatches; the nearest of 60,000 training codes for each of "
        "10,000 test codes of two numbers, in a network 784-128-2-128-784, and in the plane of two principal "
        "components",
        numbers=(
            Number(
                "cross-entropy of a test image, nats",
                lambda found: found[0]["curves"]["autoencoder, test"][-1],
                "no number is published for it",
            ),
            Number(
                "... relative to PyTorch's",
                lambda found: found[0]["curves"]["autoencoder, test"][-1] / found[-1]["test_loss"],
                "1, PyTorch 2.13",
                least=0.99,
                most=1.01,
            ),
            Number(
                "nearest neighbours of the same digit, 2 numbers",
                one("nearest_neighbour_accuracy", "map"),
                "PCA's, in the next line",
            ),
            Number(
                "... less that of PCA",
                lambda found: (
                    found[0]["nearest_neighbour_accuracy"]["map"] - found[0]["nearest_neighbour_accuracy"]["PCA"]
                ),
                "0",
                least=0.0,
            ),
        ),
        reference=by_pytorch,
    ),
    Row(
        model="deep_autoencoder",
        preset="paper",
        protocol="MNIST, pixels / 255, trained on the 60,000 training images, squared error of the 10,000 test images, "
        "summed over the pixels of each",
        numbers=(
            Number(
                "squared error of a test image",
                one("squared_error", "deep autoencoder"),
                "3.00 (Hinton and Salakhutdinov 2006)",
                most=3.0,
            ),
            Number("... of PCA, K = 30", one("squared_error", "PCA"), "13.87 (there)"),
        ),
    ),
    Row(
        model="denoising_autoencoder",
        preset="paper",
        protocol="MNIST, pixels / 255; Gaussian noise of standard deviation 0.5, not clipped, or half of the pixels "
        "set to 0; squared error against the clean image, of the 10,000 test images with the same noise for all; K of "
        "PCA and all of the affine map from training images",
        numbers=(
            *(
                Number(f"{noise} noise: squared error, {what}", one(noise, "squared_error", what), published)
                for noise in ("gaussian", "masking")
                for what, published in (("noisy", "to be compared"), ("PCA", ""), ("best affine", ""), ("denoiser", ""))
            ),
            *(
                Number(
                    f"{noise} noise: denoiser relative to PCA",
                    ratio((noise, "squared_error", "denoiser"), (noise, "squared_error", "PCA")),
                    "below 1",
                    most=1.0,
                )
                for noise in ("gaussian", "masking")
            ),
        ),
    ),
    Row(
        model="sparse_autoencoder",
        preset="paper",
        protocol="MNIST, pixels / 255, the first 500 training images, all 10,000 test images; a unit is active above "
        "0.1",
        numbers=(
            *(
                Number(f"{penalty}: {what}", one(penalty, key), "to be compared")
                for penalty in ("no penalty", "L1", "KL")
                for what, key in (
                    ("squared error, training", "training_error"),
                    ("squared error, test", "test_error"),
                    ("fraction of active units", "active"),
                )
            ),
            Number(
                "gap of KL relative to no penalty's",
                ratio(("KL", "gap"), ("no penalty", "gap")),
                "below 1: without a penalty it memorises",
                most=1.0,
            ),
        ),
    ),
    Row(
        model="classifier",
        preset="nielsen",
        protocol="MNIST, trained on the first 50,000 training images; the weights of the epoch with the fewest errors "
        "on the other 10,000, measured on the 10,000 test images",
        numbers=(
            Number(
                "test accuracy",
                one("test_accuracy"),
                "0.95 (Nielsen 2015, chapter 1)",
                least=0.95,
            ),
        ),
    ),
    Row(
        model="classifier",
        preset="paper",
        protocol="as above",
        numbers=(
            Number(
                "test accuracy",
                one("test_accuracy"),
                "0.9875 (Srivastava et al. 2014, table 2)",
                least=0.983,
            ),
        ),
    ),
    Row(
        model="vae",
        preset="paper",
        protocol="MNIST, grey pixels as probabilities, ten epochs on the 60,000 training images; the ELBO of the "
        "10,000 test images from one draw each, with the divergence in closed form",
        numbers=(Number("test ELBO, nats", one("elbo"), "-106 is asked for", least=-106.0),),
    ),
    Row(
        model="vae",
        preset="iwae",
        protocol="MNIST, training pixels binarised anew at each use with their grey values as probabilities, the "
        "10,000 test images binarised once with a fixed seed; importance-weighted bound with 5,000 samples an image",
        numbers=(
            Number(
                "test log-likelihood, nats",
                one("log_likelihood"),
                "-86.76 (Burda et al. 2016, table 1, VAE, k = 1)",
                least=-88.0,
            ),
        ),
    ),
    Row(
        model="gan",
        preset="paper",
        seeds=(0, 1, 2, 3, 4),
        protocol="MNIST, pixels / 255, trained on the first 50,000 training images; Gaussian windows around 10,000 "
        "samples, their width chosen by the other 10,000 training images on a grid of 0.01, mean log density of the "
        "10,000 test images; digits counted by a classifier trained with this engine; the worst of five seeds",
        numbers=(
            Number(
                "Parzen log-likelihood, nats, least of 5 seeds",
                lambda found: min(each["parzen_log_likelihood"]["samples"]["nats"] for each in found),
                "225 ± 2 (Goodfellow et al. 2014, table 1)",
                least=225.0,
            ),
            Number(
                "... mean of 5 seeds",
                lambda found: float(np.mean([each["parzen_log_likelihood"]["samples"]["nats"] for each in found])),
                "225 ± 2",
            ),
            Number(
                "... around training images instead",
                lambda found: found[0]["parzen_log_likelihood"]["training images"]["nats"],
                "what real images reach",
            ),
            Number(
                "share of the rarest digit, least of 5 seeds",
                lambda found: min(each["smallest_share"] for each in found),
                "no mode collapse",
                least=0.03,
            ),
            Number(
                "the classifier's test accuracy, least",
                lambda found: min(each["judge_test_accuracy"] for each in found),
                "a judge, at least 0.98",
                least=0.98,
            ),
        ),
    ),
)


def run(row: Row, seed: int) -> dict[str, Any]:
    """Run a preset in a process of its own: its summary, the seconds it took, and its peak memory in MiB."""
    folder = RUNS / f"{row.name}-{seed}"
    command = [sys.executable, "-m", f"models.{row.model}", "--preset", row.preset, *row.options]
    command += ["--seed", str(seed), "--out", str(folder)]
    print("$", *command[1:], flush=True)
    begun = perf_counter()
    process = subprocess.Popen(command)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{row.name}: the command above ended with exit code {process.returncode}")
    return {
        "seconds": perf_counter() - begun,
        "peak_mib": usage.ru_maxrss / 1024,
        "summary": json.loads((folder / "summary.json").read_text("utf-8")),
    }


def measured(row: Row) -> dict[str, Any]:
    """A row of the results."""
    runs = [run(row, seed) for seed in row.seeds]
    summaries = [each["summary"] for each in runs]
    if row.reference is not None:
        summaries.append(row.reference())
    numbers = []
    for each in row.numbers:
        value = each.found(summaries)
        reached = (each.least is None or value >= each.least) and (each.most is None or value <= each.most)
        asked = {"least": each.least, "most": each.most}
        numbers.append({"name": each.name, "ours": value, "published": each.published, "reached": reached} | asked)
    return {
        "model": row.model,
        "preset": row.preset,
        "options": list(row.options),
        "seeds": list(row.seeds),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine() | {"threads": summaries[0]["threads"]},
        "protocol": row.protocol,
        "settings": [summary["settings"] for summary in summaries[: len(runs)]],
        "minutes": [round(each["seconds"] / 60, 2) for each in runs],
        "peak_mib": round(max(each["peak_mib"] for each in runs)),
        "numbers": numbers,
    }


# Tables and pictures


def bounds(asked: Mapping[str, Any]) -> str:
    """What has to be reached, as text; '' where nothing is asked."""
    signs = (("least", "≥"), ("most", "≤"))
    return ", ".join(f"{sign} {asked[key]:g}" for key, sign in signs if asked[key] is not None)


def show(results: Rows) -> None:
    """Print the table, and the protocols below it."""
    lines: list[tuple[str, ...]] = []
    for name, row in results.items():
        first = (name, f"{sum(row['minutes']):.1f}", f"{row['peak_mib']:,}")
        for each in row["numbers"]:
            bound = bounds(each)
            verdict = ("✓" if each["reached"] else "✗") if bound else ""
            lines.append((first[0], each["name"], each["published"], bound, f"{each['ours']:.5g}", verdict, *first[1:]))
            first = ("", "", "")
    columns = ("model", "number", "published", "to reach", "ours", "", "minutes", "peak MiB")
    print_table("Published and ours", columns, lines)
    for name, row in results.items():
        print(f"\n{name}: {row['protocol']}")


def show_differences(before: Rows, now: Rows) -> None:
    """Print by how much numbers differ from those of an earlier result, where both have them."""
    then, ours = (
        {(name, each["name"]): each["ours"] for name, row in rows.items() for each in row["numbers"]}
        for rows in (before, now)
    )
    pairs = {key: (then[key], new) for key, new in ours.items() if key in then}
    lines = [
        (*key, f"{old:.5g}", f"{new:.5g}", f"{new - old:+.3g}", f"{(new - old) / abs(old):+.2%}" if old else "")
        for key, (old, new) in pairs.items()
        if new != old
    ]
    print_table("Then and now", ("model", "number", "then", "now", "difference", "of then"), lines)
    print(f"{len(pairs) - len(lines)} of {len(pairs)} numbers are the same")


def margin(asked: Mapping[str, Any]) -> float:
    """How far a number is beyond what has to be reached, relative to that; negative if it is not reached. Relative to
    1 where that is 0.

    Example:
        >>> margin({"ours": 0.96, "least": 0.95, "most": None})
        0.0105...
    """
    ours, least, most = asked["ours"], asked["least"], asked["most"]
    beyond = []
    if least is not None:
        beyond.append((ours - least) / abs(least or 1))
    if most is not None:
        beyond.append((most - ours) / abs(most or 1))
    return float(min(beyond))


def plot(results: Rows) -> None:
    """Draw how far each number that has to be reached is beyond that."""
    labels, margins, texts = [], [], []
    for name, row in results.items():
        subject = ""
        for each in row["numbers"]:
            further = each["name"].startswith("... ")  # it goes on from the last whole name
            subject = subject if further else each["name"]
            if bound := bounds(each):
                title = each["name"].replace("...", f"{subject},") if further else each["name"]
                labels.append(f"{name}: {title}")
                margins.append(100 * margin(each))
                texts.append(f"{number(each['ours'])}  ({bound})")
    drawn, ((axes,),) = report.figure("papers", size=(11, 1 + 0.32 * len(labels)))
    colors = ["tab:green" if percent >= 0 else "tab:red" for percent in margins]
    axes.barh(range(len(labels)), margins, color=colors)
    axes.set_yticks(range(len(labels)), labels)
    axes.secondary_yaxis("right").set_yticks(range(len(labels)), texts)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=1)
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(title="Ours, and what has to be reached", xlabel="beyond what has to be reached, %")
    report.save(drawn, "papers")


# The command line


def read(path: Path) -> dict[str, Any]:
    """The rows of a file that --json wrote.

    Raises:
        ValueError: it is another file.
    """
    rows = json.loads(path.read_text("utf-8"))
    if not isinstance(rows, dict) or not all(isinstance(row, dict) and "numbers" in row for row in rows.values()):
        raise ValueError("its rows have no numbers")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit code is 0 if every number that was measured now is reached."""
    parser = report.parser("papers", __doc__)
    parser.epilog = f"Here --quick stands for --only {' '.join(QUICK)}, and --against compares numbers, not times."
    names = {name: None for row in ROWS for name in (row.model, row.name)}
    rows = ", ".join(row.name for row in ROWS)
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"pages, or rows (default: all, {rows})"
    )
    parser.add_argument("--show", action="store_true", help="run nothing: show what was written")
    given = parser.parse_args(argv)
    try:
        earlier = read(Path(given.against)) if given.against else None
    except (OSError, ValueError) as error:
        parser.error(f"--against {given.against}: expected a result that --json wrote: {error}")
    path = report.RESULTS / "papers.json"
    stored = read(path) if path.exists() else {}
    chosen = given.only or (QUICK if given.quick else names)
    found: dict[str, Any] = {}
    for row in () if given.show else ROWS:
        if row.model in chosen or row.name in chosen:
            found[row.name] = measured(row)
            if given.json:
                stored[row.name] = found[row.name]
                write({each.name: stored[each.name] for each in ROWS if each.name in stored}, path)
    shown = stored if given.show else found
    show(shown)
    if earlier is not None:
        show_differences(earlier, shown)
    if given.plot:
        plot(shown)
    return 0 if all(each["reached"] for row in found.values() for each in row["numbers"]) else 1


if __name__ == "__main__":
    sys.exit(main())
