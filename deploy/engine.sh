#!/usr/bin/env bash
# A container engine that answers, and what the tests' servers are made from: installs what is missing (Debian, root)
# and starts dockerd by hand where none answers. Its pid is left in build/dockerd.pid, only if it was started here:
# it has to run as long as the tests do, and whoever called ends it by that pid (.ci/run does).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
limit_s=60

answers() { timeout 5 docker info >/dev/null 2>&1; }

needs() { command -v "$1" >/dev/null || missing+=("$2"); }

missing=()
answers || needs dockerd docker.io
needs docker docker.io
docker compose version >/dev/null 2>&1 || needs docker-compose docker-compose
needs iptables iptables
needs debootstrap debootstrap
needs redis-server redis-server
needs java default-jre-headless
needs mvn maven
needs openssl openssl
needs curl curl
if [ "${#missing[@]}" -gt 0 ]; then
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}"; } >build/apt.log 2>&1 ||
    { tail -n 20 build/apt.log >&2; exit 1; }
fi

answers && exit
rm -f build/dockerd.pid
setsid dockerd >build/dockerd.log 2>&1 </dev/null &
pid=$!
for ((tries = 0; tries < 5 * limit_s; tries++)); do
  if answers; then
    echo "$pid" >build/dockerd.pid
    exit
  fi
  kill -0 "$pid" 2>/dev/null || break
  sleep 0.2
done
kill "$pid" 2>/dev/null || true
{ echo "deploy/engine.sh: expected an engine that answers within $limit_s s, got none:"; tail -n 20 build/dockerd.log; } >&2
exit 1
