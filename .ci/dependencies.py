#!/usr/bin/env python3
"""Checks what the resolved dependencies declare, from `cargo metadata` alone.

No dependency may need a newer compiler than we promise, come from elsewhere than crates.io, or be under a licence that
deny.toml does not allow. `cargo deny` checks the last two more thoroughly; this needs no tool and no network.
"""

import json
import re
import subprocess
import sys
import tomllib

ROOTS = {"trochus", "trochus-fallback"}


def version(text):
    return tuple(int(number) for number in (text.split(".") + ["0", "0"])[:3])


def allowed(expression, licences):
    """Evaluates an SPDX expression, in which the older `MIT/Apache-2.0` means OR."""
    tokens = re.findall(r"\(|\)|[^\s()/]+|/", expression)
    words = {"OR": "or", "/": "or", "AND": "and", "(": "(", ")": ")"}
    terms, skip = [], False
    for token in tokens:
        if skip:
            skip = False
        elif token == "WITH":
            # An exception only permits more.
            skip = True
        else:
            terms.append(words.get(token) or str(token in licences))
    return eval(" ".join(terms), {"__builtins__": {}})


def main():
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    licences = set(tomllib.load(open("deny.toml", "rb"))["licenses"]["allow"])
    packages = {package["id"]: package for package in metadata["packages"]}
    ours = next(package for package in packages.values() if package["name"] == "trochus")["rust_version"]
    problems, checked = [], 0
    for package in packages.values():
        name = f"{package['name']} {package['version']}"
        if package["name"] in ROOTS:
            continue
        checked += 1
        needs = package["rust_version"]
        if needs and version(needs) > version(ours):
            problems.append(f"{name} needs Rust {needs}; we promise {ours}")
        if not (package["source"] or "").startswith("registry+https://github.com/rust-lang/crates.io-index"):
            problems.append(f"{name} comes from {package['source']}")
        if not package["license"] or not allowed(package["license"], licences):
            problems.append(f"{name} is under {package['license']}")
    print("\n".join(problems) or f"{checked} dependencies: none needs more than Rust {ours}, licences are fine")
    return 1 if problems or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
