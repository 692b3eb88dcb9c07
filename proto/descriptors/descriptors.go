// Package descriptors holds the descriptors of the Kubernetes objects' protobuf
// messages, k8s.io.api.*, k8s.io.apimachinery.* and those of definitions, compiled by generate.sh. With
// them an Any that carries an object can be printed and built without Go types:
// by the reflection service, and by tools that are given the files k8s.binpb and
// kijabi.binpb.
package descriptors

import (
	_ "embed" // k8s.binpb
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

//go:embed k8s.binpb
var kubernetes []byte

// Files returns the files of the Kubernetes messages. They are parsed anew by each
// call, which takes some milliseconds and megabytes: keep the result. They are kept
// out of the global registry, where they could clash with generated Go.
func Files() (*protoregistry.Files, error) {
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(kubernetes, &set); err != nil {
		return nil, fmt.Errorf("descriptors of k8s.io/api: %w", err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, fmt.Errorf("descriptors of k8s.io/api: %w", err)
	}
	return files, nil
}

// Resolver finds the program's own messages and those of Kubernetes. It is what a
// reflection service needs to describe the objects that travel in an Any. The
// Kubernetes ones are parsed when one is asked for first: most programs never are.
func Resolver() protodesc.Resolver {
	return resolver{kubernetes: sync.OnceValues(Files)}
}

// resolver asks the program's own registry first.
type resolver struct {
	kubernetes func() (*protoregistry.Files, error)
}

// FindFileByPath implements protodesc.Resolver.
func (r resolver) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	return find(r, func(files *protoregistry.Files) (protoreflect.FileDescriptor, error) {
		return files.FindFileByPath(path)
	})
}

// FindDescriptorByName implements protodesc.Resolver.
func (r resolver) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	return find(r, func(files *protoregistry.Files) (protoreflect.Descriptor, error) {
		return files.FindDescriptorByName(name)
	})
}

func find[T any](r resolver, lookup func(*protoregistry.Files) (T, error)) (T, error) {
	found, err := lookup(protoregistry.GlobalFiles)
	if !errors.Is(err, protoregistry.NotFound) {
		return found, err
	}
	files, err := r.kubernetes()
	if err != nil {
		var none T
		return none, err
	}
	return lookup(files)
}
