"""The tables of figures in README.md and docs/, made from benchmarks/results.

    python -m benchmarks.readme            writes the tables that are not what the results say
    python -m benchmarks.readme --check    writes nothing: the exit code is 1 if there are any

A table stands between two comments, `<!-- training: ... -->` and `<!-- end -->`; what stands there is replaced, what
stands around it is for people to write. Whoever measures anew runs this script; a test compares. `TABLES` has a
function for each name, from the result to Markdown.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import Any

from benchmarks.cases import CHAIN
from benchmarks.report import PACKAGES, RESULTS, number, rounded
from benchmarks.steps import LIBRARIES
from benchmarks.training import COLD, OURS, PEERS

ROOT = Path(__file__).parent.parent
FILES = ("README.md", "docs/pages/compiler.md")
MARKS = re.compile(r"(<!-- (\w+): [^>]* -->\n).*?(<!-- end -->)", re.S)

Result = dict[str, Any]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown.

    Example:
        >>> print(table(("n", "n²"), [("2", "4")]))
        | n | n² |
        | --- | --- |
        | 2 | 4 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def measured(result: Result, *peers: str) -> str:
    """When and on what a result was measured, and beside which versions of the peers, as the end of a sentence."""
    machine, versions = result["machine"], result.get("versions", {})
    beside = [f"{PACKAGES[peer]} {versions[peer].partition('+')[0]}" for peer in peers if peer in versions]
    on = f"Measured on {result['date'][:10]} on {machine['cores']} cores of {machine['cpu']}"
    return f"{on}; {', '.join(beside)}." if beside else f"{on}."


def result(name: str) -> Result:
    """What `python -m benchmarks.NAME --json` wrote."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text("utf-8")))


def spread(row: Result) -> str:
    """A ratio with its interval."""
    return f"{row['ratio']:.2f} ({row['ratio_95'][0]:.2f} to {row['ratio_95'][1]:.2f})"


# The tables

KERNELS = (
    ("matmul", "n = 8", "matrix product, n = 8"),
    ("matmul", "n = 32", "n = 32"),
    ("matmul", "n = 128", "n = 128"),
    ("matmul", "n = 512", "n = 512"),
    ("matmul", "n = 2048", "n = 2048"),
    ("matmul", "128×784 · 784×128", "128×784 · 784×128"),
    ("matmul", "128×128 · (784×128)ᵀ", "128×128 · (784×128)ᵀ"),
    ("matmul", "tanh(128×128 · 128×784 + b)", "tanh(128×128 · 128×784 + b)"),
    ("activations", "exp", "exp, 100,000 elements"),
    ("activations", "tanh", "tanh"),
    ("activations", "sigmoid", "sigmoid"),
    ("activations", "softplus", "softplus"),
    ("activations", "erf", "erf"),
    ("activations", "gelu", "gelu"),
    ("activations", "log", "log"),
    ("activations", "sin", "sin"),
    ("activations", "bce with logits, and gradient", "binary cross-entropy with logits and its gradient, 128×784"),
    ("activations", "softmax cross-entropy, and gradient", "softmax cross-entropy and its gradient, 128×10"),
    (
        "convolution",
        "3×3, 16 to 32 channels, 13×13, forward and backward",
        "3×3 convolution, 16 to 32 channels, forward and backward",
    ),
)


def kernels() -> str:
    """Speed relative to the faster one of NumPy and PyTorch, one thread."""
    results = {name: result(name) for name in dict.fromkeys(name for name, _, _ in KERNELS)}
    ratios = {
        (name, row["case"], row["dtype"]): row["ratio"]
        for name, found in results.items()
        for row in found["rows"]
        if row["threads"] == 1 and "ratio" in row
    }
    dtypes = ("float32", "float64")
    rows = [(label, *(f"{ratios[name, case, dtype]:.2f}" for dtype in dtypes)) for name, case, label in KERNELS]
    return measured(results["matmul"], "numpy", "torch") + "\n\n" + table(("", *dtypes), rows)


