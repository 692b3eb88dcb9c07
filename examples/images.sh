#!/bin/sh
# Builds the images of the examples and of the end-to-end tests, as OCI archives,
# into OUTDIR: guestbook-web.tar guestbook-store.tar toolbox.tar, each with its bill of
# materials NAME.cdx.json.
# VERSION is a label; REVISION (the commit) and ARCH (amd64, arm64) may be set.
set -eu

if [ $# -ne 1 ]; then
	echo "usage: VERSION=0.1.0 $0 OUTDIR" >&2
	exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/deploy/images/common.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# image NAME PACKAGE TITLE DESCRIPTION IMAGETOOL-ARGS...
image() {
	name=$1 package=$2 title=$3 description=$4
	shift 4
	compile "$root/examples" "$package" "$work/$name"
	"$imagetool" build --name "registry.kijabi.dev/$name:1" --arch "$ARCH" \
		--version "$VERSION" --revision "$REVISION" --licenses Apache-2.0 \
		--title "$title" --description "$description" \
		--entrypoint "/$name" --file "$work/$name:/$name" \
		-o "$out/$name.tar" --sbom "$out/$name.cdx.json" "$@"
}

image guestbook-web ./guestbook/web "Guestbook web" "The pages of the guestbook example." \
	--port 8080 --user 65532:65532
image guestbook-store ./guestbook/store "Guestbook store" "Keeps the entries of the guestbook example." \
	--port 8080 --user 65532:65532 --dir /data
image toolbox ./toolbox "Toolbox" "Small tools to try a cluster with." \
	--dir /tmp:1777 --cmd sleep
