package registry

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/clock"

	"kijabi.dev/apiserver/internal/store"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

const (
	kubernetesService = "kubernetes"
	bootstrapPeriod   = 500 * time.Millisecond
	sweepPeriod       = time.Minute
	sweepPage         = 500
)

// BootstrapConfig is what a Bootstrap needs.
type BootstrapConfig struct {
	// Engine to write through. Required.
	Engine *Engine
	// Network gives the DNS address. Required.
	Network configv1.Network
	// Endpoints lists the REST doors (IP and port) of the masters that are alive. It is
	// asked twice a second and must not block. Required.
	Endpoints func() []netip.AddrPort
	// Defaults are the roles and bindings that every cluster has. Optional.
	Defaults []object.Object
	// Renew completes one that is there; see authz.Renew. Required with Defaults.
	Renew func(have, want object.Object) (changed, again bool)
	// EventTTL is how long events live after their last change; 0 means 1 h.
	EventTTL time.Duration
	// Clock; nil means the real one.
	Clock clock.WithTicker
	// Log. Required.
	Log *zap.Logger
}

// Bootstrap makes what a cluster cannot be without (its first namespaces and services),
// keeps the endpoints of the kubernetes service at the live masters, and removes old
// events. It does so only while this master leads.
type Bootstrap struct {
	cfg BootstrapConfig
	// renewed is true once the defaults were brought up to date in this term.
	renewed bool
	// classed is true once it is known that the cluster has been given its storage class.
	classed bool
	seen    map[store.Key]sighting
}

// sighting is when an event was first seen at a version. Going by what this master saw,
// and not by the times that clients wrote, no other machine's clock matters.
type sighting struct {
	version uint64
	at      time.Time
}

// NewBootstrap returns a Bootstrap that is ready to run.
func NewBootstrap(cfg BootstrapConfig) *Bootstrap {
	if cfg.EventTTL == 0 {
		cfg.EventTTL = time.Hour
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	return &Bootstrap{cfg: cfg, seen: map[store.Key]sighting{}}
}

// Run works until ctx ends: at once when this master begins to lead, then periodically.
func (b *Bootstrap) Run(ctx context.Context) error {
	var swept time.Time
	leading := false
	for {
		changed := b.cfg.Engine.store.TermChanged() // before looking: no change is missed
		term := b.cfg.Engine.store.Term()
		if term.Leading {
			if err := b.ensure(ctx); err != nil && ctx.Err() == nil {
				b.cfg.Log.Warn("bootstrap is incomplete", zap.Error(err))
			}
			if now := b.cfg.Clock.Now(); now.Sub(swept) >= sweepPeriod {
				swept = now
				b.sweep(ctx)
			}
		} else if leading {
			clear(b.seen)
			b.renewed, b.classed = false, false
		}
		leading = term.Leading
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-b.cfg.Clock.After(lifecycle.UntilBeat(b.cfg.Clock.Now(), bootstrapPeriod)):
		}
	}
}

// clusterCaller writes what the cluster itself needs.
func clusterCaller() Caller {
	return Caller{User: systemUser, Groups: []string{"system:masters"}, UserAgent: serverManager}
}

// ensure makes what is missing; what is there costs a look into memory.
func (b *Bootstrap) ensure(ctx context.Context) error {
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		if err := b.create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			return err
		}
	}
	for _, class := range criticalClasses() {
		if err := b.create(ctx, class); err != nil {
			return err
		}
	}
	if err := b.access(ctx); err != nil {
		return err
	}
	if err := b.storageClass(ctx); err != nil {
		return err
	}
	doors := b.cfg.Endpoints()
	port := int32(configv1.PortREST)
	if len(doors) > 0 {
		port = int32(doors[0].Port())
	}
	if err := b.create(ctx, b.kubernetes(port)); err != nil {
		return err
	}
	if b.cfg.Network.DNSAddress != "" {
		if err := b.create(ctx, b.dns()); err != nil {
			return err
		}
	}
	if len(doors) == 0 {
		return nil // nobody knows a live master, not even this one: keep what is there
	}
	doors = slices.Clone(doors)
	slices.SortFunc(doors, func(x, y netip.AddrPort) int { return strings.Compare(x.String(), y.String()) })
	if err := b.endpoints(ctx, doors, port); err != nil {
		return err
	}
	return b.oldEndpoints(ctx, doors, port)
}