# Of `benchmarks.papers`: the row, its number, in words, what was published or is to compare with, and the format
PAPERS = (
    ("pca-paper", "squared error of a test image, K = 30", "squared error of a test image, K = 30",
     "PCA: 13.87 (Hinton and Salakhutdinov 2006)", "{:.3f}"),
    ("pca-paper", "largest angle to PCA's subspace, degrees", "largest angle to PCA's subspace",
     "0° (Baldi and Hornik 1989)", "{:.2f}°"),
    ("autoencoder-paper", "... relative to PyTorch's",
     "cross-entropy of a test image after 5 epochs, relative to PyTorch's", "1", "{:.3f}"),
    ("autoencoder-paper", "nearest neighbours of the same digit, 2 numbers",
     "nearest neighbours of the same digit, code of 2 numbers", "PCA: 39.0 %", "{:.1%}"),
    ("deep_autoencoder-paper", "squared error of a test image", "squared error of a test image, code of 30",
     "3.00 (Hinton and Salakhutdinov 2006)", "{:.2f}"),
    ("denoising_autoencoder-paper", "gaussian noise: squared error, denoiser",
     "squared error, Gaussian noise of 0.5 taken out", "noisy 196.1, PCA 21.0, best affine map 15.5", "{:.2f}"),
    ("denoising_autoencoder-paper", "masking noise: squared error, denoiser",
     "squared error, half of the pixels masked", "noisy 44.6, PCA 22.4, best affine map 14.7", "{:.2f}"),
    ("sparse_autoencoder-paper", "gap of KL relative to no penalty's",
     "gap between test and training error with the KL penalty, relative to none", "below 1", "{:.2f}"),
    ("classifier-nielsen", "test accuracy", "test accuracy, 784-30-10, quadratic cost", "95 % (Nielsen 2015)",
     "{:.2%}"),
    ("classifier-paper", "test accuracy", "test accuracy, dropout", "98.75 % (Srivastava et al. 2014)", "{:.2%}"),
    ("vae-paper", "test ELBO, nats", "evidence lower bound (ELBO) of a test image, grey pixels, nats",
     "to reach: -106", "{:.2f}"),
    ("vae-iwae", "test log-likelihood, nats",
     "log-likelihood of a test image, binarised pixels, bound with 5,000 samples, nats",
     "-86.76 (Burda et al. 2016)", "{:.2f}"),
    ("gan-paper", "Parzen log-likelihood, nats, least of 5 seeds",
     "log-likelihood of a test image by Parzen windows, nats, the least of five seeds",
     "225 (Goodfellow et al. 2014)", "{:.1f}"),
    ("gan-paper", "share of the rarest digit, least of 5 seeds", "share of the rarest digit, the least of five seeds",
     "to reach: 3 %", "{:.1%}"),
)  # fmt: skip


def papers() -> str:
    """What the presets of the models reach."""
    results, rows, last = result("papers"), [], ""
    for name, wanted, label, published, form in PAPERS:
        found = results[name]
        ours = next(each["ours"] for each in found["numbers"] if each["name"] == wanted)
        preset, minutes = f"`{found['model']} --preset {found['preset']}`", f"{median(found['minutes']):.1f}"
        again = name == last
        rows.append(
            ("" if again else preset, label, published, form.format(ours).replace("%", " %"), "" if again else minutes)
        )
        last = name
    return table(("preset", "number", "published, or to compare with", "ours", "minutes a seed"), rows)


def floor() -> str:
    """How far compiled steps are from their floor, on one thread."""
    found = result("floor")
    rows = [
        (row["case"], *(number(row["us"][what]) for what in ("minigrad, compiled", "floor")), f"{row['ratio']:.2f}")
        for row in found["rows"]
        if row["threads"] == 1
    ]
    return measured(found) + "\n\n" + table(("case", "step, µs", "floor, µs", "floor / step"), rows)


def overhead() -> str:
    """Microseconds an operation, on two shapes."""
    found = result("overhead")
    engines, rows = [*found["rows"][0]["us"]], []
    for row in found["rows"]:
        needing = "all" if row["parameters_need_gradients"] else "x"
        times = (f"{row['us'][name]:.1f}" for name in engines)
        rows.append((f"({', '.join(map(str, row['shape']))}{',' * (len(row['shape']) == 1)})", needing, *times,
                     spread(row["over_torch"]["minigrad"])))  # fmt: skip
    columns = ("shape", "gradients of", *engines, "minigrad / PyTorch (95 %)")
    return measured(found, "torch", "autograd", "mygrad") + "\n\n" + table(columns, rows)


CHECKERS = {
    "minigrad": "`minigrad.testing`",
    "PyTorch": "PyTorch `gradcheck`",
    "PyTorch, fast": "PyTorch `gradcheck`, fast mode",
    "JAX": "JAX `check_grads`",
}


