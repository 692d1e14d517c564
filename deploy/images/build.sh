#!/usr/bin/env bash
# Stand-ins for apache/kafka and redis, for networks without an image registry: the names and tags of names.txt, made
# of Debian packages and Maven Central. Needs root, debootstrap, mvn and an engine that answers (deploy/engine.sh);
# pulls nothing, and builds only what is not there.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=bookworm
base=instep-test-base:$suite
mkdir -p build

absent() { ! docker image inspect "$1" >/dev/null 2>&1; }

# A minimal Debian with Java and Redis. The mirror is the one that this machine's apt uses, else debootstrap's own.
build_base() (
  root=$(mktemp -d /var/tmp/instep-base.XXXXXX)
  trap 'rm -rf "$root"' EXIT
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $suite" | sed -n 1p)
  debootstrap --variant=minbase --include=openjdk-17-jre-headless,redis-server "$suite" "$root" ${mirror:+"$mirror"} \
    >build/debootstrap.log 2>&1 || { tail -n 20 build/debootstrap.log >&2; exit 1; }
  tar -C "$root" --exclude=./var/cache/apt --exclude=./var/lib/apt/lists --exclude=./usr/share/doc -c . |
    docker import - "$base" >/dev/null
)

# build NAME FOLDER...: an image whose build context is all that is in the folders.
build() {
  local name=$1 context=()
  for folder in "${@:2}"; do context+=(-C "$PWD/${folder#"$PWD/"}" .); done
  ! absent "$base" || build_base
  tar -c "${context[@]}" | DOCKER_BUILDKIT=0 docker build --build-arg "BASE=$base" --tag "$name" - \
    >build/image.log 2>&1 || { tail -n 20 build/image.log >&2; exit 1; }
  echo "built $name in ${SECONDS} s"
}

while read -r name; do
  SECONDS=0
  absent "$name" || continue
  case $name in
    apache/kafka:*) build "$name" "$(deploy/images/jars.sh)" deploy/images/kafka ;;
    redis:*) build "$name" deploy/images/redis ;;
    *) echo "deploy/images/names.txt: expected apache/kafka or redis, got $name" >&2 && exit 1 ;;
  esac
done <deploy/images/names.txt
