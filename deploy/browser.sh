#!/usr/bin/env bash
# A browser for the tests of pages: Debian's chromium, installed if it is missing (Debian, root).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build

command -v chromium >/dev/null && exit
echo "installing chromium"
export DEBIAN_FRONTEND=noninteractive
{ apt-get update && apt-get install --yes --no-install-recommends chromium; } >build/apt.log 2>&1 ||
  { tail -n 20 build/apt.log >&2; exit 1; }
