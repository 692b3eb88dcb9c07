// Package portset names EndpointSlices by the ports that their endpoints share.
package portset

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"
)

// Key is the same for equal sets of ports, in whatever order, of one family of addresses.
func Key(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	parts := make([]string, 0, len(ports))
	for _, p := range ports {
		parts = append(parts, fmt.Sprintf("%s/%s/%d/%s",
			ptr.Deref(p.Name, ""), cmp.Or(ptr.Deref(p.Protocol, ""), corev1.ProtocolTCP), ptr.Deref(p.Port, 0), ptr.Deref(p.AppProtocol, "")))
	}
	slices.Sort(parts)
	key := strings.Join(parts, ",")
	if family != discoveryv1.AddressTypeIPv4 {
		key = string(family) + " " + key
	}
	return key
}

// Name is the name of the n-th slice of an owner and key: a create that is repeated meets
// its own slice.
func Name(owner metav1.Object, key string, n int) string {
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s/%s/%d", owner.GetUID(), key, n)
	return owner.GetName() + "-" + rand.SafeEncodeString(fmt.Sprintf("%08x", h.Sum32()))[:5]
}
