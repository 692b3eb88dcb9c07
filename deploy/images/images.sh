#!/bin/sh
# Makes the images of images.yaml from the programs in BIN, for each NAME as
# NAME.oci.tar, NAME.docker.tar and NAME.cdx.json in OUTDIR.
# VERSION is their tag; REVISION (the commit) and ARCH (amd64, arm64) may be set.
set -eu

if [ $# -ne 2 ]; then
	echo "usage: VERSION=0.1.0 $0 BIN OUTDIR" >&2
	exit 2
fi
[ -x "$1/runc" ] || { echo "error: $1 does not hold the programs: run 'make build' first" >&2; exit 1; }
bin=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/deploy/images/common.sh"

build=$root/.cache/images/$ARCH
mkdir -p "$build"
compile "$root/tools" ./pause "$build/machine"

# What runc is linked with: it tells the version of libseccomp itself, unless it is for
# another architecture; then, as for the C library, the compiler's headers tell.
if [ -z "${CC:-}" ] && [ "$ARCH" != "$(go env GOHOSTARCH)" ]; then
	case $ARCH in
	amd64) CC=x86_64-linux-gnu-gcc ;;
	arm64) CC=aarch64-linux-gnu-gcc ;;
	esac
fi
header() {
	version=$(printf '#include <%s>\n%s\n' "$1" "$2" | ${CC:-cc} -E -P - | tail -n 1 | tr -d ' ')
	case $version in
	'' | *[!0-9.]*)
		echo "error: the headers of ${CC:-cc} do not tell the version of what runc is linked with ($1): install those it was built with" >&2
		exit 1
		;;
	esac
	echo "$version"
}
libseccomp=$("$bin/runc" --version 2>/dev/null | sed -n 's/^libseccomp: //p')
[ -n "$libseccomp" ] || libseccomp=$(header seccomp.h SCMP_VER_MAJOR.SCMP_VER_MINOR.SCMP_VER_MICRO)
glibc=$(header features.h __GLIBC__.__GLIBC_MINOR__)

"$imagetool" build-all "$root/deploy/images/images.yaml" --out "$out" \
	--version "$VERSION" --revision "$REVISION" --arch "$ARCH" \
	--set "bin=$bin" --set "build=$build" --set "libseccomp=$libseccomp" --set "glibc=$glibc"
