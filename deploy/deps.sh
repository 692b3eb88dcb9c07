#!/bin/sh
# Installs the packages that building runc needs, where they are missing: a C
# compiler and libseccomp's headers and static library. Says so first;
# NO_INSTALL=1 prints the command and stops.
set -eu

probe() {
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	printf '#include <seccomp.h>\nint main(void) { return seccomp_api_get() == 0; }\n' >"$dir/p.c"
	command -v cc >/dev/null 2>&1 && cc -static -o "$dir/p" "$dir/p.c" -lseccomp >/dev/null 2>&1
}

command -v go >/dev/null 2>&1 || { echo "error: go is not installed: install Go 1.26 or newer, see https://go.dev/dl" >&2; exit 1; }
if probe; then
	exit 0
fi
if command -v apt-get >/dev/null 2>&1; then
	install='apt-get install -y gcc libc6-dev libseccomp-dev'
	command='apt-get update -q && '$install
elif command -v dnf >/dev/null 2>&1; then
	command='dnf install -y gcc glibc-static libseccomp-devel libseccomp-static'
else
	echo "error: runc needs a C compiler and libseccomp with headers and static library, and neither apt-get nor dnf is here to install them: install them by hand" >&2
	exit 1
fi
if [ "${NO_INSTALL:-}" = 1 ]; then
	echo "error: runc needs a C compiler and libseccomp's headers and static library: run '$command' as root" >&2
	exit 1
fi
echo "installing build packages: $command"
if [ "$(id -u)" = 0 ]; then
	sh -c "$command"
elif command -v sudo >/dev/null 2>&1; then
	sudo sh -c "$command"
else
	echo "error: neither root nor sudo: run '$command' as root" >&2
	exit 1
fi
probe || { echo "error: the build packages are installed, but a static program with libseccomp still does not build: run 'cc -static probe.c -lseccomp' to see why" >&2; exit 1; }
