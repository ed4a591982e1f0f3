# For the scripts beside this one: where things are, how they get what they need, how they record what came of it.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$root/tests/portability
# Compilers of different versions never share a target directory: each switch would rebuild everything.
work=${TROCHUS_PORTABILITY_DIR:-$root/target/portability}
rows=$work/rows
mkdir -p "$rows"
cd "$root"

say() { printf '%s\n' "portability: $*" >&2; }

# Installs those of the named Debian packages that are not there.
need_packages() {
    local missing=() package
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    say "installing ${missing[*]}"
    if ! DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >"$work/apt.log" 2>&1; then
        timeout 300 apt-get update -qq
        DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -qq -y --no-install-recommends "${missing[@]}" >"$work/apt.log" 2>&1 ||
            { tail -5 "$work/apt.log" >&2; return 1; }
    fi
}

# The compiler of Debian that comes with the standard library's source, for targets that it is not built for.
need_source_compiler() {
    need_packages rustc-web cargo-web rust-web-src gcc libc6-dev
}

# `native_cargo …`: the toolchain on the path; without one, Debian's.
native_cargo() {
    if command -v cargo >/dev/null; then
        nice -n 5 cargo "$@"
    else
        need_source_compiler
        CARGO_TARGET_DIR=$work/native nice -n 5 /usr/bin/cargo "$@"
    fi
}

# `record KEY PLATFORM BACKEND WHAT RESULT`: a row of the table, replacing what the same key said before.
record() {
    local key=$1
    shift
    printf '| %s | %s | %s | %s |\n' "$@" >"$rows/$key"
    say "$1: $4"
}

# What tests said of themselves, added up: "N passed", and failures if there are any.
tally() {
    awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
         END { printf "%d passed", passed; if (failed) printf ", %d FAILED", failed; if (ignored) printf ", %d ignored", ignored }'
}
