"""`autoprune doctor`: what is installed, which devices there are, what is missing and where one may write."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.cli.console import escape, print_json, print_line, print_table

PACKAGES = {
    "torch": "everything that runs a network",
    "torchvision": "named data and networks",
    "numpy": "everything",
    "scipy": "tracing and statistics",
    "pandas": "run.front.table()",
    "safetensors": "weights and pruned models",
    "moocore": "hypervolume",
    "scikit-learn": "the digits data",
    "plotly": "the report",
    "jinja2": "the report",
    "optuna": "strategies optuna:*",
    "pymoo": "strategies pymoo:*",
    "ray": 'executor="ray"',
}
"""What each required package is for."""

EXTRAS = {
    "onnx": "autoprune export --format onnx",
    "onnxruntime": "checking an exported ONNX file",
    "onnxscript": "autoprune export --format onnx",
}
"""What each package of the extra `autoprune[export]` is for."""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    runs: Annotated[Path, typer.Option(help="Where runs will be written.")] = Path("runs"),
) -> None:
    """Show versions, devices and threads, what is missing, and whether the run folder can be written."""
    findings: dict[str, Any] = {
        "autoprune": _version("autoprune"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in (*PACKAGES, *EXTRAS)},
        "devices": _devices(),
        "folders": [_folder("runs", runs), _folder("temporary files", Path(tempfile.gettempdir()))],
    }
    findings["problems"] = _problems(findings)
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    if any(problem["required"] for problem in findings["problems"]):
        raise typer.Exit(1)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    try:
        import torch
    except ImportError:
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices: list[dict[str, Any]] = [
        {"device": "cpu", "name": platform.machine(), "cores": cores, "threads": torch.get_num_threads()}
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append({"device": f"cuda:{index}", "name": properties.name, "bytes": properties.total_memory})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple"})
    return devices


def _folder(purpose: str, path: Path) -> dict[str, Any]:
    """Say whether files can be made in ``path``, or in the nearest folder above it that exists."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            writable = True
    except OSError:
        writable = False
    return {
        "purpose": purpose,
        "path": str(path.absolute()),
        "writable": writable,
        "free_bytes": shutil.disk_usage(existing).free,
    }


def _problems(findings: dict[str, Any]) -> list[dict[str, Any]]:
    problems = [
        {"required": False, "what": f"no {name}: {use}", "do": 'pip install "autoprune[export]"'}
        for name, use in EXTRAS.items()
        if findings["packages"][name] is None
    ]
    problems += [
        {"required": True, "what": f"no {name}: {use}", "do": f"pip install {name}"}
        for name, use in PACKAGES.items()
        if findings["packages"][name] is None
    ]
    problems += [
        {
            "required": True,
            "what": f"{folder['path']} cannot be written ({folder['purpose']})",
            "do": "name another folder with --runs or --store",
        }
        for folder in findings["folders"]
        if not folder["writable"]
    ]
    return problems


def _print(findings: dict[str, Any]) -> None:
    print_line(f"autoprune {findings['autoprune']}, Python {findings['python']}, {findings['platform']}")
    uses = {**PACKAGES, **EXTRAS}
    print_table(
        ("package", "version", "for"),
        [(name, found or "missing", uses[name]) for name, found in findings["packages"].items()],
    )
    print_table(("device", "what it is"), [(d["device"], _describe(d)) for d in findings["devices"]])
    print_table(
        ("folder", "path", "writable", ">free"),
        [
            (f["purpose"], f["path"], "yes" if f["writable"] else "no", f"{f['free_bytes'] / 1e9:.1f} GB")
            for f in findings["folders"]
        ],
    )
    for problem in findings["problems"]:
        color = "red" if problem["required"] else "yellow"
        print_line(f"[{color}]{escape(problem['what'])}[/{color}]; {escape(problem['do'])}")
    if not findings["problems"]:
        print_line("[green]nothing is missing[/green]")


def _describe(device: dict[str, Any]) -> str:
    if device["device"] == "cpu":
        return f"{device['name']}, {device['cores']} cores, {device['threads']} threads"
    return device["name"] + (f", {device['bytes'] / 2**30:.0f} GiB" if "bytes" in device else "")