// criticalClasses are the priority classes of what a cluster or a node cannot do without;
// their names and values are documented with PriorityClass.
func criticalClasses() []object.Object {
	class := func(name string, value int32, use string) object.Object {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: use}
	}
	return []object.Object{
		class("system-cluster-critical", 2_000_000_000, "For pods that the cluster needs, and that may run on another node."),
		class("system-node-critical", 2_000_001_000, "For pods that their node needs."),
	}
}

func (b *Bootstrap) create(ctx context.Context, obj object.Object) error {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return err
	}
	key := store.Key{Resource: kind.GroupResource().String(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
	if _, ok := b.cfg.Engine.store.Get(key); ok {
		return nil
	}
	ref := Ref{Resource: kind.GVR, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	_, err = b.cfg.Engine.Create(ctx, clusterCaller(), ref, obj, WriteOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s: %w", key, err)
	}
	if err == nil {
		b.cfg.Log.Info("created", zap.String("object", key.String()))
	}
	return nil
}

// access brings the default roles and bindings up to date, once in a term, as new releases
// may have others; and the rules of aggregated roles always.
func (b *Bootstrap) access(ctx context.Context) error {
	if !b.renewed {
		for _, want := range b.cfg.Defaults {
			if err := b.renew(ctx, want); err != nil {
				return err
			}
		}
		b.renewed = true
	}
	if b.cfg.Engine.cfg.Access == nil {
		return nil
	}
	return b.cfg.Engine.aggregate(ctx)
}

func (b *Bootstrap) renew(ctx context.Context, want object.Object) error {
	kind, err := object.KindOfObject(want)
	if err != nil {
		return err
	}
	want, _ = want.DeepCopyObject().(object.Object)
	ref := Ref{Resource: kind.GVR, Namespace: want.GetNamespace(), Name: want.GetName()}
	record, ok := b.cfg.Engine.store.Get(store.Key{Resource: kind.GroupResource().String(), Namespace: ref.Namespace, Name: ref.Name})
	if ok {
		have, err := object.Decode(kind, record.Value)
		if err != nil {
			return err
		}
		switch changed, again := b.cfg.Renew(have, want); {
		case again:
			if _, _, err := b.cfg.Engine.Delete(ctx, clusterCaller(), ref, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("replace %s %s: %w", kind.GVR.Resource, object.KeyOf(want), err)
			}
		case changed:
			_, err := b.cfg.Engine.Update(ctx, clusterCaller(), ref, have, WriteOptions{})
			return err
		default:
			return nil
		}
	}
	if _, err := b.cfg.Engine.Create(ctx, clusterCaller(), ref, want, WriteOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s %s: %w", kind.GVR.Resource, object.KeyOf(want), err)
	}
	return nil
}

func (b *Bootstrap) kubernetes(port int32) *corev1.Service {
	address := b.cfg.Engine.addresses.kubernetesAddress().String()
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesService, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: address, ClusterIPs: []string{address},
			Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(port)}},
		},
	}
}

func (b *Bootstrap) dns() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: "kube-dns", Namespace: metav1.NamespaceSystem,
			Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: b.cfg.Network.DNSAddress, ClusterIPs: []string{b.cfg.Network.DNSAddress},
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
		},
	}
}

