package kinds

import (
	"net"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const (
	nodeRolePrefix = "node-role.kubernetes.io/"
	nodeRoleLabel  = "kubernetes.io/role"
)

func node() *Kind {
	kind := object.KindOf[*corev1.Node]()
	return &Kind{
		Kind: kind, Singular: "node", ShortNames: []string{"no"}, Verbs: standardVerbs(),
		Subresources: []Subresource{
			{Name: "proxy", GVK: kind.GVK, Verbs: []string{"create", "delete", "get", "patch", "update"}, Stream: true},
			statusSubresource(kind),
		},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Status", "string", "The status of the node"),
			column("Roles", "string", "The roles of the node"), ageColumn(),
			column("Version", "string", "Kubelet version reported by the node"),
			wide("Internal-IP", "string", "Address of the node inside the cluster"),
			wide("External-IP", "string", "Address of the node from outside"),
			wide("OS-Image", "string", "Operating system the node reports"),
			wide("Kernel-Version", "string", "Kernel the node reports"),
			wide("Container-Runtime", "string", "Container runtime the node reports"),
		},
		Row:              rowOf(nodeRow),
		SelectableFields: []string{"spec.unschedulable"},
		Fields: fieldsOf(func(n *corev1.Node) map[string]string {
			if n.Spec.Unschedulable {
				return map[string]string{"spec.unschedulable": "true"}
			}
			return map[string]string{"spec.unschedulable": "false"}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(n *corev1.Node) {
			if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0 {
				n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
			}
			if n.Spec.PodCIDR != "" && len(n.Spec.PodCIDRs) == 0 {
				n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
			}
			if len(n.Status.Allocatable) == 0 && len(n.Status.Capacity) > 0 {
				n.Status.Allocatable = n.Status.Capacity.DeepCopy()
			}
		}),
		PrepareForUpdate: onBoth(func(n, old *corev1.Node) { n.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(n, old *corev1.Node) {
			n.Spec = old.Spec
			keepStatusMetadata(&n.ObjectMeta, &old.ObjectMeta, true)
		}),
		SpecEqual:            specEqual(func(n *corev1.Node) *corev1.NodeSpec { return &n.Spec }),
		Validate:             check(validateNode),
		ValidateUpdate:       checkBoth(validateNodeUpdate),
		ValidateStatusUpdate: checkBoth(func(n, _ *corev1.Node) field.ErrorList { return validateNodeStatus(n) }),
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateTaints(n.Spec.Taints, spec.Child("taints"))
	seen := map[string]bool{}
	for i, cidr := range n.Spec.PodCIDRs {
		path := spec.Child("podCIDRs").Index(i)
		errs = append(errs, utilvalidation.IsValidCIDRForLegacyField(path, cidr, false, nil)...)
		if seen[cidr] {
			errs = append(errs, field.Duplicate(path, cidr))
		}
		seen[cidr] = true
	}
	if len(n.Spec.PodCIDRs) > 0 && n.Spec.PodCIDR != n.Spec.PodCIDRs[0] {
		errs = append(errs, field.Invalid(spec.Child("podCIDR"), n.Spec.PodCIDR, "must be the same as the first entry of podCIDRs"))
	}
	return append(errs, validateNodeStatus(n)...)
}

func validateNodeStatus(n *corev1.Node) field.ErrorList {
	status := field.NewPath("status")
	errs := validateResourceList(n.Status.Capacity, status.Child("capacity"))
	errs = append(errs, validateResourceList(n.Status.Allocatable, status.Child("allocatable"))...)
	seen := map[corev1.NodeAddress]bool{}
	for i, address := range n.Status.Addresses {
		if seen[address] {
			errs = append(errs, field.Duplicate(status.Child("addresses").Index(i), address))
		}
		seen[address] = true
	}
	return errs
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(spec.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(spec.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	return errs
}

func validateTaints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.TaintEffect]map[string]bool{}
	for i, taint := range taints {
		at := path.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(taint.Key, at.Child("key"))...)
		for _, msg := range utilvalidation.IsValidLabelValue(taint.Value) {
			errs = append(errs, field.Invalid(at.Child("value"), taint.Value, msg))
		}
		errs = append(errs, validateTaintEffect(taint.Effect, false, at.Child("effect"))...)
		if seen[taint.Effect][taint.Key] {
			errs = append(errs, field.Duplicate(at, taint))
			continue
		}
		if seen[taint.Effect] == nil {
			seen[taint.Effect] = map[string]bool{}
		}
		seen[taint.Effect][taint.Key] = true
	}
	return errs
}

func validateTaintEffect(effect corev1.TaintEffect, allowEmpty bool, path *field.Path) field.ErrorList {
	switch effect {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		return nil
	case "":
		if allowEmpty {
			return nil
		}
		return field.ErrorList{field.Required(path, "")}
	}
	return field.ErrorList{field.NotSupported(path, effect, []corev1.TaintEffect{
		corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute,
	})}
}

func nodeRow(n *corev1.Node, now time.Time) []any {
	status := "Unknown"
	for _, condition := range n.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		status = "NotReady"
		if condition.Status == corev1.ConditionTrue {
			status = "Ready"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	roles := nodeRoles(n)
	return []any{
		n.Name, status, roles, age(n.CreationTimestamp, now), n.Status.NodeInfo.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		orUnknown(n.Status.NodeInfo.OSImage), orUnknown(n.Status.NodeInfo.KernelVersion), orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion),
	}
}

func nodeRoles(n *corev1.Node) string {
	var roles []string
	for _, key := range sortedKeys(n.Labels) {
		switch role, ok := strings.CutPrefix(key, nodeRolePrefix); {
		case ok && role != "":
			roles = append(roles, role)
		case key == nodeRoleLabel && n.Labels[key] != "":
			roles = append(roles, n.Labels[key])
		}
	}
	if len(roles) == 0 {
		return "<none>"
	}
	return strings.Join(roles, ",")
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, address := range n.Status.Addresses {
		if address.Type == kind && net.ParseIP(address.Address) != nil {
			return address.Address
		}
	}
	return "<none>"
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}
