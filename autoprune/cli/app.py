"""The application: its commands, the place where errors become one clean line, and the exit codes.

Exit codes: 0 fine, 1 an error that the message explains, 2 wrong usage, 130 interrupted; SIGTERM and SIGHUP end a
command as they end others, once everything is saved. Nothing heavy is imported
here: `autoprune --help` answers at once, and each command imports what it needs.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from autoprune.cli import compare, demo, doctor, export, finetune, latency, listing, plan, prune, report, search, show
from autoprune.cli.console import fail, log
from autoprune.core.interruption import signals_interrupt
from autoprune.errors import AutopruneError

RESUMED = ("search", "compare", "finetune")
"""Commands that go on where they were interrupted."""


class _Door(TyperGroup):
    """Turns expected errors into one clean line on stderr; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        with signals_interrupt():
            return self._invoke(ctx)

    def _invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (AutopruneError, OSError) as error:
            if ctx.params["traceback"] or isinstance(error, BrokenPipeError):
                raise
            fail(str(error) or type(error).__name__)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            goes_on = "; nothing that was recorded is lost, the same command goes on"
            log(f"interrupted {error}".rstrip() + (goes_on if ctx.invoked_subcommand in RESUMED else ""))
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=_Door,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Give it a trained PyTorch model, data and a budget; get back a Pareto front of smaller models.",
    epilog="Start with [bold]autoprune demo[/bold]. A PROBLEM is a TOML file, or a name from `autoprune list spaces`.",
)


def _print_version(asked: bool) -> None:
    if asked:
        try:
            typer.echo(f"autoprune {version('autoprune')}")
        except PackageNotFoundError:
            typer.echo("autoprune, not installed: running from its source folder")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
) -> None:
    """Give it a trained PyTorch model, data and a budget; get back a Pareto front of smaller models."""


app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("plan")(plan.plan)
app.command("latency")(latency.latency)
app.command("prune")(prune.prune)
app.command("search")(search.search)
app.command("compare")(compare.compare)
app.command("finetune")(finetune.finetune)
app.command("show")(show.show)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("list")(listing.list_)
