#!/usr/bin/env bash
# Everything of docker-compose.yml and the profiles named, up and healthy: builds the image unless INSTEP_IMAGE names
# one, and returns when all that has a health check is healthy, or with 1 and the log of who is not.
#   deploy/up.sh simulator dashboards
set -euo pipefail
cd "$(dirname "$0")/.."
within_s=${INSTEP_UP_WITHIN_S:-300}

with=()
for profile in "$@"; do with+=(--profile "$profile"); done
compose() { deploy/compose.sh "${with[@]}" "$@"; }

[ -n "${INSTEP_IMAGE:-}" ] || compose build topics
compose up --detach --no-build

for ((SECONDS = 0; SECONDS < within_s; )); do
  states=$(compose ps --all --quiet | xargs docker inspect --format \
    '{{if .State.Health}}{{.Name}} {{.State.Status}} {{.State.Health.Status}}{{end}}')
  waiting=$(grep -v -e '^$' -e ' running healthy$' <<<"$states" || true)
  [ -n "$waiting" ] || exit 0
  sleep 1
done
echo "deploy/up.sh: expected all to be healthy within $within_s s, got:" >&2
while read -r name status; do
  echo "$name: $status"
  docker logs --tail 20 "${name#/}" 2>&1
done <<<"$waiting" >&2
exit 1
