"""`rlrs audit`: show, verify, diff, export, anchor and sign the audit trail of a study or a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rlrs.audit import Trail

app = typer.Typer(
    help="Who did what to a study, with which code, data and ratios: in a file that shows tampering.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a study or a run; or its audit.jsonl.")]


@app.command(epilog="Example: `rlrs audit show runs/demo --kind decision`")
def show(
    folder: Folder,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="Entries of this kind alone; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Whole entries, one JSON object a line.")] = False,
) -> None:
    """Print the entries of a trail."""
    from rlrs.audit.changes import sentence
    from rlrs.audit.entry_facts import check_kind

    for name in kind or []:
        check_kind(name)
    trail = _trail(folder)
    for entry in trail:
        if kind and entry.kind not in kind:
            continue
        if as_json:
            typer.echo(entry.model_dump_json())
        else:
            when = entry.at[:19].replace("T", " ")
            typer.echo(f"{entry.index:>5}  {when}  {entry.actor}  {entry.kind:<8}  {_line(sentence(entry), 200)}")
    if torn := trail.torn():
        typer.echo(f"note: {torn} bytes at the end are half an entry; `rlrs audit verify` says more", err=True)


@app.command(
    epilog="Example: `rlrs audit verify runs/demo --anchor anchor.txt`; exit code 0 intact, 1 tampered, 2 unreadable"
)
def verify(
    folder: Folder,
    anchor: Annotated[
        str | None, typer.Option("--anchor", help="What `rlrs audit anchor` printed, or a file that holds it.")
    ] = None,
    key: Annotated[
        list[Path] | None, typer.Option("--key", help="A public key that must have signed; may be repeated.")
    ] = None,
) -> None:
    """Look for everything that is not as it was written, and name it."""
    from rlrs.audit.anchors import anchor_from

    result = _trail(folder).verify(anchor_from(anchor) if anchor is not None else None, key or [])
    for one in result.found:
        typer.echo(_line(str(one), 500))
    for note in result.notes:
        typer.echo(f"note: {_line(note, 500)}")
    if not result.intact:
        typer.echo(f"NOT intact: {len(result.found)} found, {result.entries} entries as they were written")
        raise typer.Exit(1)
    held = "" if anchor or key else "; without --anchor or --key, a cut at the end or a new trail cannot be told"
    typer.echo(f"intact: {result.entries} entries, head {result.head}{held}")


@app.command(epilog="Example: `rlrs audit diff runs/january runs/june`")
def diff(
    before: Annotated[Path, typer.Argument(metavar="A", help="Folder of a study or a run.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
) -> None:
    """Show what changed from one trail to another: code, data, settings, ratios, decisions."""
    from rlrs.audit import differences

    found = differences(_trail(before), _trail(after))
    for one in found:
        typer.echo(_line(str(one), 500))
    if not found:
        typer.echo("no difference in code, data, settings, ratios and decisions")


@app.command(epilog="Example: `rlrs audit export runs/demo --html card.html`")
def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a study.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write the card as a page that opens offline.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write it as Markdown.")] = None,
) -> None:
    """Write the recipe card of a study: ratios, search, comparison, verdict, decisions, under the headings of Annex IV.

    Without a file to write, Markdown goes to standard output.
    """
    from rlrs.audit import recipe_card
    from rlrs.files import write_atomic

    wanted: list[tuple[Path | None, Literal["markdown", "html"]]] = [(markdown, "markdown"), (html, "html")]
    for path, form in wanted:
        if path is not None:
            write_atomic(path, recipe_card(folder, form))
            typer.echo(f"card    {path}")
    if html is None and markdown is None:
        typer.echo(recipe_card(folder), nl=False)


@app.command(epilog="Example: `rlrs audit anchor runs/demo > anchor.txt`, and put that where the study cannot write")
def anchor(folder: Folder) -> None:
    """Print length and head of a trail, one line: kept elsewhere, it shows later that nothing was cut or rewritten."""
    trail = _trail(folder)
    _check(trail)
    typer.echo(str(trail.anchor()))


@app.command(epilog="Example: `rlrs audit sign runs/demo --key me.pem --statement 'into the large run'`")
def sign(
    folder: Folder,
    key: Annotated[Path, typer.Option("--key", help="Ed25519 private key: PEM, of OpenSSL or OpenSSH.")],
    statement: Annotated[str, typer.Option("--statement", help="What you answer for; kept in the trail.")],
) -> None:
    """Sign a trail off: your statement becomes an entry, and `audit.sig` beside the trail has your signature of it."""
    from rlrs.audit import AuditError
    from rlrs.audit import sign as sign_trail
    from rlrs.audit.anchors import private_key

    trail = _trail(folder)
    try:
        private = private_key(key)
    except AuditError as error:
        if not str(error).endswith("needs a password"):
            raise
        private = private_key(key, typer.prompt(f"Password of {key}", hide_input=True, err=True).encode())
    signature = sign_trail(trail.folder, private, statement=statement)
    typer.echo(f"signed  {signature.anchor}")


def _trail(folder: Path) -> Trail:
    from rlrs.audit import AuditError, Trail

    trail = Trail(folder)
    if not trail.path.is_file():
        raise AuditError(f"{trail.path}: no audit trail there")
    return trail


def _check(trail: Trail) -> None:
    from rlrs.audit import AuditError

    if found := trail.verify().found:
        raise AuditError(f"{trail.path}: not intact: {found[0]}")


def _line(text: str, longest: int) -> str:
    """In one line, without control characters that could move the cursor or turn the writing round."""
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."