// endpoints writes the slice of the kubernetes service when the live masters have changed.
func (b *Bootstrap) endpoints(ctx context.Context, doors []netip.AddrPort, port int32) error {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesService, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: kubernetesService, discoveryv1.LabelManagedBy: "apiserver.kijabi.dev"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("https"), Port: &port, Protocol: new(corev1.ProtocolTCP)}},
	}
	for _, door := range doors {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{door.Addr().Unmap().String()}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		})
	}
	ref := Ref{Resource: discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), Namespace: slice.Namespace, Name: slice.Name}
	key := store.Key{Resource: ref.Resource.GroupResource().String(), Namespace: ref.Namespace, Name: ref.Name}
	record, ok := b.cfg.Engine.store.Get(key)
	if !ok {
		_, err := b.cfg.Engine.Create(ctx, clusterCaller(), ref, slice, WriteOptions{})
		return err
	}
	var have discoveryv1.EndpointSlice
	if err := have.Unmarshal(record.Value); err == nil && sameEndpoints(&have, slice) {
		return nil
	}
	_, err := b.cfg.Engine.Update(ctx, clusterCaller(), ref, slice, WriteOptions{})
	return err
}

// oldEndpoints shows the live masters as Endpoints of the kubernetes service, too, for
// programs that know no slices. Their label keeps it from being mirrored into slices.
func (b *Bootstrap) oldEndpoints(ctx context.Context, doors []netip.AddrPort, port int32) error {
	want := &corev1.Endpoints{ //nolint:staticcheck // clients still have it
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesService, Namespace: metav1.NamespaceDefault, Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
		},
		Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // clients still have it
			Ports: []corev1.EndpointPort{{Name: "https", Port: port, Protocol: corev1.ProtocolTCP}}, //nolint:staticcheck // clients still have it
		}},
	}
	for _, door := range doors {
		want.Subsets[0].Addresses = append(want.Subsets[0].Addresses, corev1.EndpointAddress{IP: door.Addr().Unmap().String()}) //nolint:staticcheck // clients still have it
	}
	ref := Ref{Resource: corev1.SchemeGroupVersion.WithResource("endpoints"), Namespace: want.Namespace, Name: want.Name}
	record, ok := b.cfg.Engine.store.Get(store.Key{Resource: ref.Resource.Resource, Namespace: ref.Namespace, Name: ref.Name})
	if !ok {
		_, err := b.cfg.Engine.Create(ctx, clusterCaller(), ref, want, WriteOptions{})
		return err
	}
	var have corev1.Endpoints //nolint:staticcheck // clients still have it
	if err := have.Unmarshal(record.Value); err == nil && apiequality.Semantic.DeepEqual(have.Subsets, want.Subsets) && have.Labels[discoveryv1.LabelSkipMirror] == "true" {
		return nil
	}
	_, err := b.cfg.Engine.Update(ctx, clusterCaller(), ref, want, WriteOptions{})
	return err
}

func sameEndpoints(a, b *discoveryv1.EndpointSlice) bool {
	left, errLeft := (&discoveryv1.EndpointSlice{AddressType: a.AddressType, Endpoints: a.Endpoints, Ports: a.Ports}).Marshal()
	right, errRight := (&discoveryv1.EndpointSlice{AddressType: b.AddressType, Endpoints: b.Endpoints, Ports: b.Ports}).Marshal()
	return errLeft == nil && errRight == nil && string(left) == string(right)
}

// sweep deletes events that have not changed for the time they live.
func (b *Bootstrap) sweep(ctx context.Context) {
	now := b.cfg.Clock.Now()
	var old []*store.Record
	present := make(map[store.Key]sighting, len(b.seen))
	for _, record := range b.cfg.Engine.store.Snapshot("events", "").Records {
		s, ok := b.seen[record.Key]
		if !ok || s.version != record.Version {
			s = sighting{version: record.Version, at: now}
		}
		if now.Sub(s.at) >= b.cfg.EventTTL {
			old = append(old, record)
			continue
		}
		present[record.Key] = s
	}
	b.seen = present
	for page := range slices.Chunk(old, sweepPage) {
		group := store.Group{User: clusterCaller().User, Ephemeral: true}
		for _, record := range page {
			group.Writes = append(group.Writes, store.Write{Key: record.Key, Decide: func(current *store.Record) (store.Change, error) {
				changed := current == nil || current.Version != record.Version
				return store.Change{Keep: changed, Delete: !changed}, nil
			}})
		}
		if _, err := b.cfg.Engine.store.Commit(ctx, group); err != nil && ctx.Err() == nil {
			b.cfg.Log.Warn("old events were not removed", zap.Error(err))
			return
		}
	}
}
