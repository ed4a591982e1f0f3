#!/usr/bin/env bash
# Other kernels and other targets. Needs root and Debian for what it installs; elsewhere it says so and does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo 'not root on Debian: other kernels and other targets were NOT tried'
    exit 0
fi
exec tests/portability/run "$@"
