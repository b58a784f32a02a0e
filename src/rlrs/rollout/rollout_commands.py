"""`rlrs rollout`: init, status, decide and sign a staged rollout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlrs.messages import plural, printable

if TYPE_CHECKING:
    from rlrs.rollout.standing import Stage, State

EXIT_CODES = {"pass": 0, "fail": 1, "more_data": 3}
"""Of `rlrs rollout decide`."""

app = typer.Typer(
    help="Small first, then outward: stages with criteria locked beforehand, A/B results, sign-off.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Of the rollout.")]


@app.command(epilog="Example: `rlrs rollout init rollout.yaml --out runs/rollout`")
def init(
    declaration: Annotated[Path, typer.Argument(metavar="ROLLOUT.yaml", help="What the rollout declares.")],
    out: Annotated[Path | None, typer.Option("--out", help="Its folder; runs/NAME if not given.")] = None,
) -> None:
    """Lock criteria, guardrails, ways back and signers, and begin the first stage.

    In a folder that has the rollout already: declare stages anew that have not begun.
    """
    from rlrs.audit import Trail
    from rlrs.rollout.declared import load_rollout
    from rlrs.rollout.rollout import Rollout

    folder = out or Path("runs") / load_rollout(declaration).name
    state = Rollout.begin(declaration, folder).state()
    names = ", ".join(stage.name for stage in state.stages)
    current = state.current
    _say(f"{folder}: stages {names}; {current.name if current else 'none'} is open, its criteria are locked")
    _say(f"keep this line where the folder's writers cannot write: {Trail(folder).anchor()}")


@app.command(epilog="Example: `rlrs rollout status runs/rollout`; exit code 0, or 2 where something was changed")
def status(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say where a rollout stands, after checking that its trail and its criteria are as they were declared."""
    from rlrs.rollout.standing import read_state

    state = read_state(folder)
    if as_json:
        import json

        from rlrs.audit.entry_facts import to_json

        typer.echo(json.dumps(to_json(_plain(state), "status"), indent=1, ensure_ascii=False))
        return
    _say(f"{state.config.name}: {state.config.candidate} in place of {state.config.baseline}")
    for stage in state.stages:
        _print_stage(stage, stage is state.current)
    if state.current is None:
        _say("all stages are signed: the rollout is done")


@app.command(
    epilog="Example: `rlrs rollout decide runs/rollout runs/study/results.json`; "
    "exit code 0 pass, 1 fail, 3 more data, 2 cannot be judged"
)
def decide(
    folder: Folder,
    results: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RESULTS...", help="results.json of a study, or its folder; tables: .csv, .jsonl."),
    ] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option("--runs", metavar="ARM=FOLDER", help="A run's folder, or one with many; may be repeated."),
    ] = None,
) -> None:
    """Look at all results of the current stage so far: pass, fail or more data. Looking early adds no errors."""
    from rlrs.rollout.rollout import Rollout

    rollout = Rollout(folder)
    found = rollout.decide(results or [], [_arm_folder(text) for text in runs or []])
    stage = rollout.state().current
    assert stage is not None
    _say(f"{stage.name}: {found.verdict.replace('_', ' ')} after {plural(found.pairs, 'pair')}")
    for finding in found.findings:
        _say(f"  {_mark(finding.verdict)}  {finding.reason}")
    if found.reason not in {finding.reason for finding in found.findings}:
        _say(f"  {found.reason}")
    if found.verdict == "pass":
        _say(f"next: rlrs rollout sign {folder} --by NAME --key KEY.pem")
    if found.verdict == "fail":
        _say(f"back out: {stage.config.back_out}")
    raise typer.Exit(EXIT_CODES[found.verdict])


@app.command(epilog="Example: `rlrs rollout sign runs/rollout --by ann --key ann.pem`")
def sign(
    folder: Folder,
    by: Annotated[str, typer.Option("--by", help="A signer of the rollout.yaml.")],
    key: Annotated[Path, typer.Option("--key", help="Ed25519 private key: PEM, of OpenSSL or OpenSSH.")],
    statement: Annotated[
        str | None, typer.Option("--statement", help="What you answer for; kept in the trail.")
    ] = None,
    override: Annotated[
        str | None, typer.Option("--override", help="Why to go on although the stage has not passed.")
    ] = None,
) -> None:
    """Sign the current stage off, which begins the next one."""
    from rlrs.audit import AuditError
    from rlrs.audit.anchors import private_key
    from rlrs.rollout.rollout import Rollout

    rollout = Rollout(folder)
    try:
        private = private_key(key)
    except AuditError as error:
        if not str(error).endswith("needs a password"):
            raise
        private = private_key(key, typer.prompt(f"Password of {key}", hide_input=True, err=True).encode())
    stage = rollout.sign(by, private, statement=statement, override=override)
    current = rollout.state().current
    following = f"{current.name} is open, its criteria are locked" if current else "the rollout is done"
    _say(f"{stage.name} is signed by {by}{', overridden' if override else ''}; {following}")


def _arm_folder(text: str) -> tuple[str, Path]:
    arm, found, folder = text.partition("=")
    if not (arm and found and folder):
        raise typer.BadParameter(f"--runs should be ARM=FOLDER, not {text!r}")
    return arm, Path(folder)


def _print_stage(stage: Stage, current: bool) -> None:
    status = stage.status(current)
    how = f" by {stage.signed_by}" if stage.signed_by else ""
    how += f", overridden: {stage.override}" if stage.signed_by and stage.override else ""
    _say(f"{stage.name:<12} {status}{how}")
    config = stage.config
    goal = f"{config.metric}, {config.better} is better, gain above {config.min_gain:g}"
    _say(f"  declared   {goal}; {config.min_pairs} to {config.max_pairs} {'pairs' if config.paired else 'runs an arm'}")
    for metric, guardrail in config.bounds().items():
        _say(f"  guardrail  {guardrail.words(metric)}")
    if stage.judgement is not None:
        _say(
            f"  {plural(stage.looks, 'look'):<9}  {stage.judgement.verdict.replace('_', ' ')}: {stage.judgement.reason}"
        )
    if status != "signed":
        _say(f"  back out   {config.back_out}")


def _plain(state: State) -> dict[str, Any]:
    return {
        "name": state.config.name,
        "baseline": state.config.baseline,
        "candidate": state.config.candidate,
        "current": state.current.name if state.current else None,
        "stages": [
            {
                "name": stage.name,
                "status": stage.status(stage is state.current),
                "looks": stage.looks,
                "verdict": stage.judgement.verdict if stage.judgement else None,
                "reason": stage.judgement.reason if stage.judgement else None,
                **(stage.judgement.to_plain() if stage.judgement else {"pairs": 0, "gain": None, "findings": []}),
                "override": stage.override,
                "signed_by": stage.signed_by,
                "declared": stage.config.model_dump(mode="json"),
            }
            for stage in state.stages
        ],
    }


def _mark(verdict: str) -> str:
    return {"pass": "holds", "fail": "FAILS", "more_data": "open "}[verdict]


def _say(text: str) -> None:
    typer.echo(printable(text))
