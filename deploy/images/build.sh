#!/bin/sh
# Builds the images every machine carries, as OCI archives, into OUTDIR: pause.tar.
# ARCH, or GOARCH, chooses another architecture.
set -eu

if [ $# -ne 1 ]; then
	echo "usage: $0 OUTDIR" >&2
	exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export CGO_ENABLED=0 GOFLAGS='-buildvcs=false -trimpath'
cd "$root/tools"
arch=${ARCH:-$(go env GOARCH)}
GOARCH=$(go env GOHOSTARCH) go build -o "$root/.cache/tools/imagetool" ./imagetool
GOARCH=$arch go build -ldflags '-s -w' -o "$work/pause" ./pause
"$root/.cache/tools/imagetool" build --arch "$arch" --name registry.kijabi.dev/pause:1 \
	--entrypoint /pause --file "$work/pause:/pause" --user 65535:65535 \
	-o "$out/pause.tar"
