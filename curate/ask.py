"""``ambient sql``: one statement and where its result goes, or a prompt."""

import signal
import sys
from pathlib import Path

from ..schemas.errors import UserError
from .query import parameter, query, spare_manifests
from .tables import print_table, to_csv, to_json_lines, write_result


def ask(
    manifest: Path,
    statement: str | None,
    *,
    csv: bool = False,
    as_json: bool = False,
    out: Path | None = None,
    parameters: list[str] | None = None,
) -> None:
    """Print the result of a statement, or write it to ``out``; without one, a prompt in a terminal, else stdin says it.

    parameters: ``name=value`` of ``$name`` in the statement. Raises UserError for what the user can put right.
    """
    if csv + as_json + (out is not None) > 1:
        raise UserError("--csv, --json and -o say where the result goes: give one of them")
    if out is not None:
        spare_manifests(out, manifest)
    if statement is None and sys.stdin.isatty():
        if csv or as_json or out is not None or parameters:
            raise UserError("--csv, --json, -o and --param need a query: it follows the manifest")
        from .prompt import prompt

        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # who leaves the pager comes back to the prompt
        prompt(manifest)
        return
    values = dict(map(parameter, parameters or []))
    table = query(manifest, sys.stdin.read() if statement is None else statement, values)
    if out is not None:
        write_result(table, out)
    elif csv or as_json:
        sys.stdout.write(to_csv(table) if csv else to_json_lines(table))
    else:
        print_table(table)
