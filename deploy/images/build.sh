#!/usr/bin/env bash
# Stand-ins for the images of docker-compose.yml, for networks without an image registry: the names and tags of
# names.txt, made of Debian packages and Maven Central. Needs root, debootstrap, mvn and an engine that answers
# (deploy/engine.sh); pulls nothing, and builds only what is not there or was made from something else. An image
# that was pulled stays.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=bookworm
packages=openjdk-17-jre-headless,redis-server,prometheus,python3
base=instep-test-base:$suite
label=instep.made-from
mkdir -p build

hashed() { sha256sum | cut -c 1-16; }

# current NAME HASH: whether that image is there, pulled from somewhere or made from what HASH stands for.
current() {
  local found
  found=$(docker image inspect --format "{{len .RepoDigests}} {{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null) &&
    [[ $found != 0\ * || $found == "0 $2" ]]
}

# A minimal Debian with the programs in it. The mirror is the one that this machine's apt uses, else debootstrap's own.
build_base() (
  root=$(mktemp -d /var/tmp/instep-base.XXXXXX)
  trap 'rm -rf "$root"' EXIT
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $suite" | sed -n 1p)
  debootstrap --variant=minbase --include="$packages" "$suite" "$root" ${mirror:+"$mirror"} \
    >build/debootstrap.log 2>&1 || { tail -n 20 build/debootstrap.log >&2; exit 1; }
  tar -C "$root" --exclude=./var/cache/apt --exclude=./var/lib/apt/lists --exclude=./usr/share/doc -c . |
    docker import --change "LABEL $label=$made_from_base" - "$base" >/dev/null
)

# build NAME FOLDER...: an image whose build context is all that is in the folders.
build() {
  local name=$1 context=() made_from
  made_from=$({ echo "$made_from_base" "$name"; cat "${@: -1}"/*; } | hashed)
  ! current "$name" "$made_from" || return 0
  SECONDS=0
  for folder in "${@:2}"; do context+=(-C "$PWD/${folder#"$PWD/"}" .); done
  current "$base" "$made_from_base" || build_base
  tar -c "${context[@]}" |
    DOCKER_BUILDKIT=0 docker build --build-arg "BASE=$base" --label "$label=$made_from" --tag "$name" - \
      >build/image.log 2>&1 || { tail -n 20 build/image.log >&2; exit 1; }
  echo "built $name in ${SECONDS} s"
}

made_from_base=$(echo "$suite $packages" | hashed)
while read -r name; do
  case $name in
    apache/kafka:*) build "$name" "$(deploy/images/jars.sh)" deploy/images/kafka ;;
    redis:*) build "$name" deploy/images/redis ;;
    prom/prometheus:*) build "$name" deploy/images/prometheus ;;
    mounted/instep:*) build "$name" deploy/images/instep ;;
    *) echo "deploy/images/names.txt: expected a name that build.sh knows, got $name" >&2 && exit 1 ;;
  esac
done <deploy/images/names.txt
