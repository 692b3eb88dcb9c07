package kinds

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

func networkPolicy() *Kind {
	return &Kind{
		Kind: object.KindOf[*networkingv1.NetworkPolicy](), Singular: "networkpolicy", ShortNames: []string{"netpol"}, Verbs: standardVerbs(),
		Columns: []metav1.TableColumnDefinition{nameColumn(), column("Pod-Selector", "string", "Pods the policy is about"), ageColumn()},
		Row: rowOf(func(p *networkingv1.NetworkPolicy, now time.Time) []any {
			return []any{p.Name, formatSelector(&p.Spec.PodSelector), age(p.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default:      on(defaultNetworkPolicy),
		SpecEqual:    specEqual(func(p *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicySpec { return &p.Spec }),
		Validate: check(func(p *networkingv1.NetworkPolicy) field.ErrorList {
			return validateNetworkPolicySpec(&p.Spec, field.NewPath("spec"))
		}),
	}
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			setDefaultPtr(&list[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range p.Spec.Ingress {
		ports(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		ports(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func validateNetworkPolicySpec(spec *networkingv1.NetworkPolicySpec, path *field.Path) field.ErrorList {
	errs := validateSelector(&spec.PodSelector, path.Child("podSelector"))
	for i := range spec.Ingress {
		rule, at := &spec.Ingress[i], path.Child("ingress").Index(i)
		errs = append(errs, validatePolicyPorts(rule.Ports, at.Child("ports"))...)
		errs = append(errs, validatePolicyPeers(rule.From, at.Child("from"))...)
	}
	for i := range spec.Egress {
		rule, at := &spec.Egress[i], path.Child("egress").Index(i)
		errs = append(errs, validatePolicyPorts(rule.Ports, at.Child("ports"))...)
		errs = append(errs, validatePolicyPeers(rule.To, at.Child("to"))...)
	}
	types := path.Child("policyTypes")
	if len(spec.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, kind := range spec.PolicyTypes {
		if kind != networkingv1.PolicyTypeIngress && kind != networkingv1.PolicyTypeEgress {
			errs = append(errs, field.NotSupported(types.Index(i), kind, []networkingv1.PolicyType{networkingv1.PolicyTypeEgress, networkingv1.PolicyTypeIngress}))
		}
	}
	return errs
}

func validatePolicyPorts(ports []networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		port, at := &ports[i], path.Index(i)
		if port.Protocol != nil {
			switch *port.Protocol {
			case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
			default:
				errs = append(errs, field.NotSupported(at.Child("protocol"), *port.Protocol, []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}))
			}
		}
		if port.Port != nil {
			errs = append(errs, validatePortNumOrName(*port.Port, at.Child("port"))...)
		}
		if port.EndPort == nil {
			continue
		}
		end := at.Child("endPort")
		switch {
		case port.Port == nil:
			errs = append(errs, field.Invalid(end, *port.EndPort, "may not be specified when `port` is not specified"))
		case port.Port.Type == intstr.String:
			errs = append(errs, field.Invalid(end, *port.EndPort, "may not be specified when `port` is non-numeric"))
		default:
			if *port.EndPort < port.Port.IntVal {
				errs = append(errs, field.Invalid(end, *port.EndPort, "must be greater than or equal to `port`"))
			}
			errs = append(errs, messages(utilvalidation.IsValidPortNum(int(*port.EndPort)), *port.EndPort, end)...)
		}
	}
	return errs
}

func validatePolicyPeers(peers []networkingv1.NetworkPolicyPeer, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range peers {
		peer, at := &peers[i], path.Index(i)
		if peer.PodSelector != nil {
			errs = append(errs, validateSelector(peer.PodSelector, at.Child("podSelector"))...)
		}
		if peer.NamespaceSelector != nil {
			errs = append(errs, validateSelector(peer.NamespaceSelector, at.Child("namespaceSelector"))...)
		}
		selects := peer.PodSelector != nil || peer.NamespaceSelector != nil
		switch {
		case peer.IPBlock == nil && !selects:
			errs = append(errs, field.Required(at, "must specify a peer"))
		case peer.IPBlock != nil && selects:
			errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
		}
		if peer.IPBlock != nil {
			errs = append(errs, validateIPBlock(peer.IPBlock, at.Child("ipBlock"))...)
		}
	}
	return errs
}

func validateIPBlock(block *networkingv1.IPBlock, at *field.Path) field.ErrorList {
	if block.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	errs := utilvalidation.IsValidCIDRForLegacyField(at.Child("cidr"), block.CIDR, false, nil)
	whole, wholeErr := netip.ParsePrefix(block.CIDR)
	for i, text := range block.Except {
		where := at.Child("except").Index(i)
		found := utilvalidation.IsValidCIDRForLegacyField(where, text, false, nil)
		part, err := netip.ParsePrefix(text)
		if len(found) == 0 && err == nil && wholeErr == nil && (part.Bits() <= whole.Bits() || !whole.Masked().Contains(part.Addr())) {
			found = field.ErrorList{field.Invalid(where, text, "must be a strict subset of `cidr`")}
		}
		errs = append(errs, found...)
	}
	return errs
}
