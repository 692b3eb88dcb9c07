package kinds

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kijabi.dev/platform/kube/object"
)

const clientIPTimeout int32 = 10800

func service() *Kind {
	kind := object.KindOf[*corev1.Service]()
	return &Kind{
		Kind: kind, Singular: "service", ShortNames: []string{"svc"}, Categories: []string{"all"}, Verbs: standardVerbs(),
		Subresources: []Subresource{
			{Name: "proxy", GVK: kind.GVK, Verbs: []string{"create", "delete", "get", "patch", "update"}, Stream: true},
			statusSubresource(kind),
		},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Type", "string", "How the service is exposed"),
			column("Cluster-IP", "string", "Address inside the cluster"), column("External-IP", "string", "Addresses from outside"),
			column("Port(s)", "string", "Ports and node ports"), ageColumn(), wide("Selector", "string", "Labels of the pods behind it"),
		},
		Row:              rowOf(serviceRow),
		SelectableFields: []string{"spec.clusterIP", "spec.type"},
		Fields: fieldsOf(func(s *corev1.Service) map[string]string {
			return map[string]string{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		}),
		ValidateName:     validation.NameIsDNS1035Label,
		Default:          on(defaultService),
		PrepareForCreate: on(func(s *corev1.Service) { s.Status = corev1.ServiceStatus{} }),
		PrepareForUpdate: onBoth(func(s, old *corev1.Service) {
			s.Status = old.Status
			dropOldServiceFields(s, old)
			keepAllocated(s, old)
		}),
		PrepareForStatusUpdate: onBoth(func(s, old *corev1.Service) {
			s.Spec = old.Spec
			keepStatusMetadata(&s.ObjectMeta, &old.ObjectMeta, false)
		}),
		Validate:             check(validateService),
		ValidateUpdate:       checkBoth(validateServiceUpdate),
		ValidateStatusUpdate: checkBoth(validateServiceStatus),
	}
}

// NeedsClusterIP tells whether services of a type have an address of their own.
func NeedsClusterIP(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return s.Spec.ClusterIP != corev1.ClusterIPNone
	}
	return false
}

// NeedsNodePorts tells whether the service's ports are opened on every node.
func NeedsNodePorts(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts
	}
	return false
}

