"""Damaged problem files: every one is refused in words, or read as exactly what it says.

    python benchmarks/fuzz/problem_files.py --n 2000 --seed 0

The search spaces that ship with autoprune, and a file with every table, are damaged: bytes, lines, keys, values. A file
counts as

- refused: a `ConfigError` of at most 2,000 characters without control characters,
- read: no mistake was found, and every key that an independent parse of the file gives has that value in what was read,
- WRONG: something that the file says was dropped or changed; RAW: another exception, or a longer message.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from autoprune.config import read_problem_file
from autoprune.errors import LONGEST, ConfigError

WHOLE = """about = "all tables"
objectives = ["accuracy", "macs"]
[model]
factory = "torchvision.models:resnet18"
kwargs = { num_classes = 10 }
input = [3, 32, 32]
[training]
epochs = 1
[data]
name = "digits"
transform = { mean = [0.5], std = [0.5], crop_padding = 1 }
[space]
levels = 4
widths = { "layer1.*" = [16, 32], "layer2.*" = [0.5, 1.0] }
locks = ["fc"]
ties = ["layer1.0.conv*", ["layer2.0.conv1", "layer2.1.conv1"]]
[limits]
macs = "60%"
params = 500_000
[evaluator]
n_calibration = 64
[search]
strategy = "random"
budget = { evaluations = 8 }
[compare]
strategies = ["random", "uniform"]
budget = { macs = 1e9 }
[prune]
rotate = false
"""

ODD = [
    "",
    "1e400",
    "inf",
    "nan",
    "-1",
    "0",
    "true",
    "[]",
    "{}",
    "[[[]]]",
    '"x"',
    '"60%"',
    '"1e999999999"',
    "1979-05-27",
]
ODD += ["9" * 4000, "9" * 5000, "0." + "3" * 400, '"' + "y" * 3000 + '"', '"\\u0007\\u001b[2J"', "[" * 400 + "]" * 400]
ODD += [
    "[" * 100_000 + "]" * 100_000,
    "[" + "1, " * 50_000 + "]",
    "{ a = " * 300 + "1" + " }" * 300,
    "'" * 3,
    '"\\ud800"',
]
ODD += [
    '"' + "p/" * 150 + 'net.py:net"',
    '"' + "q" * 300 + '.toml"',
    '"a\\u0000b"',
    '["max:a", "max:a"]',
    "9223372036854775808",
]


def bits(text: bytes, rng: random.Random) -> bytes:
    """Flip bits."""
    found = bytearray(text)
    for _ in range(rng.choice([1, 1, 2, 5])):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def pieces(text: bytes, rng: random.Random) -> bytes:
    """Leave out or double a piece, or put a mark or zeros in front."""
    i, j = sorted((rng.randrange(len(text)), rng.randrange(len(text))))
    mark = rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\r\n", b"\x1b[2J"])
    return rng.choice(
        [text[:i], text[j:], text[:i] + text[j:], text + text[i:j], mark + text, text[:i] + mark + text[i:]]
    )


def lines(text: bytes, rng: random.Random) -> bytes:
    """Swap, drop or double lines."""
    found = text.split(b"\n")
    i, j = rng.randrange(len(found)), rng.randrange(len(found))
    match rng.randrange(3):
        case 0:
            found[i], found[j] = found[j], found[i]
        case 1:
            del found[i]
        case _:
            found.insert(i, found[j])
    return b"\n".join(found)


def values(text: bytes, rng: random.Random) -> bytes:
    """Give a key an odd value."""
    found = text.decode().split("\n")
    places = [i for i, line in enumerate(found) if "=" in line and not line.startswith("#")]
    i = rng.choice(places)
    found[i] = f"{found[i].partition('=')[0]}= {rng.choice(ODD)}"
    return "\n".join(found).encode(errors="surrogatepass")


def keys(text: bytes, rng: random.Random) -> bytes:
    """Misspell a key, or add one, short, long, deep or with characters that steer."""
    found = text.decode().split("\n")
    odd = [
        "macs",
        "levls",
        '"' + "k" * 3000 + '"',
        ".".join("a" * 500),
        ".".join("a" * 50_000),
        '"\\u001b[2J"',
        '""',
        "a.b",
    ]
    if rng.random() < 0.5:
        i = rng.choice([i for i, line in enumerate(found) if "=" in line])
        found[i] = f"{rng.choice(odd)} ={found[i].partition('=')[2]}"
    else:
        found.insert(rng.randrange(len(found)), f"{rng.choice(odd)} = {rng.choice(ODD)}")
    return "\n".join(found).encode(errors="surrogatepass")


def many(text: bytes, rng: random.Random) -> bytes:
    """Make very many mistakes, or a file of many lines or bytes."""
    key = rng.choice(["x", "macs", "k" * 200])
    return text + rng.choice(
        [
            b"\n[search]\n" + b"".join(f"{key}{i} = 1\n".encode() for i in range(3000)),
            b"\n[limits]\n" + b"".join(f"{key}{i} = 1\n".encode() for i in range(3000)),
            b"\nobjectives = [\n" + b'"a",\n' * 20_000 + b"]\n",
            b"\n[[x]]" * 3000,
            b"#" * 2_000_000,
            b"\n" * 50_000,
        ]
    )


DAMAGES = {"bits": bits, "pieces": pieces, "lines": lines, "values": values, "keys": keys, "many mistakes": many}


def agrees(said: Any, read: Any) -> bool:
    """Say whether everything in parsed TOML is in what was read."""
    if isinstance(said, dict):
        return all(
            agrees(value, read[key] if isinstance(read, Mapping) else getattr(read, key)) for key, value in said.items()
        )
    if isinstance(said, list):
        return len(said) == len(read) and all(map(agrees, said, read))
    return bool(said == read) or said != said  # not a number


def verdict(path: Path) -> str:
    """Read one file and say what came of it."""
    try:
        file = read_problem_file(str(path))
    except ConfigError as error:
        text = str(error)
        plain = all(c.isprintable() or c in "\n\t" for c in text)
        return "refused" if len(text) <= LONGEST and plain else f"RAW: {len(text)} characters, {plain=}"
    except Exception as error:  # noqa: BLE001  what we are looking for
        return f"RAW: {type(error).__name__}: {str(error)[:100]}"
    said = tomllib.loads(path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    try:
        return "read" if agrees(said, file.tables) else "WRONG: not what the file says"
    except (AttributeError, KeyError, TypeError) as error:
        return f"WRONG: dropped: {error}"[:100]


def fuzz(n: int, seed: int) -> dict[str, Counter[str]]:
    """Read ``n`` damaged files of every kind (a tenth with many mistakes); return the verdicts by kind."""
    shipped = Path(str(files("autoprune.searchspaces")))
    sources = [WHOLE.encode(), *(path.read_bytes() for path in sorted(shipped.glob("*.toml")))]
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.toml"
        for kind, damage in DAMAGES.items():
            rng = random.Random(f"{seed} {kind}")
            found[kind] = Counter()
            for _ in range(n if damage is not many else max(1, n // 10)):
                path.write_bytes(damage(rng.choice(sources), rng))
                found[kind][verdict(path)] += 1
    return found


def show(doc: str, fuzz: Callable[[int, int], dict[str, Counter[str]]], fine: str) -> None:
    """Read the options, print a table; the exit code is 1 where something was wrong or raw.

    Args:
        doc: the script's docstring.
        fuzz: returns what happened for every kind of damage, of so many files and a seed.
        fine: what happened where a file did no harm and was not refused.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000, help="files of every kind")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = fuzz(options.n, options.seed)
    print(f"{'damage':34} {'files':>7} {'refused':>8} {fine:>9} {'WRONG':>6} {'RAW':>5}")
    bad: Counter[str] = Counter()
    for kind, counts in found.items():
        wrong, raw = (sum(n for name, n in counts.items() if name.startswith(start)) for start in ("WRONG", "RAW"))
        print(f"{kind:34} {counts.total():7} {counts['refused']:8} {counts[fine]:9} {wrong:6} {raw:5}")
        bad.update({name: n for name, n in counts.items() if name not in ("refused", fine)})
    for name, n in bad.most_common(20):
        print(f"{n:6} {name}")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    show(__doc__, fuzz, "read")
