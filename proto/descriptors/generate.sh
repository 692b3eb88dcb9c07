#!/bin/sh
# Compiles the descriptor sets beside this script: k8s.binpb from the .proto files
# of k8s.io/api, apimachinery and apiextensions-apiserver, in the versions platform/go.mod pins, and
# kijabi.binpb from our own. With an argument it writes into that directory instead.
# The same input gives the same bytes. Needs .cache/tools/buf, which proto/generate.sh builds.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:-$root/proto/descriptors}
mkdir -p "$out"
out=$(cd "$out" && pwd)
buf=$root/.cache/tools/buf
mkdir -p "$root/.cache/tools"
[ -x "$buf" ] || (cd "$root/tools/buf" && GOWORK=off go build -o "$buf" github.com/bufbuild/buf/cmd/buf)

tree=$(mktemp -d)
trap 'chmod -R u+w "$tree"; rm -rf "$tree"' EXIT
for module in k8s.io/api k8s.io/apimachinery k8s.io/apiextensions-apiserver; do
	dir=$(cd "$root/platform" && GOWORK=off go mod download -json "$module" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
	(cd "$dir" && find . -name generated.proto) | sort | while read -r file; do
		mkdir -p "$tree/$module/$(dirname "$file")"
		cp "$dir/$file" "$tree/$module/$file"
	done
done
cd "$tree"
"$buf" build . --as-file-descriptor-set --exclude-source-info -o "$out/k8s.binpb"
cd "$root/proto"
"$buf" build . --as-file-descriptor-set --exclude-source-info -o "$out/kijabi.binpb"
