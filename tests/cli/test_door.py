"""The door of the command line: exit codes, one clean line per error, a quick --help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoprune.cli.app import app


def run_cli(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", "from autoprune.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, **options)  # type: ignore[call-overload]


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    """`autoprune --help` answers without torch, numpy or pydantic; half a second is the promise."""
    code = (
        "import sys\nfrom autoprune.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'ray', 'pandas') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
    for command in ("demo", "doctor", "export", "list", "plan", "report", "search", "show"):
        assert command in shown


def test_help_takes_less_than_half_a_second() -> None:
    """Best of three, in processor time of a fresh process: what else runs on the machine does not count."""
    times = []
    for _ in range(3):
        before = os.times()
        run_cli("--help")
        after = os.times()
        times.append(sum(after[2:4]) - sum(before[2:4]))  # of children: user and system
    assert min(times) < 0.5


def test_an_error_is_one_clean_line_on_stderr_and_exit_code_1() -> None:
    """No traceback, nothing on stdout."""
    result = run_cli("plan", "no-such-space")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: expected a search space or a file, got 'no-such-space'")
    assert len(result.stderr.splitlines()) == 1


def test_traceback_shows_where_an_error_came_from() -> None:
    """`--traceback` is for those who look for the place."""
    result = run_cli("--traceback", "plan", "no-such-space")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "find_problem_file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serach"], "No such command 'serach'"),
        (["plan"], "Missing argument"),
        (["list", "strategy"], "is not one of"),
        (["search", "digits-resnet", "--seed", "one"], "--seed"),
        (["search", "digits-resnet", "--sede", "1"], "No such option"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], message: str) -> None:
    """Typer explains what was wrong with the words on the command line."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_messages_may_hold_markup(tmp_path: Path) -> None:
    """Brackets in a user's names are printed as they are."""
    name = str(tmp_path / "[bold]x[/bold].toml")
    result = CliRunner().invoke(app, ["plan", name])
    assert result.exit_code == 1
    assert "[bold]x[/bold].toml" in result.output


def test_ctrl_c_while_the_command_line_is_loaded_is_one_line() -> None:
    """Before any command runs, too, an interruption shows no traceback and has its exit code."""
    code = (
        "import sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from autoprune.cli import main\n"
        "main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr == "interrupted before anything was done\n"


def test_an_early_ctrl_c_says_whether_something_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What resumes says so, however early it ends; what does not resume promises nothing."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autoprune.cli.options.read_problem", interrupted)
    said = {
        command: CliRunner().invoke(app, [command, "resnet20-cifar10"]) for command in ("search", "compare", "plan")
    }
    assert {result.exit_code for result in said.values()} == {130}
    assert "the same command goes on" in said["search"].stderr
    assert "the same command goes on" in said["compare"].stderr
    assert said["plan"].stderr == "interrupted\n"
