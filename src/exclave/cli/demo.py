"""``exclave demo``"""

from __future__ import annotations

import tempfile
from pathlib import Path
from textwrap import shorten
from typing import Annotated

import typer

from exclave.cli.output import Json, duration, err, out, print_json, say, table
from exclave.demo.stage import Report
from exclave.demo.story import play, require_demo, require_kept, stop_everything
from exclave.operations.home import write_private


def register(app: typer.Typer) -> None:
    app.command(name="demo", epilog="Example: exclave demo --keep --report report.json")(demo)


def demo(
    folder: Annotated[Path | None, typer.Option("--dir", help="A new folder for it; default: a temporary one.")] = None,
    scale: Annotated[int, typer.Option(min=1, max=50, help="Multiplies the amount of data.")] = 1,
    report: Annotated[Path | None, typer.Option(help="Write what was promised and measured as JSON.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the embassy running.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End what a demo in --dir left running.")] = False,
    json: Json = False,
) -> None:
    """Play the whole story: a small state is protected, loses home, and lives on abroad."""
    if stop:
        _stop(folder, json)
        return
    root = folder.absolute() if folder else Path(tempfile.mkdtemp(prefix="exclave-demo-"))
    screen = err if json else out

    def tell(text: str) -> None:
        screen.print(text, markup=False, style="cyan" if text.startswith("$ ") else None, soft_wrap=True)

    done = play(root, scale=scale, keep=keep, tell=tell, chapter=lambda text: screen.rule(text, align="left"))
    if report is not None:
        write_private(report.absolute(), _json_of(done).encode())
    if json:
        print_json(done)
    else:
        _show(done, keep)
    require_kept(done)


def _json_of(done: Report) -> str:
    import json as format_  # noqa: PLC0415 - `json` is the option's name here

    from exclave.cli.output import plain  # noqa: PLC0415

    return format_.dumps(plain(done), ensure_ascii=False, indent=2) + "\n"


def _stop(folder: Path | None, json: bool) -> None:
    root = folder.absolute() if folder else _last_demo()
    require_demo(root)
    stopped = stop_everything(root)
    if json:
        print_json({"stopped": stopped})
    else:
        say(f"Stopped: {', '.join(stopped) or 'nothing was running'}.")


def _last_demo() -> Path:
    """The newest temporary demo folder."""
    found = sorted(Path(tempfile.gettempdir()).glob("exclave-demo-*"), key=lambda p: p.stat().st_mtime)
    return found[-1] if found else Path(tempfile.gettempdir())


def _show(done: Report, keep: bool) -> None:
    out.rule("What was promised, what was measured", align="left")
    table(("promise", "kept", "measured"),
          ((p["promise"], "yes" if p["kept"] else "NO", p["measured"]) for p in done.promises))  # fmt: skip
    say("")
    table(("hostile act", "detected", "how"),
          ((a["act"], "yes" if a["detected"] else "NO", shorten(a["how"], 140, placeholder=" …"))
           for a in done.hostile_acts))  # fmt: skip
    say("")
    table(("register", "RTO", "RPO", "digest at home", "digest in the embassy"),
          ((r["name"], duration(r["rto_s"]), duration(r["rpo_s"]), r["digest_home"][:16] + "…",
            r["digest_embassy"][:16] + "…") for r in done.registers))  # fmt: skip
    say(f"\nEverything lies in {done.folder}; it took {duration(done.seconds)}.")
    if keep and done.ok:
        for service in done.services:
            say(f"  {service['name']}: {service['address']}")
        say(f"The embassy is running. End it with: exclave demo --stop --dir {done.folder}")
