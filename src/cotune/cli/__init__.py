"""The command line. Each command parses, calls one function and prints; heavy modules load when it runs.

Exit codes: 0 done, 2 bad usage or bad input (one line, no traceback), 130 stopped by Ctrl-C, 143 stopped by SIGTERM,
1 anything else: an error nobody foresaw, cells that failed, a run that was not repeated bit by bit, a method that
leaks.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Annotated, Any

import typer

from cotune.cli.audit import audit
from cotune.cli.bench import bench
from cotune.cli.calibrate import calibrate
from cotune.cli.data import check, import_app
from cotune.cli.decide import decide
from cotune.cli.demo import demo
from cotune.cli.drift import drift
from cotune.cli.evaluate import evaluate
from cotune.cli.explain import explain
from cotune.cli.export import export
from cotune.cli.hashes import hashes
from cotune.cli.inspect import encoders, info
from cotune.cli.predict import predict
from cotune.cli.push import push
from cotune.cli.reproduce import reproduce
from cotune.cli.serve import serve
from cotune.cli.settings import Command, Group, SettingsCommand
from cotune.cli.show import be_quiet
from cotune.cli.stop import Stop, StoppedError, terminable
from cotune.cli.train import fit
from cotune.cli.tune import tune
from cotune.console import tell
from cotune.errors import CotuneError

app = typer.Typer(
    name="cotune",
    cls=Group,
    help="Fine-tune any text encoder together with any image encoder to classify posts.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
#: What an image that serves exports does without.
_OF_TRAINING = {"torch", "torchvision", "transformers", "timm", "lightning", "imagehash", "sklearn", "scipy"}
_STOPPED = 130  # what typer makes of Ctrl-C
# Of one call of main() alone: a program that calls it again asks again.
_debug: ContextVar[bool] = ContextVar("debug", default=False)
_START, _DATA, _USE = "Train", "Data", "Use"
app.command("demo", rich_help_panel=_START, cls=Command)(demo)
app.command("fit", rich_help_panel=_START, cls=SettingsCommand)(fit)
app.command("bench", rich_help_panel=_START, cls=SettingsCommand)(bench)
app.command("tune", rich_help_panel=_START, cls=SettingsCommand)(tune)
app.command("check", rich_help_panel=_DATA, cls=SettingsCommand)(check)
app.command("hashes", rich_help_panel=_DATA, cls=SettingsCommand)(hashes)
app.add_typer(import_app, name="import", rich_help_panel=_DATA)
app.command("evaluate", rich_help_panel=_USE, cls=SettingsCommand)(evaluate)
app.command("drift", rich_help_panel=_USE, cls=SettingsCommand)(drift)
app.command("predict", rich_help_panel=_USE, cls=SettingsCommand)(predict)
app.command("calibrate", rich_help_panel=_USE, cls=SettingsCommand)(calibrate)
app.command("decide", rich_help_panel=_USE, cls=SettingsCommand)(decide)
app.command("audit", rich_help_panel=_USE, cls=SettingsCommand)(audit)
app.command("explain", rich_help_panel=_USE, cls=SettingsCommand)(explain)
app.command("serve", rich_help_panel=_USE, cls=SettingsCommand)(serve)
app.command("export", rich_help_panel=_USE, cls=SettingsCommand)(export)
app.command("push", rich_help_panel=_USE, cls=Command)(push)
app.command("reproduce", rich_help_panel=_USE, cls=Command)(reproduce)
app.command("info", rich_help_panel=_USE, cls=Command)(info)
app.command("encoders", rich_help_panel=_DATA, cls=Command)(encoders)


def _version(asked: bool) -> None:
    if asked:
        from cotune._version import __version__

        typer.echo(f"cotune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks (also: COTUNE_DEBUG=1).", envvar="COTUNE_DEBUG")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The same as --quiet of the command.")] = False,
) -> None:
    del version
    _debug.set(debug)
    be_quiet(quiet)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of those of the process.
    """
    _debug.set(False)
    with terminable() as stop:
        return _guarded(arguments, stop)


def _guarded(arguments: Sequence[str] | None, stop: Stop) -> int:
    """Run the command line; whatever is raised becomes one line and an exit code."""
    try:
        return run(arguments)
    except (StoppedError, KeyboardInterrupt) as stopped:
        tell(str(stopped) or "stopped")
        return stop.code
    except CotuneError as error:
        tell(f"error: {' '.join(str(error).split())}")
        _trace()
        return 2
    except BrokenPipeError:
        _silence_stdout()  # whoever read our output has gone
        return 1
    except OSError as error:
        line = _about_system(error)
        if line is None:
            return _unexpected(error)
        tell(f"error: {line}")
        _trace()
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OF_TRAINING:
            return _unexpected(error)
        tell(
            f"error: this needs {error.name}, which is not installed: pip install cotune with its dependencies, or use "
            "an export (`cotune export`), which is scored and served without"
        )
        _trace()
        return 2
    except MemoryError:
        tell("error: the memory is used up; try a smaller --batch-size or --chunk-size")
        _trace()
        return 1
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """Say what was raised that nobody foresaw: in a plugin, or by a bug of ours."""
    from cotune.plugins import raised_in

    first = next(iter(str(error).splitlines()), "")
    if place := raised_in(error):
        tell(f"error: {type(error).__name__}: {first[:300]} (in the plugin {place}; --debug shows how it got there)")
        _trace()
        return 2
    tell(f"error: {type(error).__name__}: {first[:300]} (this is a bug of cotune; --debug shows where it is)")
    _trace()
    return 1


def _about_system(error: OSError) -> str | None:
    """Say what the system refuses, None for what has another cause."""
    if error.filename is not None:
        from cotune.errors import clip

        name = clip(os.fsdecode(error.filename) if not isinstance(error.filename, int) else str(error.filename))
        hint = "choose a shorter name" if error.errno == errno.ENAMETOOLONG else "check the path and its permissions"
        return f"{name}: {(error.strerror or str(error)).lower()}; {hint}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        _silence_stdout()
        return f"cannot write to standard output: {(error.strerror or '').lower()}; write to a place with room"
    return None


def _silence_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not complain at its end."""
    with suppress(OSError, ValueError, AttributeError):  # no real file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line without catching anything but wrong usage, and return its exit code."""
    # Model libraries print progress bars and hints of their own, meant for those who program with them.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait in a busy loop take the processor from the ones they wait for: on a machine that does
    # something else besides, training is several times slower with them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    answer: Any = None
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        # A command that starts itself once more, for each of several devices, finds them in its context.
        answer = app(args=given, standalone_mode=False, obj=given)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        show = getattr(error, "show", None)  # what click raises for wrong usage
        if show is None:
            raise
        _tell_usage(error, show)
        return int(getattr(error, "exit_code", 2))
    if answer == _STOPPED:  # typer turns Ctrl-C into an exit code
        raise KeyboardInterrupt
    return answer if isinstance(answer, int) else 0


def _tell_usage(error: Any, show: Callable[[], None]) -> None:
    """Say what is wrong with the command line; a command that was given nothing at all shows its help."""
    context = getattr(error, "ctx", None)
    if context is None or type(error).__name__ == "NoArgsIsHelpError":
        show()
        return
    problem = error.format_message().rstrip(".")
    tell(f"error: {problem[:1].lower()}{problem[1:]}; see {context.command_path} --help")


def _trace() -> None:
    if _debug.get():
        traceback.print_exc()
