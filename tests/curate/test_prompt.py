"""The SQL prompt: statements, dot commands, history, completion, paging, and Ctrl-C."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ambient.curate.ask import ask
from ambient.curate.prompt import answer, completer, history_file, is_complete, prompt, words
from ambient.curate.query import connect
from ambient.curate.signals import stop_at_once
from ambient.schemas.errors import UserError
from manifests import rows, write
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return write(tmp_path / "m.parquet", rows(5, source=["a", "a", "b", "b", "b"]))


def typed(manifest: Path, keys: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed while these keys are typed at the prompt."""
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys)
        prompt(manifest)
    return capsys.readouterr().out


def test_statements_and_commands(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    statement = "SELECT source, count(*) AS n FROM manifest GROUP BY ALL ORDER BY n"
    out = typed(manifest, f"{statement}\r.schema\r.help\r.quit\r", capsys)
    assert out.startswith(f"{manifest}: 5 pictures.")
    assert re.search(r"^source +n\na +2\nb +3\n2 rows, \d\.\d{3} s$", out, re.MULTILINE)
    assert re.search(r"^sigma_min +FLOAT *$", out, re.MULTILINE)
    assert "views: manifest, by_source, coverage" in out
    assert "FROM usable(0.5)" in out


def test_a_mistake_is_one_line_and_the_prompt_goes_on(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["SELECT sigma_mim FROM manifest;", "SELECT 1; SELECT 2;", ".tables", "COPY manifest TO '/tmp/x.csv';"]
    lines = typed(manifest, "\r".join([*wrong, "SELECT 41 + 1 AS n", "\x04"]), capsys).splitlines()[1:]
    assert "sigma_mim" in lines[0]
    assert lines[1] == "SQL: one statement is needed, not 2"
    assert lines[2] == "there is no .tables: .help, .schema, .quit"
    assert "disabled" in lines[3]
    assert lines[4:6] == [" n", "42"]
    assert not Path("/tmp/x.csv").exists()


def test_enter_goes_on_until_a_statement_is_complete(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = typed(manifest, "SELECT count(*) AS n FROM\rmanifest\r.quit\r", capsys)
    assert re.search(r"^n\n5\n1 row, ", out, re.MULTILINE)
    with connect(manifest) as connection:
        for text in ("", " ", ".help", "SELECT 1", "SELECT (1;", "FROM (\n", "SELEC;"):
            assert is_complete(connection, text), text
        for text in ("exit", " quit", ".quit"):
            assert is_complete(connection, text), text
        for text in ("SELECT", "SELECT (1", "FROM manifest WHERE", "SELECT 'a", "WITH t AS (FROM manifest)"):
            assert not is_complete(connection, text), text


def test_history_is_kept_for_the_next_time(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed(manifest, "SELECT 17 AS n\r.quit\r", capsys)
    path = tmp_path / "state" / "ambient" / "sql_history"
    assert "+SELECT 17 AS n" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    up = "\x1b[A"
    assert re.search(r"^17$", typed(manifest, f"{up}{up}\r.quit\r", capsys), re.MULTILINE)


def test_a_state_folder_that_cannot_be_written(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    out = typed(manifest, "SELECT 5 AS n\r.quit\r", capsys)
    assert "nothing will be remembered" in out
    assert re.search(r"^5$", out, re.MULTILINE)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert history_file() == Path("/home/someone/.local/state/ambient/sql_history")


def test_completion(manifest: Path) -> None:
    with connect(manifest) as connection:
        complete = completer(words(connection))

    def found(text: str) -> list[str]:
        return [c.text for c in complete.get_completions(Document(text), CompleteEvent())]

    assert found("SELECT SIGMA_m")[:4] == ["sigma_min", "sigma_min_lo", "sigma_min_hi", "sigma_max"]
    assert "sigma_min_median" in found("FROM by_source SELECT sigma_min_m")
    assert found("FROM man") == ["manifest"]
    assert found("FROM us")[:2] == ["usable", "usable("]
    assert "GROUP" in found("FROM manifest gro")
    assert "quantile_disc(" in found("SELECT quantile_")
    assert found(".s") == [".schema"]
    assert ".schema" not in found("SELECT 1 .s")
    assert found("SELECT m.sigma_ma") == ["sigma_max"]
    assert found("SELECT ") == []
    assert [c.start_position for c in complete.get_completions(Document("FROM man"), CompleteEvent())] == [-3]


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no manifest"):
        prompt(tmp_path / "none.parquet")


def test_wide_rows_are_lists_and_long_results_are_paged(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = []
    monkeypatch.setattr("pydoc.pager", pages.append)
    console = Console(force_terminal=True, width=80, height=24, color_system=None, highlight=False)
    with connect(manifest) as connection:
        answer(connection, "FROM manifest LIMIT 2", console)
        answer(connection, "SELECT range AS n FROM range(5000)", console)
        answer(connection, "SELECT 1 AS n", console)
    wide, long = pages
    assert re.search(r"^sigma_min +1 *$", wide, re.MULTILINE)
    assert re.search(r"^uri +0000000.png *$", wide, re.MULTILINE)
    assert [line.strip() for line in long.splitlines()][:3] == ["n", "0", "1"]
    assert "999" in long
    assert "4,000 more rows" in long
    assert re.search(r"^n\n1\n1 row, ", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("text", ["SELECT range AS n FROM range(500)", ".schema"])
def test_ctrl_c_while_a_result_is_shown_stops_that_only(
    manifest: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pydoc.pager", lambda _: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    try:
        stop_at_once()
        console = Console(force_terminal=True, width=80, height=10, color_system=None, highlight=False)
        with connect(manifest) as connection:
            answer(connection, text, console)
            answer(connection, "SELECT 6 * 7 AS n", console)
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, before if number == signal.SIGINT else signal.SIG_DFL)
    assert re.search(r"stopped\s+n\s+42\s+1 row, ", capsys.readouterr().out)


@pytest.mark.parametrize("options", [{"csv": True}, {"as_json": True}, {"out": Path("x.csv")}, {"parameters": ["s=1"]}])
def test_the_prompt_refuses_what_only_a_query_can_use(
    manifest: Path, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(UserError, match=r"^--csv, --json, -o and --param need a query"):
        ask(manifest, None, **options)


class Terminal:
    """``ambient sql`` in a terminal of its own."""

    def __init__(self, manifest: Path, pager: str = "cat") -> None:
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "ambient.cli", "sql", str(manifest)]
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "PAGER": pager}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.file, self.seen = master, ""

    def wait_for(self, pattern: str, seconds: float = 30) -> str:
        until = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < until, self.seen
            if select.select([self.file], [], [], 0.1)[0]:
                self.seen += os.read(self.file, 65536).decode(errors="replace")
                self.seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen)
        found, self.seen = self.seen, ""
        return found

    def type(self, keys: str) -> None:
        os.write(self.file, keys.encode())


@pytest.fixture
def terminal(manifest: Path, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    terminal = Terminal(manifest, *getattr(request, "param", ()))
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
    terminal.process.wait()
    os.close(terminal.file)


def test_tab_completes_and_enter_runs(terminal: Terminal) -> None:
    terminal.wait_for("ambient>")
    terminal.type("SELECT count(sigma_ma\t")
    terminal.wait_for("sigma_max")
    terminal.type(") + 37 FROM mani\t")
    terminal.wait_for("manifest")
    terminal.type("\r")
    terminal.wait_for(r"42\s+1 row, [\s\S]*ambient>")
    terminal.type(".quit\r")
    assert terminal.process.wait(10) == 0


@pytest.mark.parametrize("terminal", [["head -2"]], indirect=True)
def test_who_leaves_the_pager_comes_back(terminal: Terminal) -> None:
    terminal.wait_for("ambient>")
    terminal.type("SELECT repeat('x', 5000) AS x FROM range(1000);\r")
    terminal.wait_for(r"1,000 rows, [\s\S]*ambient>")
    terminal.type("\x04")
    assert terminal.process.wait(10) == 0


def test_ctrl_c_stops_the_statement_and_not_the_program(terminal: Terminal) -> None:
    terminal.wait_for("ambient>")
    terminal.type("SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b;\r")
    time.sleep(1)
    assert terminal.process.poll() is None
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for(r"stopped[\s\S]*ambient>", seconds=10)
    terminal.type("SELECT 6 * 7 AS n;\r")
    terminal.wait_for(r"42[\s\S]*ambient>")
    terminal.type("\x03")  # clears the line
    terminal.type("\x04")
    assert terminal.process.wait(10) == 0
