package kinds

import (
	"fmt"
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const maxClientIPTimeout = 86400

func validateService(s *corev1.Service) field.ErrorList {
	path, spec := field.NewPath("spec"), &s.Spec
	var errs field.ErrorList
	headless := spec.ClusterIP == corev1.ClusterIPNone
	if len(spec.Ports) == 0 && !headless && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	errs = append(errs, validateServiceType(spec, path)...)
	errs = append(errs, validateServicePorts(spec, path.Child("ports"))...)
	errs = append(errs, metavalidation.ValidateLabels(spec.Selector, path.Child("selector"))...)
	errs = append(errs, validateSessionAffinity(spec, path)...)
	errs = append(errs, validateServiceAddresses(spec, path)...)
	errs = append(errs, validateServiceFamilies(spec, path)...)
	errs = append(errs, validateTrafficPolicies(spec, path)...)
	return append(errs, validateLoadBalancerFields(spec, path)...)
}

func validateServiceType(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		if spec.ClusterIP == corev1.ClusterIPNone {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIP, "may not be set to 'None' for LoadBalancer services"))
		}
	case corev1.ServiceTypeNodePort:
		if spec.ClusterIP == corev1.ClusterIPNone {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIP, "may not be set to 'None' for NodePort services"))
		}
	case corev1.ServiceTypeExternalName:
		if len(spec.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(path.Child("clusterIPs"), "may not be set for ExternalName services"))
		} else if spec.ClusterIP != "" {
			errs = append(errs, field.Forbidden(path.Child("clusterIP"), "may not be set for ExternalName services"))
		}
		if len(spec.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(path.Child("ipFamilies"), "may not be set for ExternalName services"))
		}
		if spec.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(path.Child("ipFamilyPolicy"), "may not be set for ExternalName services"))
		}
		if name := strings.TrimSuffix(spec.ExternalName, "."); name == "" {
			errs = append(errs, field.Required(path.Child("externalName"), ""))
		} else {
			for _, msg := range utilvalidation.IsDNS1123Subdomain(name) {
				errs = append(errs, field.Invalid(path.Child("externalName"), name, msg))
			}
		}
	case corev1.ServiceTypeClusterIP:
	case "":
		errs = append(errs, field.Required(path.Child("type"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("type"), spec.Type, []corev1.ServiceType{
			corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort,
		}))
	}
	return errs
}

func validateServicePorts(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	var errs field.ErrorList
	names, ports, nodePorts := map[string]bool{}, map[key]bool{}, map[key]bool{}
	for i := range spec.Ports {
		port, at := &spec.Ports[i], path.Index(i)
		switch {
		case port.Name == "" && len(spec.Ports) > 1:
			errs = append(errs, field.Required(at.Child("name"), ""))
		case port.Name != "":
			for _, msg := range utilvalidation.IsDNS1123Label(port.Name) {
				errs = append(errs, field.Invalid(at.Child("name"), port.Name, msg))
			}
			if names[port.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), port.Name))
			}
			names[port.Name] = true
		}
		for _, msg := range utilvalidation.IsValidPortNum(int(port.Port)) {
			errs = append(errs, field.Invalid(at.Child("port"), port.Port, msg))
		}
		errs = append(errs, validateProtocol(port.Protocol, at.Child("protocol"))...)
		errs = append(errs, validatePortNumOrName(port.TargetPort, at.Child("targetPort"))...)
		if port.AppProtocol != nil {
			for _, msg := range utilvalidation.IsQualifiedName(*port.AppProtocol) {
				errs = append(errs, field.Invalid(at.Child("appProtocol"), *port.AppProtocol, msg))
			}
		}
		if spec.Type != corev1.ServiceTypeNodePort && spec.Type != corev1.ServiceTypeLoadBalancer && port.NodePort != 0 {
			errs = append(errs, field.Forbidden(at.Child("nodePort"), "may not be used when `type` is '"+string(spec.Type)+"'"))
		}
		if k := (key{port.Protocol, port.Port}); ports[k] {
			errs = append(errs, field.Duplicate(at, port))
		} else {
			ports[k] = true
		}
		if k := (key{port.Protocol, port.NodePort}); port.NodePort != 0 {
			if nodePorts[k] {
				errs = append(errs, field.Duplicate(at.Child("nodePort"), port.NodePort))
			}
			nodePorts[k] = true
		}
	}
	return errs
}

