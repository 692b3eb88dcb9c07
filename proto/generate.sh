#!/bin/sh
# Lints the protos and regenerates proto/gen and the descriptor set of k8s.io/api.
# Tools are pinned in tools/go.mod and tools/buf/go.mod and kept in .cache/tools.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
bin=$root/.cache/tools
mkdir -p "$bin"
[ -x "$bin/buf" ] || (cd "$root/tools/buf" && GOWORK=off go build -o "$bin/buf" github.com/bufbuild/buf/cmd/buf)
[ -x "$bin/protoc-gen-go" ] || (cd "$root/tools" && GOWORK=off go build -o "$bin/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go)
[ -x "$bin/protoc-gen-go-grpc" ] || (cd "$root/tools" && GOWORK=off go build -o "$bin/protoc-gen-go-grpc" google.golang.org/grpc/cmd/protoc-gen-go-grpc)
cd "$root/proto"
PATH=$bin:$PATH
export PATH
buf lint
rm -rf gen
buf generate
gofmt -w gen
descriptors/generate.sh
