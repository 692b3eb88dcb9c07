#!/bin/sh
# Builds the images of the examples and of the end-to-end tests, as OCI archives,
# into OUTDIR: guestbook-web.tar guestbook-store.tar toolbox.tar.
# ARCH, or GOARCH, chooses another architecture.
set -eu

if [ $# -ne 1 ]; then
	echo "usage: $0 OUTDIR" >&2
	exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export CGO_ENABLED=0 GOFLAGS='-buildvcs=false -trimpath'
arch=${ARCH:-$(go env GOARCH)}
(cd "$root/tools" && GOARCH=$(go env GOHOSTARCH) go build -o "$root/.cache/tools/imagetool" ./imagetool)

# image NAME PACKAGE IMAGETOOL-ARGS...
image() {
	name=$1 package=$2
	shift 2
	(cd "$root/examples" && GOARCH=$arch go build -ldflags '-s -w' -o "$work/$name" "$package")
	"$root/.cache/tools/imagetool" build --arch "$arch" --name "registry.kijabi.dev/$name:1" \
		--entrypoint "/$name" --file "$work/$name:/$name" -o "$out/$name.tar" "$@"
}

image guestbook-web ./guestbook/web --port 8080 --user 65532:65532
image guestbook-store ./guestbook/store --port 8080 --user 65532:65532 --dir /data
image toolbox ./toolbox --dir /tmp:1777 --cmd sleep
