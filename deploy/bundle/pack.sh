#!/bin/sh
# Packs the programs and images in BIN into a release archive and signs it:
# OUTDIR/kijabi-VERSION-linux-ARCH.tar.gz with .sha256 and .sig, and OUTDIR/kijabi.pub.
# KIJABI_SIGNING_KEY names the private key (PEM, PKCS#8, Ed25519); without it one in
# ~/.kijabi is used, and made when there is none.
set -eu

if [ $# -ne 4 ]; then
	echo "usage: $0 VERSION ARCH BIN OUTDIR" >&2
	exit 2
fi
version=$1 arch=$2 bin=$3 out=$4
root=$(cd "$(dirname "$0")/../.." && pwd)

export CGO_ENABLED=0 GOFLAGS='-buildvcs=false -trimpath'
(cd "$root/tools" && GOARCH=$(go env GOHOSTARCH) go build -o "$root/.cache/tools/bundletool" ./bundletool)

set -- --version "$version" --arch "$arch" --bin "$bin" --license "$root/LICENSE" -o "$out"
# runc is linked with libseccomp and the C library, which are no Go modules.
for text in /usr/share/doc/libseccomp-dev/copyright /usr/share/doc/libc6-dev/copyright /usr/share/common-licenses/LGPL-2.1; do
	[ ! -r "$text" ] || set -- "$@" --notice "$text"
done
[ -z "${KIJABI_SIGNING_KEY:-}" ] || set -- "$@" --key "$KIJABI_SIGNING_KEY"
exec "$root/.cache/tools/bundletool" make "$@"
