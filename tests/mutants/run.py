#!/usr/bin/env python3
"""Repeats the mutants of this folder: small changes, each of which some test must notice.

    .ci/mutants.sh                      all that have no result yet for the sources as they are
    .ci/mutants.sh --only 'settle|R28'  those whose name, file or group matches
    .ci/mutants.sh --minutes 30         begins no other after so long; the next run goes on
    .ci/mutants.sh --check              only whether each can be applied
    .ci/mutants.sh --again              forgets the results so far
    .ci/mutants.sh --generated          cargo-mutants makes them up instead (hours)

A group is a TOML file: `[suites]`, commands by name, `{}` being what to run of them; and mutants, each with a name, the
file, a text that occurs there once (`before`), what takes its place (`after`), the suites that should notice (`tests`, in
order; the first that fails ends it), and what it breaks (`breaks`). A mutant that needs no test says why in `equivalent`.

Works on a copy, below target/mutants. A suite that takes longer than its time limit has noticed. Ends with 1 if a mutant
survived, cannot be applied or does not compile.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "mutants"
TREE = WORK / "tree"
GENERATED = ["src/reactor", "src/driver", "src/net", "fallback/src", "src/batch", "src/rpc", "src/codec"]


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    return sorted(name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file())


# What must happen has that long in the copy, where a change often means that it never does.
PATIENCE = (re.compile(rb"(const PATIENCE: Duration = Duration::from_secs\()\d+"), rb"\g<1>30")

# The first test that fails has noticed; the others need not be waited for.
FAILED = re.compile(r"(?:^|\.\.\. )FAILED\s*$", re.M)


def copy_tree():
    """Copies what has changed; gives the digest of everything that results depend on."""
    digest, names = hashlib.sha256(), tracked()
    for name in names:
        content = PATIENCE[0].sub(PATIENCE[1], (ROOT / name).read_bytes())
        if not name.startswith(("tests/mutants/", ".ci/", "docs/")) and not name.endswith(".md"):
            digest.update(name.encode() + b"\0" + content)
        target = TREE / name
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod((ROOT / name).stat().st_mode & 0o777)
    for path in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(path.relative_to(TREE)) not in names:
            path.unlink()
    return digest.hexdigest()


def groups():
    """All mutants, and what is wrong with the lists."""
    mutants, wrong, names = [], [], set()
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        group = tomllib.loads(path.read_text())
        for mutant in group.get("mutant", []):
            mutant["group"], mutant["commands"] = path.stem, []
            name = mutant["name"]
            if name in names:
                wrong.append((name, "there are two of this name"))
            names.add(name)
            for test in mutant["tests"]:
                suite, _, what = test.partition(" ")
                mutant["commands"].append(group["suites"][suite].replace("{}", what).strip())
            problem = applies(mutant)
            if problem:
                wrong.append((name, problem))
            else:
                mutants.append(mutant)
    return mutants, wrong


def applies(mutant):
    source = ROOT / mutant["file"]
    if not source.exists():
        return f"there is no {mutant['file']}"
    found = source.read_text().count(mutant["before"])
    if found != 1:
        return f"the text to change was found {found} times in {mutant['file']}"
    return "it changes nothing" if mutant["before"] == mutant["after"] else None


def run(command, limit):
    """How it ended, and its output."""
    log = WORK / "output"
    environment = dict(os.environ, CARGO_TARGET_DIR=str(WORK / "target"), RUST_BACKTRACE="0", CARGO_TERM_COLOR="never")
    with open(log, "wb") as output:
        process = subprocess.Popen(
            shlex.split(command), cwd=TREE, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            ended, until = "time limit", time.monotonic() + limit
            while ended == "time limit" and time.monotonic() < until:
                try:
                    ended = "passed" if process.wait(1) == 0 else "failed"
                except subprocess.TimeoutExpired:
                    if FAILED.search(log.read_text(errors="replace")):
                        ended = "failed"
        finally:
            try:
                # Its own group: whatever it started goes with it.
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    text = log.read_text(errors="replace")
    if ended == "failed" and re.search(r"^error: could not compile|^error\[E\d+\]", text, re.M):
        ended = "does not compile"
    return ended, text


def first_failure(text):
    found = re.search(r"^test (\S+)\s+\.\.\. FAILED|^\s*(\S+)\s+FAILED|panicked at (\S+)", text, re.M)
    return next((part for part in found.groups() if part), "") if found else ""


def try_one(mutant, limit):
    path = TREE / mutant["file"]
    original = path.read_text()
    path.write_text(original.replace(mutant["before"], mutant["after"]))
    start = time.monotonic()
    try:
        for command in mutant["commands"]:
            ended, text = run(command, limit)
            if ended == "does not compile":
                return {"result": "wrong", "by": ended, "seconds": round(time.monotonic() - start)}
            if ended != "passed":
                by = first_failure(text) if ended == "failed" else f"time limit of {limit} s"
                return {"result": "caught", "by": by, "seconds": round(time.monotonic() - start)}
        return {"result": "SURVIVED", "by": "", "seconds": round(time.monotonic() - start)}
    finally:
        path.write_text(original)


def generated():
    if subprocess.run(["cargo", "mutants", "--version"], capture_output=True).returncode:
        subprocess.run(["cargo", "install", "--locked", "cargo-mutants"], check=True)
    files = [argument for folder in GENERATED for argument in ("--file", f"{folder}/**/*.rs")]
    command = ["cargo", "mutants", "--workspace", "--timeout", "300", "--output", str(WORK), *files]
    return subprocess.run([*command, "--", "--lib", "--tests"], cwd=ROOT).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--limit", type=int, default=400, metavar="SECONDS", help="for one suite, building included")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--generated", action="store_true")
    options = parser.parse_args()
    if options.generated:
        return generated()
    mutants, wrong = groups()
    for name, problem in wrong:
        print(f"the list is wrong: {name}: {problem}")
    if options.check:
        print(f"{len(mutants)} mutants can be applied, {len(wrong)} cannot")
        return 1 if wrong else 0
    WORK.mkdir(parents=True, exist_ok=True)
    store = WORK / "results.json"
    digest = copy_tree()
    known = json.loads(store.read_text()) if store.exists() and not options.again else {}
    chosen = [m for m in mutants if re.search(options.only, f"{m['group']} {m['name']} {m['file']}")]
    began, results = time.monotonic(), {}
    for mutant in chosen:
        key = hashlib.sha256(
            "\0".join([digest, mutant["file"], mutant["before"], mutant["after"], *mutant["commands"]]).encode()
        ).hexdigest()
        if key not in known:
            if time.monotonic() - began > options.minutes * 60:
                continue
            # What fails without a change notices nothing.
            for command in mutant["commands"]:
                sound = f"{digest} {command}"
                if sound not in known:
                    ended, text = run(command, 3 * options.limit)
                    if ended != "passed":
                        print(text[-3000:])
                        return f"`{command}` does not pass without any change: {ended}"
                    known[sound] = True
            known[key] = try_one(mutant, options.limit)
            store.write_text(json.dumps(known))
        result = results[mutant["name"]] = known[key]
        print(f"{result['result']:8} {result['seconds']:4} s  {mutant['name']:28} {mutant['breaks']}  [{result['by']}]", flush=True)
    return conclude(chosen, results, wrong)


def conclude(chosen, results, wrong):
    survivors = [m for m in chosen if results.get(m["name"], {}).get("result") == "SURVIVED"]
    unexplained = [m for m in survivors if "equivalent" not in m]
    counted = [r for r in results.values() if r["result"] in ("caught", "SURVIVED")]
    caught = sum(r["result"] == "caught" for r in counted)
    broken = [name for name, r in results.items() if r["result"] == "wrong"]
    print()
    for mutant in survivors:
        print(f"survived: {mutant['name']}: {mutant.get('equivalent', 'no test notices')}")
    for name in broken:
        print(f"the list is wrong: {name} does not compile")
    share = f", {100 * caught // len(counted)} %" if counted else ""
    print(f"{caught} of {len(counted)} caught{share}; {len(chosen) - len(results)} not tried yet, {len(wrong) + len(broken)} wrong")
    return 1 if unexplained or wrong or broken else 0


if __name__ == "__main__":
    sys.exit(main())
