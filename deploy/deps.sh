#!/bin/sh
# Installs the packages that are missing: for the build a C compiler and libseccomp's
# headers and static library (for runc); with the argument "test" also kubectl,
# openssl and nft, which tests use as any user would; with the arguments "bundle ARCH..." the same
# for other architectures, which only Debian's packages offer; with the argument "vm" what
# makes and runs a Debian virtual machine. Says so first; NO_INSTALL=1 prints the command
# and stops.
set -eu

# builds [COMPILER]: does a static program with libseccomp build?
builds() {
	dir=$(mktemp -d)
	printf '#include <seccomp.h>\nint main(void) { return seccomp_api_get() == 0; }\n' >"$dir/p.c"
	built=1
	command -v "${1:-cc}" >/dev/null 2>&1 && "${1:-cc}" -static -o "$dir/p" "$dir/p.c" -lseccomp >/dev/null 2>&1 || built=0
	rm -rf "$dir"
	[ "$built" = 1 ]
}

has() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

command -v go >/dev/null 2>&1 || { echo "error: go is not installed: install Go 1.26 or newer, see https://go.dev/dl" >&2; exit 1; }

apt='' dnf='' what=''
need() { what="$what${what:+, }$1" apt="$apt $2" dnf="$dnf $3"; }
builds || need "a C compiler and libseccomp's headers and static library (for runc)" 'gcc libc6-dev libseccomp-dev' 'gcc glibc-static libseccomp-devel libseccomp-static'
if [ "${1:-}" = test ]; then
	[ -x "${KIJABI_DEBIAN_KUBECTL:-}" ] || has kubectl || need 'kubectl (for the end-to-end test)' kubernetes-client kubernetes-client
	has openssl || need 'openssl (for tests of signatures)' openssl openssl
	has nft || need 'nft (for a test of the rules)' nftables nftables
fi
if [ "${1:-}" = vm ]; then
	has debootstrap || need 'debootstrap (for a Debian system to test on)' debootstrap debootstrap
	has qemu-system-x86_64 || need 'qemu (to run it)' 'qemu-system-x86 --no-install-recommends' qemu-system-x86-core
	has mkfs.ext4 || need 'mkfs.ext4 (for its disk)' e2fsprogs e2fsprogs
fi
foreign=''
if [ "${1:-}" = bundle ]; then
	shift
	for arch in "$@"; do
		[ "$arch" != "$(go env GOHOSTARCH)" ] || continue
		case $arch in
		amd64) compiler=x86_64-linux-gnu-gcc packages='gcc-x86-64-linux-gnu libc6-dev-amd64-cross libseccomp-dev:amd64' ;;
		arm64) compiler=aarch64-linux-gnu-gcc packages='gcc-aarch64-linux-gnu libc6-dev-arm64-cross libseccomp-dev:arm64' ;;
		*) echo "error: architecture '$arch' is not known: use BUNDLE_ARCHES='amd64 arm64', or one of them" >&2; exit 1 ;;
		esac
		builds "$compiler" && continue
		if ! command -v dpkg >/dev/null 2>&1; then
			echo "error: a cross compiler with libseccomp for $arch comes from Debian's packages only: make this archive on Debian or on an $arch machine, or choose BUNDLE_ARCHES=$(go env GOHOSTARCH)" >&2
			exit 1
		fi
		need "a cross compiler and libseccomp for $arch (for runc of the bundle)" "$packages" ''
		foreign="$foreign $arch"
	done
fi
[ -n "$what" ] || exit 0

if command -v apt-get >/dev/null 2>&1; then
	command="apt-get update -q && apt-get install -y$apt"
	for arch in $foreign; do command="dpkg --add-architecture $arch && $command"; done
elif command -v dnf >/dev/null 2>&1; then
	command="dnf install -y$dnf"
else
	echo "error: missing: $what; and neither apt-get nor dnf is here to install it: install it by hand" >&2
	exit 1
fi
if [ "${NO_INSTALL:-}" = 1 ]; then
	echo "error: missing: $what: run '$command' as root" >&2
	exit 1
fi
echo "missing: $what; installing: $command"
if [ "$(id -u)" = 0 ]; then
	sh -c "$command"
elif command -v sudo >/dev/null 2>&1; then
	sudo sh -c "$command"
else
	echo "error: neither root nor sudo: run '$command' as root" >&2
	exit 1
fi
builds || { echo "error: the build packages are installed, but a static program with libseccomp still does not build: run 'cc -static probe.c -lseccomp' to see why" >&2; exit 1; }