func validateProtocol(protocol corev1.Protocol, path *field.Path) field.ErrorList {
	switch protocol {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
		return nil
	case "":
		return field.ErrorList{field.Required(path, "")}
	}
	return field.ErrorList{field.NotSupported(path, protocol, []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP})}
}

func validatePortNumOrName(port intstr.IntOrString, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if port.Type == intstr.Int {
		for _, msg := range utilvalidation.IsValidPortNum(port.IntValue()) {
			errs = append(errs, field.Invalid(path, port.IntValue(), msg))
		}
		return errs
	}
	for _, msg := range utilvalidation.IsValidPortName(port.StrVal) {
		errs = append(errs, field.Invalid(path, port.StrVal, msg))
	}
	return errs
}

func validateSessionAffinity(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	at := path.Child("sessionAffinityConfig")
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		if spec.SessionAffinityConfig != nil {
			return field.ErrorList{field.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone))}
		}
		return nil
	case corev1.ServiceAffinityClientIP:
		config := spec.SessionAffinityConfig
		if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
			return field.ErrorList{field.Required(at, fmt.Sprintf("when session affinity is %s", corev1.ServiceAffinityClientIP))}
		}
		if seconds := *config.ClientIP.TimeoutSeconds; seconds <= 0 || seconds > maxClientIPTimeout {
			return field.ErrorList{field.Invalid(at.Child("clientIP", "timeoutSeconds"), seconds, fmt.Sprintf("must be greater than 0 and less than %d", maxClientIPTimeout))}
		}
		return nil
	case "":
		return field.ErrorList{field.Required(path.Child("sessionAffinity"), "")}
	}
	return field.ErrorList{field.NotSupported(path.Child("sessionAffinity"), spec.SessionAffinity, []corev1.ServiceAffinity{
		corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone,
	})}
}

func validateServiceAddresses(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("clusterIPs")
	if len(spec.ClusterIPs) > 0 && spec.ClusterIP != spec.ClusterIPs[0] {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		if len(spec.ClusterIPs) > 1 {
			errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may only hold one value: this cluster is not configured for dual-stack services"))
		}
		for i, address := range spec.ClusterIPs {
			if address == corev1.ClusterIPNone && i == 0 {
				continue
			}
			if found := utilvalidation.IsValidIPForLegacyField(at.Index(i), address, false, nil); len(found) > 0 {
				errs = append(errs, found...)
			} else if net.ParseIP(address).To4() == nil {
				errs = append(errs, field.Invalid(at.Index(i), address, "must be an IPv4 address: IPv6 is not configured on this cluster"))
			}
		}
	}
	for i, address := range spec.ExternalIPs {
		external := path.Child("externalIPs").Index(i)
		if found := utilvalidation.IsValidIPForLegacyField(external, address, false, nil); len(found) > 0 {
			errs = append(errs, found...)
		} else {
			errs = append(errs, endpointAddressErrors(address, external)...)
		}
	}
	return errs
}

func validateServiceFamilies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	if spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var errs field.ErrorList
	if spec.IPFamilyPolicy != nil {
		switch *spec.IPFamilyPolicy {
		case corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack:
		case corev1.IPFamilyPolicyRequireDualStack:
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
		default:
			errs = append(errs, field.NotSupported(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, []corev1.IPFamilyPolicy{
				corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack,
			}))
		}
	}
	seen := map[corev1.IPFamily]bool{}
	for i, family := range spec.IPFamilies {
		at := path.Child("ipFamilies").Index(i)
		switch {
		case family != corev1.IPv4Protocol && family != corev1.IPv6Protocol:
			errs = append(errs, field.NotSupported(at, family, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}))
		case family == corev1.IPv6Protocol:
			errs = append(errs, field.Invalid(at, family, "not configured on this cluster"))
		case seen[family]:
			errs = append(errs, field.Duplicate(at, family))
		}
		seen[family] = true
	}
	return errs
}

