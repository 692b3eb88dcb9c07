#!/bin/sh
# Installs the packages that are missing: for the build a C compiler and libseccomp's
# headers and static library (for runc); with the argument "test" also kubectl, nft,
# openssl, strace, systemd-analyze, sudo and sshd, which tests use as any user would; with the arguments "bundle ARCH..." the same
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
	has strace || need 'strace (for slow disks in the fault suite)' strace strace
	has systemd-analyze || need 'systemd-analyze (for a test of the units)' systemd systemd
	has sudo || need 'sudo (for a test of kijabi deploy)' sudo sudo
fi

# sshd is for tests of kijabi deploy. On Debian it is unpacked, not installed, for an
# installed one would open port 22 of this machine.
sshd=.cache/debian/usr/sbin/sshd
if [ "${1:-}" = test ] && [ ! -x "${KIJABI_SSHD:-}" ] && ! has sshd && [ ! -x "$sshd" ]; then
	if ! command -v apt-get >/dev/null 2>&1; then
		need 'sshd (for a test of kijabi deploy)' openssh-server openssh-server
	elif [ "${NO_INSTALL:-}" = 1 ]; then
		echo "error: missing: sshd (for a test of kijabi deploy): run 'apt-get install openssh-server' as root, or name one by KIJABI_SSHD" >&2
		exit 1
	else
		echo "missing: sshd (for a test of kijabi deploy); unpacking Debian's into .cache/debian"
		mkdir -p .cache/debian
		(
			cd .cache/debian
			packages='openssh-server libwrap0'
			apt-get download -q $packages || { sudo=''; [ "$(id -u)" = 0 ] || sudo=sudo; $sudo apt-get update -q && apt-get download -q $packages; }
			for package in openssh-server_*.deb libwrap0_*.deb; do dpkg-deb -x "$package" . && rm "$package"; done
		)
	fi
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
