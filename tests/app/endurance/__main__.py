"""``python -m tests.app.endurance``: the page under many users, for an hour.

The command ``captum-dexar app`` runs in a process of its own, with the bundled model.
Users ask from this process. Every answer is compared with the library's.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tests.app.endurance.run import run
from tests.benchmarks.machine import machine

RESULTS = Path("benchmark-results")
MOST_GROWTH = 1.03


def table(measured: dict[str, Any]) -> str:
    """The figures in a few lines of Markdown."""
    rows = []
    at_rest = measured["thirds_of_rests"] or {"resident": None}
    for name, unit in (
        ("resident", "MiB"),
        ("private", "MiB"),
        ("open_files", ""),
        ("threads", ""),
        ("children", ""),
        ("files", ""),
        ("file_bytes", ""),
    ):
        one = measured["thirds"][name]
        growth = one["last"] / one["first"] if one["first"] else 1.0
        last = measured["after_users"][name]
        rows.append(
            f"| {name} | {one['first']:.5g} | {one['last']:.5g} | {growth:.3f} "
            f"| {one['least_first']:.5g} | {one['least_last']:.5g} "
            f"| {one['max']:.5g} | {last:.5g} {unit} |"
        )
    if (resident := at_rest["resident"]) is not None:
        rows.append(
            f"| resident, at rest | {resident['first']:.5g} | {resident['last']:.5g} "
            f"| {resident['last'] / resident['first']:.3f} "
            f"| {resident['least_first']:.5g} | {resident['least_last']:.5g} "
            f"| {resident['max']:.5g} | |"
        )
    lines = [
        f"{measured['minutes']:.1f} minutes, {measured['users']} users, "
        f"{measured['actions']} actions, {sum(measured['refusals'].values())} of "
        f"them refused as they had to be, {len(measured['faults'])} faults; "
        f"{measured['done'].get('answer checked', 0)} explanations compared with the "
        "library's.",
        "",
        "| | median of the first third | of the last | ratio | least of the first "
        "| of the last | most | when all had gone |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        "| seconds | number | median | 95th percentile | longest |",
        "|---|---|---|---|---|",
        *(
            f"| {what} | {one['number']} | {one['median']:.3f} | {one['p95']:.3f} "
            f"| {one['max']:.3f} |"
            for what, one in measured["seconds"].items()
        ),
        "",
        f"Changed on the model: {measured['model_changed'] or 'nothing'}. Left on disk "
        f"while running: {measured['left']['files']}, in {measured['left']['folders']} "
        f"folders. Ended with {measured['ended']}.",
    ]
    return "\n".join(lines)


def problems(measured: dict[str, Any]) -> list[str]:
    """What should not be."""
    said = [f"{one['who']}, {one['what']}: {one['text']}" for one in measured["faults"]]
    memory = measured["thirds"]["resident"]
    if memory["last"] > MOST_GROWTH * memory["first"]:
        said.append("the resident memory grows")
    if measured["model_changed"]:
        said.append("the model has changed")
    if measured["ended"]["status"] or measured["ended"]["files"]:
        said.append(f"the server ended with {measured['ended']}")
    if "Traceback" in measured["log"]:
        said.append("there is a traceback in the server's log")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.app.endurance", description=__doc__
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--images", type=int, default=28, help="different ones")
    parser.add_argument(
        "--pace", type=float, default=1.0, help="factor of the times of thinking"
    )
    parser.add_argument(
        "--browser", action="store_true", help="one of the users has a real Chromium"
    )
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "app-endurance.json", metavar="FILE"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="app-endurance-") as folder:
        measured = run(
            Path(folder),
            minutes=options.minutes,
            users=options.users,
            images=options.images,
            pace=options.pace,
            with_browser=options.browser,
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    saved = {"machine": machine(), **measured}
    options.out.write_text(json.dumps(saved, indent=1) + "\n")
    print(table(measured))
    wrong = problems(measured)
    for one in wrong:
        print(f"\nPROBLEM: {one}")
    print(f"\nSaved in {options.out}.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
