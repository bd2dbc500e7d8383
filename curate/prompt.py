"""``ambient sql MANIFEST`` without a query: a prompt with history, completion, paging and timing."""

import io
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from rich.console import Console

from ..schemas.errors import UserError
from .query import connect, run, run_stoppable
from .tables import for_people

if TYPE_CHECKING:
    import duckdb
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.key_binding import KeyBindings

MAX_ROWS = 1000
"""A result shows this many, page by page."""

_VIEWS = ("manifest", "by_source", "coverage")
_LAST_WORD = re.compile(r"\w*$")
_LEAVE = (".quit", ".exit", ".q", "quit", "exit")
_HELP = """\
SELECT source, count(*), median(sigma_min) FROM manifest GROUP BY ALL
FROM by_source                one line per source
FROM coverage                 pictures usable at each noise level
FROM usable(0.5)              the rows that may be used at noise level 0.5
SUMMARIZE manifest            every column at a glance

Enter runs a statement that is complete, and begins a new line in one that is not; a line that ends in ; always runs.
Tab completes, the arrows and Ctrl-R look back, Ctrl-C stops a query or clears the line.
A query sees the manifest only: it reads and writes no file. For files: ambient sql MANIFEST "SELECT ..." -o out.parquet

.schema   columns and views    .help   this    .quit   leave, as Ctrl-D does"""


def prompt(manifest: Path) -> None:
    """Answer statements about a manifest until the user leaves.

    Raises UserError when there is no valid manifest at the path; what is wrong with a statement is printed.
    """
    with connect(manifest) as connection:
        console = Console(highlight=False, emoji=False)
        rows = run(connection, "SELECT count(*) AS n FROM manifest")["n"][0].as_py()
        _say(console, f"{manifest}: {rows:,} pictures. Tab completes, .help explains, .quit leaves.")
        session = _session(connection, console)
        while True:
            try:
                text = session.prompt("ambient> ").strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text in _LEAVE:
                return
            if text:
                answer(connection, text, console)


def answer(connection: "duckdb.DuckDBPyConnection", text: str, console: Console) -> None:
    """Print the result of a statement or of a dot command, and how long it took; or what is wrong with it."""
    try:
        with _interruptible():
            if text.startswith("."):
                _command(connection, text, console)
            else:
                _result(connection, text, console)
    except UserError as error:
        _say(console, str(error), style="red")
    except KeyboardInterrupt:
        console.print("stopped", style="yellow")


def is_complete(connection: "duckdb.DuckDBPyConnection", text: str) -> bool:
    """Whether Enter should run the text: a dot command, a statement that parses, or one that its writer has ended."""
    import duckdb

    if (
        text.strip() in ("", *_LEAVE)
        or text.lstrip().startswith(".")
        or text.rstrip().endswith(";")
        or text.endswith("\n")
    ):
        return True
    try:
        return len(connection.extract_statements(text)) > 0
    except duckdb.Error:
        return False


def words(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """What can be completed, the nearest at hand first: columns, views, keywords, functions, dot commands."""
    columns = run(
        connection,
        "SELECT column_name AS w FROM duckdb_columns() "
        f"WHERE table_name IN {_VIEWS} GROUP BY w ORDER BY min(table_name <> 'manifest'), min(column_index)",
    )
    keywords = run(
        connection,
        "SELECT upper(keyword_name) AS w FROM duckdb_keywords() WHERE keyword_category = 'reserved' ORDER BY w",
    )
    functions = run(
        connection,
        "SELECT DISTINCT function_name || '(' AS w FROM duckdb_functions() "
        "WHERE function_type IN ('scalar', 'aggregate', 'window', 'macro') "
        "AND regexp_matches(function_name, '^[a-z][a-z0-9_]*$') ORDER BY w",
    )
    found = [word for table in (columns, keywords, functions) for word in table["w"].to_pylist()]
    names = len(columns)
    return [*found[:names], *_VIEWS, "usable(", *found[names:], ".help", ".schema", ".quit"]


def completer(words: list[str]) -> "Completer":
    """Completes the word before the cursor by its first letters, in any case; dot commands at the beginning only."""
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class Words(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
            before = document.text_before_cursor
            command = before.lstrip().startswith(".")
            typed = before.lstrip() if command else _LAST_WORD.search(before)[0]  # type: ignore[index]
            for word in words:
                if typed and word.lower().startswith(typed.lower()) and word.startswith(".") == command:
                    yield Completion(word, start_position=-len(typed))

    return Words()


def history_file() -> Path:
    """In the user's state folder (XDG Base Directory Specification)."""
    state = os.environ.get("XDG_STATE_HOME")
    folder = Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state"
    return folder / "ambient" / "sql_history"


def _session(connection: "duckdb.DuckDBPyConnection", console: Console) -> "PromptSession[str]":
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        history: History = FileHistory(str(path))
    except OSError as error:
        _say(console, f"{path} cannot be written ({error.strerror}): nothing will be remembered")
        history = InMemoryHistory()
    return PromptSession(
        history=history,
        completer=completer(words(connection)),
        complete_while_typing=False,
        auto_suggest=AutoSuggestFromHistory(),
        multiline=True,
        prompt_continuation="    ...> ",
        key_bindings=_keys(connection),
    )


def _keys(connection: "duckdb.DuckDBPyConnection") -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # takes what is completed
        elif is_complete(connection, buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return keys


def _command(connection: "duckdb.DuckDBPyConnection", text: str, console: Console) -> None:
    if text == ".help":
        _say(console, _HELP)
    elif text == ".schema":
        _show(run(connection, "SELECT column_name AS column, column_type AS type FROM (DESCRIBE manifest)"), console)
        _say(console, f"\nviews: {', '.join(_VIEWS)}; rows usable at noise level s: FROM usable(s)")
    else:
        raise UserError(f"there is no {text.split()[0]}: .help, .schema, .quit")


def _result(connection: "duckdb.DuckDBPyConnection", text: str, console: Console) -> None:
    start = time.perf_counter()
    table = run_stoppable(connection, text)
    elapsed = time.perf_counter() - start
    _show(table, console)
    console.print(f"{len(table):,} row{'s' * (len(table) != 1)}, {elapsed:.3f} s", style="dim")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C stops the statement or its display, not the program."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show(table: pa.Table, console: Console) -> None:
    """Print a result; through the user's pager where it is longer than the screen."""
    if table.num_columns == 0:
        return
    view = for_people(table.slice(0, MAX_ROWS), console.width)
    more = f"... {len(table) - MAX_ROWS:,} more rows: add a LIMIT" if len(table) > MAX_ROWS else None
    if console.is_terminal and view.row_count + 3 > console.height:
        import pydoc

        text = io.StringIO()
        plain = Console(file=text, width=console.width, color_system=None, highlight=False, emoji=False)
        plain.print(view)
        plain.print(more or "")
        pydoc.pager(text.getvalue())  # not console.pager(): after a Ctrl-C there the console is silent
    else:
        console.print(view)
        console.print(more or "", style="dim", end="\n" if more else "")


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, markup=False, soft_wrap=True, style=style)
