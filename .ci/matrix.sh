#!/usr/bin/env bash
# What users may combine: features, older dependencies, the package as it is published.
#
#   .ci/matrix.sh            with the toolchain alone
#   .ci/matrix.sh --tools    also the package's tests; cargo-hack, cargo-deny and cargo-semver-checks, which are built
#                            here unless they are installed
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$PWD/target/matrix
mkdir -p "$scratch"

step() {
    printf -- '-- %s (%s s)\n' "$1" "$SECONDS"
    shift
    "$@"
}

features() {
    cargo metadata --format-version 1 --no-deps --locked |
        python3 -c 'import json, sys; print(*(f for p in json.load(sys.stdin)["packages"] if p["name"] == "trochus" for f in p["features"] if f != "default"))'
}

# Default and all features are what everything else is run with.
each_feature() {
    step 'no features' cargo check --quiet --locked -p trochus --all-targets --no-default-features
    local feature
    for feature in $(features); do
        step "feature $feature alone" cargo check --quiet --locked -p trochus --all-targets --no-default-features --features "$feature"
    done
}

# The oldest versions that Cargo.toml admits of what we depend on. In a copy, for the lock file changes.
minimal_versions() {
    local copy=$scratch/minimal
    rm -rf "$copy"
    mkdir -p "$copy"
    git ls-files -z -- . ":!fuzz" | xargs -0 cp --parents -t "$copy"
    (
        cd "$copy"
        export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$scratch/minimal-target
        # Without the development's dependencies, whose versions are nobody's concern.
        python3 - <<'PYTHON'
import re
for path in ("Cargo.toml", "fallback/Cargo.toml"):
    text = open(path).read()
    sections = re.split(r"(?m)^(?=\[)", text)
    dropped = ("dev-dependencies]", "[[bench]]", "[[test]]", "[[example]]")
    kept = [s for s in sections if not any(word in s.split("\n")[0] for word in dropped)]
    open(path, "w").write("".join(kept))
PYTHON
        cargo update --quiet -Zdirect-minimal-versions
        cargo check --quiet --workspace --all-features --lib
    )
}

# What is packed must compile, or with `test` also pass its tests, away from the repository.
package() {
    local action=$1
    rm -rf target/package
    cargo package --quiet --locked --workspace --no-verify --allow-dirty
    local crate
    for crate in target/package/*.crate; do
        tar -xzf "$crate" -C target/package
        crate=$(basename "$crate" .crate)
        local file
        for file in LICENSE-MIT LICENSE-APACHE README.md; do
            [ -s "target/package/$crate/$file" ] || { echo "$crate lacks $file"; return 1; }
        done
    done
    crate=$(cd target/package && echo trochus-[0-9]*/)
    local fallback
    fallback=$(cd target/package && echo "$PWD"/trochus-fallback-[0-9]*/)
    # Until it is published, the one finds the other here.
    (
        cd "target/package/$crate"
        export CARGO_TARGET_DIR=$scratch/package-target
        local patch="patch.crates-io.trochus-fallback.path=\"${fallback%/}\""
        # The tests run the examples as a user would, and `cargo test --examples` would build them as tests.
        [ "$action" = check ] || cargo build --quiet --config "$patch" --examples
        cargo "$action" --quiet --config "$patch" --lib --tests $([ "$action" = test ] || echo --examples)
        cd "$fallback"
        cargo "$action" --quiet --lib --tests
    )
}

# tool NAME: builds a cargo subcommand unless it is there; fails if that takes too long.
tool() {
    command -v "$1" >/dev/null ||
        CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$scratch/tools nice -n 5 timeout 1200 cargo install --quiet --locked --profile dev "$1"
}

with_tools() {
    tool cargo-hack && step 'every set of features' cargo hack check --quiet --locked -p trochus --feature-powerset --exclude-features default --lib
    tool cargo-deny
    step 'licences, sources, duplicates' cargo deny --log-level error --all-features check bans licenses sources
    # The database of advisories is a repository elsewhere.
    if timeout 120 cargo deny --all-features fetch db >"$scratch/advisories.log" 2>&1; then
        step 'advisories' cargo deny --log-level error --all-features check advisories
    else
        echo 'the database of advisories cannot be reached: advisories were NOT checked'
    fi
    local tag
    if tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null); then
        tool cargo-semver-checks
        step "compatible with $tag" cargo semver-checks --workspace --all-features --baseline-rev "$tag"
    fi
}

step 'what dependencies declare' python3 .ci/dependencies.py
step 'each feature' each_feature
step 'oldest dependencies' minimal_versions
if [ "${1-}" = --tools ]; then
    step 'package, with its tests' package test
    with_tools
else
    step 'package' package check
fi
if command -v rustup >/dev/null && rustup toolchain list | grep -q '^1\.88'; then
    CARGO_TARGET_DIR=$scratch/msrv step 'the oldest compiler' cargo +1.88 check --quiet --locked --workspace --all-features
fi