// NeedsHealthCheckNodePort tells whether a port for the load balancer's probe is wanted.
func NeedsHealthCheckNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	setDefault(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if spec.SessionAffinityConfig == nil {
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{}
		}
		if spec.SessionAffinityConfig.ClientIP == nil {
			spec.SessionAffinityConfig.ClientIP = &corev1.ClientIPConfig{}
		}
		setDefaultPtr(&spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, clientIPTimeout)
	}
	setDefault(&spec.Type, corev1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		port := &spec.Ports[i]
		setDefault(&port.Protocol, corev1.ProtocolTCP)
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	external := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer
	if external || spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0 {
		setDefault(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if external || spec.Type == corev1.ServiceTypeClusterIP {
		setDefaultPtr(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		setDefaultPtr(&spec.AllocateLoadBalancerNodePorts, true)
	}
	for i := range s.Status.LoadBalancer.Ingress {
		if ingress := &s.Status.LoadBalancer.Ingress[i]; ingress.IP != "" {
			setDefaultPtr(&ingress.IPMode, corev1.LoadBalancerIPModeVIP)
		}
	}
	defaultServiceFamilies(spec)
}

// The cluster has IPv4 addresses only, so the family fields follow from the type.
func defaultServiceFamilies(spec *corev1.ServiceSpec) {
	if spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	setDefaultPtr(&spec.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack)
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
}

// dropOldServiceFields clears what the old type needed and the new one does not, unless the
// client set it anew; then validation names it.
func dropOldServiceFields(s, old *corev1.Service) {
	spec, before := &s.Spec, &old.Spec
	if NeedsClusterIP(old) && spec.Type == corev1.ServiceTypeExternalName && spec.ClusterIP == before.ClusterIP {
		spec.ClusterIP, spec.ClusterIPs, spec.IPFamilies, spec.IPFamilyPolicy = "", nil, nil, nil
	}
	if spec.Type == corev1.ServiceTypeExternalName && before.Type != spec.Type {
		if equalPtr(spec.InternalTrafficPolicy, before.InternalTrafficPolicy) {
			spec.InternalTrafficPolicy = nil
		}
	}
	if NeedsNodePorts(old) && !NeedsNodePorts(s) && samePorts(s, old) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if NeedsHealthCheckNodePort(old) && !NeedsHealthCheckNodePort(s) && spec.HealthCheckNodePort == before.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	wasLB, isLB := before.Type == corev1.ServiceTypeLoadBalancer, spec.Type == corev1.ServiceTypeLoadBalancer
	if wasLB && !isLB {
		if equalPtr(spec.AllocateLoadBalancerNodePorts, before.AllocateLoadBalancerNodePorts) {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if equalPtr(spec.LoadBalancerClass, before.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
	wasExternal := before.Type == corev1.ServiceTypeNodePort || wasLB
	isExternal := spec.Type == corev1.ServiceTypeNodePort || isLB
	if wasExternal && !isExternal && len(spec.ExternalIPs) == 0 && spec.ExternalTrafficPolicy == before.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
}

// keepAllocated carries over addresses and ports that a client left out, as when it sends the
// manifest it once created the service with.
func keepAllocated(s, old *corev1.Service) {
	if NeedsClusterIP(old) && NeedsClusterIP(s) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP == old.Spec.ClusterIP {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if NeedsNodePorts(old) && NeedsNodePorts(s) {
		type portKey struct {
			protocol corev1.Protocol
			port     int32
		}
		taken, had := map[int32]bool{}, map[portKey]int32{}
		for _, port := range s.Spec.Ports {
			taken[port.NodePort] = true
		}
		for _, port := range old.Spec.Ports {
			had[portKey{port.Protocol, port.Port}] = port.NodePort
		}
		for i := range s.Spec.Ports {
			port := &s.Spec.Ports[i]
			if before := had[portKey{port.Protocol, port.Port}]; port.NodePort == 0 && before != 0 && !taken[before] {
				port.NodePort = before
			}
		}
	}
	if NeedsHealthCheckNodePort(old) && NeedsHealthCheckNodePort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

func samePorts(s, old *corev1.Service) bool {
	return slices.EqualFunc(s.Spec.Ports, old.Spec.Ports, func(a, b corev1.ServicePort) bool { return a.NodePort == b.NodePort })
}

func equalPtr[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func serviceRow(s *corev1.Service, now time.Time) []any {
	address := "<none>"
	if len(s.Spec.ClusterIPs) > 0 {
		address = s.Spec.ClusterIPs[0]
	} else if s.Spec.ClusterIP != "" {
		address = s.Spec.ClusterIP
	}
	return []any{s.Name, string(s.Spec.Type), address, serviceExternalAddress(s), servicePorts(s.Spec.Ports), age(s.CreationTimestamp, now), formatLabels(s.Spec.Selector)}
}

func serviceExternalAddress(s *corev1.Service) string {
	addresses := slices.Clone(s.Spec.ExternalIPs)
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var balanced []string
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			if ingress.IP != "" {
				balanced = append(balanced, ingress.IP)
			} else if ingress.Hostname != "" {
				balanced = append(balanced, ingress.Hostname)
			}
		}
		addresses = append(balanced, addresses...)
		if len(addresses) == 0 {
			return "<pending>"
		}
	}
	if len(addresses) == 0 {
		return "<none>"
	}
	return strings.Join(addresses, ",")
}

func servicePorts(ports []corev1.ServicePort) string {
	if len(ports) == 0 {
		return "<none>"
	}
	texts := make([]string, len(ports))
	for i, port := range ports {
		texts[i] = strconv.Itoa(int(port.Port)) + "/" + string(port.Protocol)
		if port.NodePort > 0 {
			texts[i] = fmt.Sprintf("%d:%d/%s", port.Port, port.NodePort, port.Protocol)
		}
	}
	return strings.Join(texts, ",")
}
