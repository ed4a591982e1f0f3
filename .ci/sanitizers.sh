#!/usr/bin/env bash
# Undefined behaviour, memory errors and races, each tool on what it can run: Miri, the address and the thread sanitizer,
# valgrind.
#
#   .ci/sanitizers.sh                   all, some minutes each
#   .ci/sanitizers.sh --long            more cases, whole suites
#   .ci/sanitizers.sh miri valgrind     only these; there are miri, address, thread, valgrind
#
# They need a nightly toolchain with the components `miri` and `rust-src`, and valgrind. What is missing is installed where
# that is possible; what cannot be had is said, and left out.
set -euo pipefail
cd "$(dirname "$0")/.."
long=
only=
for argument in "$@"; do
    case $argument in
        --long) long=yes ;;
        *) only+=" $argument " ;;
    esac
done
host=$(rustc -vV | sed -n 's/^host: //p')
# Backtraces that nobody reads cost minutes here.
export RUST_BACKTRACE=0 PROPTEST_CASES=${long:+32}
export PROPTEST_CASES=${PROPTEST_CASES:-4}

left_out() {
    printf -- '-- NOT RUN: %s\n' "$*"
}

step() {
    printf -- '-- %s (%s s)\n' "$1" "$SECONDS"
    shift
    "$@"
}

# Whether the tool is asked for.
wanted() {
    [ -z "$only" ] || [[ $only == *" $1 "* ]]
}

# component NAME: has the nightly toolchain have it; fails if it cannot.
component() {
    command -v rustup >/dev/null || return 1
    rustup toolchain list | grep -q ^nightly ||
        timeout 600 rustup toolchain install nightly --profile minimal >/dev/null 2>&1 || return 1
    rustup component list --installed --toolchain nightly | grep -q "^$1" ||
        timeout 600 rustup component add --toolchain nightly "$1" >/dev/null 2>&1
}

# What has unsafe code and needs no system call that Miri does not know, and what moves memory about.
miri() {
    component miri && component rust-src || { left_out "Miri: no nightly toolchain with it"; return; }
    # The first ones have unsafe code. The others move memory about; their property tests take Miri long.
    local tests=(batch::lane rpc::server::reply driver::token reactor::table ${long:+buf:: codec::})
    # Proptest looks for the file of an earlier failure.
    export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS-}"
    step 'Miri' env CARGO_TARGET_DIR=target/miri timeout 3000 \
        cargo +nightly miri test --quiet --lib -- "${tests[@]}"
}

# sanitized KIND ARGUMENTS: tests, with the standard library instrumented as well.
sanitized() {
    local kind=$1
    shift
    RUSTFLAGS="-Zsanitizer=$kind -Cforce-frame-pointers=yes" CARGO_TARGET_DIR=target/$kind timeout 3000 \
        cargo +nightly test --quiet -Zbuild-std --target "$host" "$@"
}

address() {
    component rust-src || { left_out "the address sanitizer: no nightly toolchain with rust-src"; return; }
    # What a driver that cannot reap leaks is leaked on purpose; nothing else leaks.
    export ASAN_OPTIONS=detect_stack_use_after_return=1
    step 'address sanitizer: units' sanitized address --lib --workspace -- ${long:+--include-ignored} ${long:---skip reactor::tests}
    step 'address sanitizer: fallback' sanitized address -p trochus-fallback --tests
    step 'address sanitizer: streams' sanitized address --test conformance -- ${long:-stream::}
}

thread() {
    component rust-src || { left_out "the thread sanitizer: no nightly toolchain with rust-src"; return; }
    export TSAN_OPTIONS=halt_on_error=1
    step 'thread sanitizer: batcher' sanitized thread --lib -- batch::
    step 'thread sanitizer: handles' sanitized thread --test conformance -- ${long:-handles::}
}

valgrind_() {
    command -v valgrind >/dev/null || {
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null &&
            { apt-get update -qq && apt-get install -qq -y valgrind; } >/dev/null 2>&1
    } || { left_out 'valgrind: it is not here and cannot be installed'; return; }
    local program
    mkdir -p target/valgrind
    cargo test --quiet -p trochus-fallback --tests --no-run --message-format=json |
        python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable"):
        print(message["executable"])' >target/valgrind/programs
    while read -r program; do
        case $(basename "$program") in
            # Descriptors that valgrind keeps for itself count as the program's.
            emfile-*) continue ;;
        esac
        (cd fallback && step "valgrind: $(basename "$program")" timeout 900 \
            valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
            "$program" --quiet --test-threads=1 ${long:---skip sixty_four --skip million --skip model})
    done <target/valgrind/programs
}

! wanted miri || miri
! wanted address || address
! wanted thread || thread
! wanted valgrind || valgrind_
