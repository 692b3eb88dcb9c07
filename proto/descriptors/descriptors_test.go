package descriptors_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"kijabi.dev/proto/descriptors"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

func TestResolverFindsBothWorlds(t *testing.T) {
	resolver := descriptors.Resolver()
	for _, name := range []protoreflect.FullName{
		"k8s.io.api.core.v1.Pod", "k8s.io.api.apps.v1.Deployment", "k8s.io.api.discovery.v1.EndpointSlice",
		"k8s.io.api.coordination.v1.Lease", "k8s.io.apimachinery.pkg.apis.meta.v1.Status",
		objectv1pb.File_kijabi_object_v1_object_proto.Services().Get(0).FullName(),
	} {
		found, err := resolver.FindDescriptorByName(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := resolver.FindFileByPath(found.ParentFile().Path()); err != nil {
			t.Errorf("file of %s: %v", name, err)
		}
	}
	if _, err := resolver.FindDescriptorByName("k8s.io.api.core.v1.Nonsense"); !errors.Is(err, protoregistry.NotFound) {
		t.Errorf("error for an unknown message: %v", err)
	}
}

// TestMessagesAreComplete sets a field three files away from the pod's own.
func TestMessagesAreComplete(t *testing.T) {
	files, err := descriptors.Files()
	if err != nil {
		t.Fatal(err)
	}
	found, err := files.FindDescriptorByName("k8s.io.api.core.v1.Pod")
	if err != nil {
		t.Fatal(err)
	}
	pod := dynamicpb.NewMessage(found.(protoreflect.MessageDescriptor))
	metadata := pod.Mutable(pod.Descriptor().Fields().ByName("metadata")).Message()
	metadata.Set(metadata.Descriptor().Fields().ByName("name"), protoreflect.ValueOfString("web"))
	created := metadata.Mutable(metadata.Descriptor().Fields().ByName("creationTimestamp")).Message()
	if created.Descriptor().FullName() != "k8s.io.apimachinery.pkg.apis.meta.v1.Time" {
		t.Errorf("creationTimestamp is a %s", created.Descriptor().FullName())
	}
}
