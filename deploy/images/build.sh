#!/bin/sh
# Builds the images every machine carries, as OCI archives, into OUTDIR: pause.tar, and
# its bill of materials pause.cdx.json.
# VERSION is a label; REVISION (the commit) and ARCH (amd64, arm64) may be set.
set -eu

if [ $# -ne 1 ]; then
	echo "usage: VERSION=0.1.0 $0 OUTDIR" >&2
	exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/deploy/images/common.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile "$root/tools" ./pause "$work/pause"
"$imagetool" build --name registry.kijabi.dev/pause:1 --arch "$ARCH" \
	--version "$VERSION" --revision "$REVISION" --licenses Apache-2.0 \
	--title "Kijabi pause" --description "Holds the namespaces of a pod." \
	--entrypoint /pause --file "$work/pause:/pause" --user 65535:65535 \
	-o "$out/pause.tar" --sbom "$out/pause.cdx.json"