def checkers() -> str:
    """How often each checker is wrong, and how long it takes for two networks."""
    found = result("checkers")
    (everything,) = (row for row in found["totals"] if row["group"] == "all")
    rows = []
    for name, label in CHECKERS.items():
        seconds = []
        for row in found["rows"]:
            time = f"{row['seconds'][name]:.2g} s" if name in row["seconds"] else ""
            seconds.append(time + ", extrapolated" * (name in row["extrapolated"]))
        rows.append((label, str(everything[name]["miss"]), str(everything[name]["false alarm"]), *seconds))
    sizes = [row["case"].removeprefix("network of ") for row in found["rows"]]
    columns = ("checker", "wrong ones accepted", "right ones rejected", *sizes)
    return measured(found, "torch", "jax") + "\n\n" + table(columns, rows)


STEPS = {
    "ae32": "autoencoder 784-128-32-128-784, batch 32, Adam",
    "ae128": "batch 128",
    "ae512": "batch 512",
    "deepae": "784-1000-500-250-30-..., batch 128",
    "vae": "784-400-20, batch 128",
    "gan": "a step of each network, batch 128",
    "digits": "64-32-10, batch 32, SGD (µs)",
    "conv": "two convolutions and pools, batch 64",
}


def training() -> str:
    """Milliseconds a step on one thread, and the ratios on one and on two; start-up and the chain in words."""
    found = result("training")
    rows = {(row["case"], row["threads"]): row for row in found["rows"]}
    libraries = [name for name in LIBRARIES if any(name in row["us"] for (_, n), row in rows.items() if n == 1)]
    lines = []
    for case, what in STEPS.items():
        one, two = rows[case, 1], rows.get((case, 2))
        scale = 1 if case == "digits" else 1000
        times = (number(rounded(one["us"][name] / scale)) if name in one["us"] else "" for name in libraries)
        lines.append((f"`{case}`: {what}", *times, spread(one), spread(two) if two else ""))
    starts = [rows[case, 1]["first_step_by_jax"] for case in STEPS]
    warm, cold = ([start[key] for start in starts] for key in (OURS, OURS + COLD))
    memory = [rows[case, 1]["above_import_mib"] for case in STEPS]
    less = lambda *others: sum(
        each[OURS] < min((mib for name, mib in each.items() if name.startswith(others)), default=0) for each in memory
    )
    chain = {name: us / (2 * CHAIN) for name, us in rows["chain", 1]["us"].items()}
    words = (
        f"From the start of a process to its first step it takes {min(warm):.2f} to {max(warm):.2f} of JAX's time if "
        f"the step was compiled before, by any process, and {min(cold):.2f} to {max(cold):.2f} if it was not. The "
        f"memory above that after the import is less than PyTorch's and JAX's in {less('PyTorch', 'JAX')} of "
        f"{len(STEPS)} cases, less than autograd's in {less('autograd')}, than that of NumPy by hand in "
        f"{less('NumPy')}. A chain of {2 * CHAIN} tiny operations takes {chain[OURS]:.2f} µs an operation (jax.jit: "
        f"{chain['JAX']:.2f})."
    )
    columns = ("step", *libraries, "ratio, 1 thread (95 %)", "2 threads")
    return "\n\n".join((measured(found, *PEERS), table(columns, lines), "\n".join(wrap(words, 120))))


def memory() -> str:
    """MiB that a graph of the deep autoencoder keeps, and that a process takes at most, by library."""
    found = result("memory")
    rows = [row for row in found["rows"] if row["case"].startswith("deep")]
    shown = lambda row, what, name: number(rounded(row[what][name])) if name in row[what] else ""
    names = list(dict.fromkeys(name for row in rows for name in row["above_import"]))
    lines = [
        (name, *(shown(row, what, name) for row in rows for what in ("live_activations", "above_import")))
        for name in names
    ]
    batches = [row["case"].rpartition(", ")[2] for row in rows]
    columns = ("", *(f"{batch}: {what}" for batch in batches for what in ("kept", "peak")))
    return measured(found, "torch", "jax") + "\n\n" + table(columns, lines)


TABLES: dict[str, Callable[[], str]] = {
    "checkers": checkers,
    "floor": floor,
    "kernels": kernels,
    "memory": memory,
    "overhead": overhead,
    "papers": papers,
    "training": training,
}


def filled(text: str) -> str:
    """A page with its tables made anew.

    Raises:
        KeyError: a comment names no table.
    """
    return MARKS.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether anything would change")
    given = parser.parse_args(argv)
    changed = False
    for name in FILES:
        path = ROOT / name
        before = path.read_text("utf-8")
        after = filled(before)
        if after != before:
            changed = True
            print(f"{name} is not what the results say" if given.check else f"written to {name}")
            if not given.check:
                draft = path.with_suffix(".tmp")
                draft.write_text(after, "utf-8")
                draft.replace(path)
    return int(given.check and changed)


if __name__ == "__main__":
    sys.exit(main())
