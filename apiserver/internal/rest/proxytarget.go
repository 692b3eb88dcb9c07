package rest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/apiserver/internal/registry"
)

// podBackend finds the pod that a proxy's name means. Without a port it is the first that
// the pod's containers list, or else the scheme's.
func (s *Server) podBackend(ctx context.Context, caller registry.Caller, t target, name endpointName) (backend, error) {
	end := backend{scheme: name.scheme, port: 80}
	if name.scheme == "https" {
		end.port = 443
	}
	if name.port != "" {
		port, ok := portNumber(name.port)
		if !ok {
			return end, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q: the port must be a number from 1 to 65535", t.ref.Name))
		}
		end.port = port
	}
	t.ref.Name = name.name
	var err error
	if end.podOnNode, err = s.findPod(ctx, caller, t); err != nil || name.port != "" {
		return end, err
	}
	for _, c := range end.pod.Spec.Containers {
		if len(c.Ports) > 0 {
			end.port = uint32(c.Ports[0].ContainerPort) //nolint:gosec // validated
			break
		}
	}
	return end, nil
}

// endpoint is a pod behind a service.
type endpoint struct {
	pod  string
	uid  types.UID
	port uint32
}

// serviceBackend chooses a ready pod of the service that a proxy's name means. Without a
// port it is the service's port without a name, or its only one.
func (s *Server) serviceBackend(ctx context.Context, caller registry.Caller, t target, name endpointName) (backend, error) {
	none := backend{}
	ref := registry.Ref{Resource: t.ref.Resource, Namespace: t.ref.Namespace, Name: name.name}
	record, err := s.cfg.Registry.Get(ctx, ref)
	if err != nil {
		return none, err
	}
	obj, err := decodeRecord(target{kind: t.kind}, record)
	if err != nil {
		return none, err
	}
	service, ok := obj.(*corev1.Service)
	if !ok {
		return none, fmt.Errorf("%T is no service", obj)
	}
	portName, err := servicePort(service, name.port)
	if err != nil {
		return none, err
	}
	endpoints, others, err := s.endpoints(ctx, service, portName)
	switch {
	case err != nil:
		return none, err
	case len(endpoints) == 0 && others:
		return none, apierrors.NewServiceUnavailable(fmt.Sprintf(
			"the endpoints of service %q are no pods of its namespace: the API server reaches pods through their nodes and opens no other connections; connect to the service from within the cluster", service.Name))
	case len(endpoints) == 0:
		return none, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", service.Name))
	}
	pods, err := s.cfg.Registry.Kind(corev1.SchemeGroupVersion.WithResource("pods"))
	if err != nil {
		return none, err
	}
	rand.Shuffle(len(endpoints), func(i, j int) { endpoints[i], endpoints[j] = endpoints[j], endpoints[i] })
	for _, one := range endpoints {
		end := backend{scheme: name.scheme, port: one.port}
		at := target{kind: pods, ref: registry.Ref{Resource: pods.GVR, Namespace: service.Namespace, Name: one.pod}}
		var missing error
		end.podOnNode, missing = s.findPod(ctx, caller, at)
		switch {
		case missing != nil:
			err = missing // its node may be away: try the next
		case one.uid != "" && end.pod.UID != one.uid:
			err = fmt.Errorf("pod %s has been replaced", one.pod)
		default:
			return end, nil
		}
	}
	return none, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoint of service %q is reached: %v", service.Name, err))
}

// servicePort finds the name of the port that a proxy's name gives by its name or number.
func servicePort(service *corev1.Service, asked string) (string, error) {
	ports := service.Spec.Ports
	if asked == "" && len(ports) == 1 {
		return ports[0].Name, nil
	}
	i := slices.IndexFunc(ports, func(p corev1.ServicePort) bool {
		return p.Name == asked || strconv.Itoa(int(p.Port)) == asked
	})
	if i < 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", asked, service.Name))
	}
	return ports[i].Name, nil
}

// endpoints lists the ready pods behind a service's port. Only pods of its namespace count:
// who may write endpoints there must not lead others elsewhere. others tells whether there
// are endpoints that are none.
func (s *Server) endpoints(ctx context.Context, service *corev1.Service, portName string) (found []endpoint, others bool, err error) {
	kind, err := s.cfg.Registry.Kind(discoveryv1.SchemeGroupVersion.WithResource("endpointslices"))
	if err != nil {
		return nil, false, err
	}
	list, err := s.cfg.Registry.List(ctx, registry.Ref{Resource: kind.GVR, Namespace: service.Namespace}, registry.ListOptions{
		Labels: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name}),
	})
	if err != nil {
		return nil, false, err
	}
	for _, record := range list.Records {
		obj, err := decodeRecord(target{kind: kind}, record)
		if err != nil {
			return nil, false, err
		}
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			return nil, false, fmt.Errorf("%T is no endpoint slice", obj)
		}
		port, ok := slicePort(slice, portName)
		if !ok {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			switch ref := e.TargetRef; {
			case e.Conditions.Ready != nil && !*e.Conditions.Ready:
			case ref == nil || ref.Kind != "Pod" || ref.Namespace != "" && ref.Namespace != service.Namespace:
				others = true
			default:
				found = append(found, endpoint{pod: ref.Name, uid: ref.UID, port: port})
			}
		}
	}
	return found, others, nil
}

// slicePort is the number that a slice has for a port; false if none.
func slicePort(slice *discoveryv1.EndpointSlice, name string) (uint32, bool) {
	for _, p := range slice.Ports {
		called := ""
		if p.Name != nil {
			called = *p.Name
		}
		if called == name && p.Port != nil && *p.Port > 0 && (p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP) {
			return uint32(*p.Port), true //nolint:gosec // positive
		}
	}
	return 0, false
}