func validateTrafficPolicies(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	external := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer ||
		spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0
	at := path.Child("externalTrafficPolicy")
	switch policy := spec.ExternalTrafficPolicy; {
	case !external && policy != "":
		errs = append(errs, field.Invalid(at, policy, "may only be set for externally-accessible services"))
	case external && policy == "":
		errs = append(errs, field.Required(at, "for externally-accessible services"))
	case external && policy != corev1.ServiceExternalTrafficPolicyCluster && policy != corev1.ServiceExternalTrafficPolicyLocal:
		errs = append(errs, field.NotSupported(at, policy, []corev1.ServiceExternalTrafficPolicy{
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal,
		}))
	}
	at = path.Child("internalTrafficPolicy")
	if external || spec.Type == corev1.ServiceTypeClusterIP {
		switch policy := spec.InternalTrafficPolicy; {
		case policy == nil:
			errs = append(errs, field.Required(at, ""))
		case *policy != corev1.ServiceInternalTrafficPolicyCluster && *policy != corev1.ServiceInternalTrafficPolicyLocal:
			errs = append(errs, field.NotSupported(at, *policy, []corev1.ServiceInternalTrafficPolicy{
				corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal,
			}))
		}
	}
	at = path.Child("healthCheckNodePort")
	switch port := spec.HealthCheckNodePort; {
	case port < 0:
		errs = append(errs, field.Invalid(at, port, "must be between 0-65535"))
	case port != 0 && !(spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal):
		errs = append(errs, field.Invalid(at, port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	if spec.TrafficDistribution != nil {
		known := []string{corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameNode, corev1.ServiceTrafficDistributionPreferSameZone}
		if !slices.Contains(known, *spec.TrafficDistribution) {
			errs = append(errs, field.NotSupported(path.Child("trafficDistribution"), *spec.TrafficDistribution, known))
		}
	}
	return errs
}

func validateLoadBalancerFields(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	balanced := spec.Type == corev1.ServiceTypeLoadBalancer
	if len(spec.LoadBalancerSourceRanges) > 0 {
		at := path.Child("loadBalancerSourceRanges")
		if !balanced {
			errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
		}
		for i, cidr := range spec.LoadBalancerSourceRanges {
			errs = append(errs, utilvalidation.IsValidCIDRForLegacyField(at.Index(i), strings.TrimSpace(cidr), false, nil)...)
		}
	}
	if balanced && spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(path.Child("allocateLoadBalancerNodePorts"), ""))
	}
	if !balanced && spec.AllocateLoadBalancerNodePorts != nil {
		errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'"))
	}
	if spec.LoadBalancerClass != nil {
		at := path.Child("loadBalancerClass")
		if !balanced {
			errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
		}
		for _, msg := range utilvalidation.IsQualifiedName(*spec.LoadBalancerClass) {
			errs = append(errs, field.Invalid(at, *spec.LoadBalancerClass, msg))
		}
	}
	return errs
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if hasClusterIP(old) && hasClusterIP(s) && old.Spec.ClusterIP != "" {
		errs = append(errs, validation.ValidateImmutableField(s.Spec.ClusterIPs, old.Spec.ClusterIPs, path.Child("clusterIPs"))...)
		if len(errs) == 0 && len(old.Spec.IPFamilies) > 0 && !slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
			errs = append(errs, field.Invalid(path.Child("ipFamilies"), s.Spec.IPFamilies, "may not change once set"))
		}
	}
	wasLB, isLB := old.Spec.Type == corev1.ServiceTypeLoadBalancer, s.Spec.Type == corev1.ServiceTypeLoadBalancer
	if wasLB && isLB && !equalPtr(old.Spec.LoadBalancerClass, s.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set"))
	}
	if NeedsHealthCheckNodePort(old) && NeedsHealthCheckNodePort(s) && old.Spec.HealthCheckNodePort != 0 && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(path.Child("healthCheckNodePort"), "field is immutable"))
	}
	return errs
}

// hasClusterIP tells whether clusterIP means something for the type, "None" included.
func hasClusterIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

func validateServiceStatus(s, _ *corev1.Service) field.ErrorList {
	path := field.NewPath("status", "loadBalancer", "ingress")
	var errs field.ErrorList
	if len(s.Status.LoadBalancer.Ingress) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return field.ErrorList{field.Forbidden(path, "may only be used when `spec.type` is \"LoadBalancer\"")}
	}
	for i, ingress := range s.Status.LoadBalancer.Ingress {
		at := path.Index(i)
		if ingress.IP != "" {
			errs = append(errs, utilvalidation.IsValidIPForLegacyField(at.Child("ip"), ingress.IP, false, nil)...)
		} else if ingress.IPMode != nil {
			errs = append(errs, field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
		}
		if ingress.Hostname != "" {
			for _, msg := range utilvalidation.IsDNS1123Subdomain(ingress.Hostname) {
				errs = append(errs, field.Invalid(at.Child("hostname"), ingress.Hostname, msg))
			}
			if net.ParseIP(ingress.Hostname) != nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), ingress.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}
