#!/bin/sh
# Builds the third-party programs a machine needs, pinned by go.mod beside this
# script, into OUTDIR: containerd ctr containerd-shim-runc-v2 runc cni/*.
# GOARCH chooses another architecture, which wants an OUTDIR of its own.
# A program is built when it is missing or older than go.mod, go.sum or this script.
set -eu

if [ $# -ne 1 ]; then
	echo "usage: $0 OUTDIR" >&2
	exit 2
fi
mkdir -p "$1/cni"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"

export GOWORK=off GO111MODULE=on
export GOFLAGS='-buildvcs=false -trimpath -mod=readonly'

containerd=github.com/containerd/containerd/v2
cni=github.com/containernetworking/plugins
version=$(sed -n "s|^[[:space:]]*$containerd \(v[^ ]*\).*|\1|p" go.mod)
cniversion=$(sed -n "s|^[[:space:]]*$cni \(v[^ ]*\).*|\1|p" go.mod)

# stale PROGRAM: does it have to be built?
stale() {
	[ ! -x "$out/$1" ] || [ go.mod -nt "$out/$1" ] || [ go.sum -nt "$out/$1" ] || [ build.sh -nt "$out/$1" ]
}

# build PROGRAM PACKAGE GO-BUILD-ARGS...: builds beside the target and renames,
# so an interrupted build, or one while the program runs, leaves no torn file.
build() {
	program=$1 package=$2
	shift 2
	if ! stale "$program"; then
		return 0
	fi
	echo "bundle: building $program"
	go build "$@" -o "$out/$program.new" "$package"
	touch "$out/$program.new" # a cached build must still count as newer than go.sum
	mv "$out/$program.new" "$out/$program"
}

# A foreign architecture's runc is compiled by a cross compiler.
if [ "$(go env GOARCH)" != "$(go env GOHOSTARCH)" ] && [ -z "${CC:-}" ]; then
	case $(go env GOARCH) in
	amd64) CC=x86_64-linux-gnu-gcc ;;
	arm64) CC=aarch64-linux-gnu-gcc ;;
	esac
	export CC
fi

# runc alone needs a C compiler and libseccomp: ask before anything is built.
if stale runc; then
	compiler=$(go env CC)
	if ! command -v "${compiler%% *}" >/dev/null 2>&1; then
		echo "bundle: runc needs a C compiler ('$compiler' not found): install it with 'sh deploy/deps.sh bundle $(go env GOARCH)'" >&2
		exit 1
	fi
	probe=$(mktemp -d)
	trap 'rm -rf "$probe"' EXIT
	printf '#include <seccomp.h>\nint main(void) { return seccomp_api_get() == 0; }\n' >"$probe/probe.c"
	if ! $compiler -static -o "$probe/probe" "$probe/probe.c" -lseccomp >/dev/null 2>&1; then
		echo "bundle: runc needs the headers and static library of libseccomp for $(go env GOARCH): install them with 'sh deploy/deps.sh bundle $(go env GOARCH)'" >&2
		exit 1
	fi
fi

for program in containerd ctr; do
	CGO_ENABLED=0 build $program $containerd/cmd/$program \
		-tags 'urfave_cli_no_docs no_btrfs no_devmapper no_zfs netgo osusergo static_build' \
		-ldflags "-s -w -X $containerd/version.Version=$version"
done
CGO_ENABLED=0 build containerd-shim-runc-v2 $containerd/cmd/containerd-shim-runc-v2 \
	-tags 'urfave_cli_no_docs no_grpc netgo osusergo static_build' \
	-ldflags "-s -w -X $containerd/version.Version=$version"

# seccomp: without the tag a pod that asks for RuntimeDefault fails.
CGO_ENABLED=1 build runc github.com/opencontainers/runc \
	-buildmode=pie \
	-tags 'urfave_cli_no_docs runc_nocriu netgo osusergo seccomp' \
	-ldflags '-s -w -linkmode external -extldflags -static-pie'

for plugin in main/bridge main/ptp main/loopback ipam/host-local meta/portmap; do
	CGO_ENABLED=0 build cni/${plugin#*/} $cni/plugins/$plugin \
		-ldflags "-s -w -X $cni/pkg/utils/buildversion.BuildVersion=$cniversion"
done
