#!/usr/bin/env bash
# Kafka's jars into build/kafka-VERSION, from Maven Central, unless they are there; prints the folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=$(sed -n 's/^apache\/kafka://p' deploy/images/names.txt)
jars=$PWD/build/kafka-$version
if [ ! -d "$jars" ]; then
  mkdir -p build
  part=$(mktemp -d "$jars.XXXXXX") # a run that is stopped half way leaves no folder of the right name
  trap 'rm -rf "$part"' EXIT
  mvn -q -B -f deploy/images/pom.xml dependency:copy-dependencies \
    "-Dkafka.version=$version" -DincludeScope=runtime "-DoutputDirectory=$part" 1>&2
  chmod 755 "$part"
  mv -T "$part" "$jars" 2>/dev/null || [ -d "$jars" ] # two at once: the first one's are as good
fi
echo "$jars"
