package kinds

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePod(p *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validatePodSpec(&p.Spec, spec)
	if len(p.Spec.EphemeralContainers) > 0 && p.ResourceVersion == "" && p.UID == "" {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "cannot be set on create"))
	}
	return append(errs, validatePodGates(p, spec)...)
}

func validatePodGates(p *corev1.Pod, spec *field.Path) field.ErrorList {
	if len(p.Spec.SchedulingGates) > 0 && p.Spec.NodeName != "" {
		return field.ErrorList{field.Forbidden(spec.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")}
	}
	return nil
}

func validatePodTemplate(template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	meta := path.Child("metadata")
	errs := metavalidation.ValidateLabels(template.Labels, meta.Child("labels"))
	errs = append(errs, validation.ValidateAnnotations(template.Annotations, meta.Child("annotations"))...)
	errs = append(errs, validation.ValidateFinalizers(template.Finalizers, meta.Child("finalizers"))...)
	errs = append(errs, validatePodSpec(&template.Spec, path.Child("spec"))...)
	if len(template.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

func validatePodSpec(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	volumes, volumeErrs := validateVolumes(spec.Volumes, path.Child("volumes"))
	errs = append(errs, volumeErrs...)
	errs = append(errs, validateContainers(spec, volumes, path)...)
	errs = append(errs, validatePolicies(spec, path)...)
	errs = append(errs, validatePodNames(spec, path)...)
	errs = append(errs, metavalidation.ValidateLabels(spec.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, validatePodSecurity(spec, path)...)
	errs = append(errs, validateAffinity(spec.Affinity, path.Child("affinity"))...)
	errs = append(errs, validateTolerations(spec.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, validateSpread(spec.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))...)
	errs = append(errs, validateDNSConfig(spec, path)...)
	errs = append(errs, validateHostAliases(spec.HostAliases, path.Child("hostAliases"))...)
	errs = append(errs, validateGates(spec, path)...)
	errs = append(errs, validateResourceList(spec.Overhead, path.Child("overhead"))...)
	if spec.Resources != nil {
		errs = append(errs, validateResources(spec.Resources, path.Child("resources"))...)
	}
	return errs
}

func validatePolicies(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch spec.RestartPolicy {
	case corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever:
	case "":
		errs = append(errs, field.Required(path.Child("restartPolicy"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("restartPolicy"), spec.RestartPolicy, []corev1.RestartPolicy{
			corev1.RestartPolicyAlways, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure,
		}))
	}
	switch spec.DNSPolicy {
	case corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone:
	case "":
		errs = append(errs, field.Required(path.Child("dnsPolicy"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("dnsPolicy"), spec.DNSPolicy, []corev1.DNSPolicy{
			corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone,
		}))
	}
	if spec.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	}
	if seconds := spec.ActiveDeadlineSeconds; seconds != nil && (*seconds < 1 || *seconds > 1<<31-1) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *seconds, utilvalidation.InclusiveRangeError(1, 1<<31-1)))
	}
	if policy := spec.PreemptionPolicy; policy != nil && *policy != corev1.PreemptLowerPriority && *policy != corev1.PreemptNever {
		errs = append(errs, field.NotSupported(path.Child("preemptionPolicy"), *policy, []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
	}
	if spec.OS != nil && spec.OS.Name != corev1.Linux && spec.OS.Name != corev1.Windows {
		at := path.Child("os", "name")
		if spec.OS.Name == "" {
			errs = append(errs, field.Required(at, "cannot be empty"))
		} else {
			errs = append(errs, field.NotSupported(at, spec.OS.Name, []corev1.OSName{corev1.Linux, corev1.Windows}))
		}
	}
	return errs
}

func validatePodNames(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	invalid := func(name, value string, messages []string) {
		for _, msg := range messages {
			errs = append(errs, field.Invalid(path.Child(name), value, msg))
		}
	}
	if spec.ServiceAccountName != "" && spec.ServiceAccountName != "default" {
		invalid("serviceAccountName", spec.ServiceAccountName, validation.ValidateServiceAccountName(spec.ServiceAccountName, false))
	}
	if spec.NodeName != "" {
		invalid("nodeName", spec.NodeName, validation.NameIsDNSSubdomain(spec.NodeName, false))
	}
	if spec.Hostname != "" {
		invalid("hostname", spec.Hostname, utilvalidation.IsDNS1123Label(spec.Hostname))
	}
	if spec.Subdomain != "" {
		invalid("subdomain", spec.Subdomain, utilvalidation.IsDNS1123Label(spec.Subdomain))
	}
	if spec.PriorityClassName != "" {
		invalid("priorityClassName", spec.PriorityClassName, validation.NameIsDNSSubdomain(spec.PriorityClassName, false))
	}
	if spec.RuntimeClassName != nil {
		invalid("runtimeClassName", *spec.RuntimeClassName, validation.NameIsDNSSubdomain(*spec.RuntimeClassName, false))
	}
	if spec.SchedulerName != "" && spec.SchedulerName != corev1.DefaultSchedulerName {
		invalid("schedulerName", spec.SchedulerName, utilvalidation.IsQualifiedName(spec.SchedulerName))
	}
	for i, ref := range spec.ImagePullSecrets {
		if ref.Name == "" {
			errs = append(errs, field.Required(path.Child("imagePullSecrets").Index(i).Child("name"), ""))
		}
	}
	return errs
}

func validatePodSecurity(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("securityContext")
	if spec.HostPID && spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), *spec.ShareProcessNamespace, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if spec.HostUsers != nil && !*spec.HostUsers {
		for _, share := range []struct {
			name string
			host bool
		}{{"hostNetwork", spec.HostNetwork}, {"hostPID", spec.HostPID}, {"hostIPC", spec.HostIPC}} {
			if share.host {
				errs = append(errs, field.Forbidden(path.Child(share.name), "when `hostUsers` is false"))
			}
		}
	}
	context := spec.SecurityContext
	if context == nil {
		return errs
	}
	errs = append(errs, validateIDs(context.RunAsUser, context.RunAsGroup, at)...)
	if context.FSGroup != nil {
		for _, msg := range utilvalidation.IsValidGroupID(*context.FSGroup) {
			errs = append(errs, field.Invalid(at.Child("fsGroup"), *context.FSGroup, msg))
		}
	}
	for i, group := range context.SupplementalGroups {
		for _, msg := range utilvalidation.IsValidGroupID(group) {
			errs = append(errs, field.Invalid(at.Child("supplementalGroups").Index(i), group, msg))
		}
	}
	if policy := context.FSGroupChangePolicy; policy != nil && *policy != corev1.FSGroupChangeOnRootMismatch && *policy != corev1.FSGroupChangeAlways {
		errs = append(errs, field.NotSupported(at.Child("fsGroupChangePolicy"), *policy, []corev1.PodFSGroupChangePolicy{
			corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch,
		}))
	}
	errs = append(errs, validateSysctls(context.Sysctls, at.Child("sysctls"))...)
	return append(errs, validateSeccomp(context.SeccompProfile, at.Child("seccompProfile"))...)
}

func validateIDs(user, group *int64, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if user != nil {
		for _, msg := range utilvalidation.IsValidUserID(*user) {
			errs = append(errs, field.Invalid(path.Child("runAsUser"), *user, msg))
		}
	}
	if group != nil {
		for _, msg := range utilvalidation.IsValidGroupID(*group) {
			errs = append(errs, field.Invalid(path.Child("runAsGroup"), *group, msg))
		}
	}
	return errs
}

func validateSysctls(sysctls []corev1.Sysctl, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, sysctl := range sysctls {
		at := path.Index(i).Child("name")
		name := strings.ReplaceAll(sysctl.Name, "/", ".")
		switch {
		case name == "":
			errs = append(errs, field.Required(at, ""))
		case len(name) > 253 || strings.ContainsFunc(name, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
		}):
			errs = append(errs, field.Invalid(at, sysctl.Name, "must have at most 253 characters and consist of letters, digits, '.', '_' and '-'"))
		case seen[name]:
			errs = append(errs, field.Duplicate(at, sysctl.Name))
		}
		seen[name] = true
	}
	return errs
}

func validateSeccomp(profile *corev1.SeccompProfile, path *field.Path) field.ErrorList {
	if profile == nil {
		return nil
	}
	switch profile.Type {
	case corev1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile == nil {
			return field.ErrorList{field.Required(path.Child("localhostProfile"), "must be set when seccomp type is Localhost")}
		}
		return validateInsidePath(*profile.LocalhostProfile, path.Child("localhostProfile"))
	case corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined:
		if profile.LocalhostProfile != nil {
			return field.ErrorList{field.Invalid(path.Child("localhostProfile"), *profile.LocalhostProfile, "can only be set when seccomp type is Localhost")}
		}
		return nil
	case "":
		return field.ErrorList{field.Required(path.Child("type"), "type is required when seccompProfile is set")}
	}
	return field.ErrorList{field.NotSupported(path.Child("type"), profile.Type, []corev1.SeccompProfileType{
		corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined,
	})}
}

// validateTolerations also serves updates.
func validateTolerations(tolerations []corev1.Toleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range tolerations {
		t := &tolerations[i]
		if admitted(t) {
			continue
		}
		at := path.Index(i)
		if t.Key != "" {
			errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			for _, msg := range utilvalidation.IsValidLabelValue(t.Value) {
				errs = append(errs, field.Invalid(at.Child("operator"), t.Value, msg))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(at.Child("operator"), *t, "value must be empty when `operator` is 'Exists'"))
			}
		default:
			errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		errs = append(errs, validateTaintEffect(t.Effect, true, at.Child("effect"))...)
	}
	return errs
}

// admitted tells the tolerations that admission adds to every pod, which need no check.
func admitted(t *corev1.Toleration) bool {
	return (t.Key == taintNotReady || t.Key == taintUnreachable) && t.Value == "" &&
		t.Operator == corev1.TolerationOpExists && t.Effect == corev1.TaintEffectNoExecute
}

func validateSpread(constraints []corev1.TopologySpreadConstraint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	type pair struct {
		key  string
		when corev1.UnsatisfiableConstraintAction
	}
	seen := map[pair]bool{}
	for i := range constraints {
		c, at := &constraints[i], path.Index(i)
		if c.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "must be greater than zero"))
		}
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		} else {
			errs = append(errs, metavalidation.ValidateLabelName(c.TopologyKey, at.Child("topologyKey"))...)
		}
		if c.WhenUnsatisfiable != corev1.DoNotSchedule && c.WhenUnsatisfiable != corev1.ScheduleAnyway {
			errs = append(errs, field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, []corev1.UnsatisfiableConstraintAction{
				corev1.DoNotSchedule, corev1.ScheduleAnyway,
			}))
		}
		if k := (pair{c.TopologyKey, c.WhenUnsatisfiable}); seen[k] {
			errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)))
		} else {
			seen[k] = true
		}
		if c.MinDomains != nil {
			if *c.MinDomains <= 0 {
				errs = append(errs, field.Invalid(at.Child("minDomains"), *c.MinDomains, "must be greater than zero"))
			}
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				errs = append(errs, field.Invalid(at.Child("minDomains"), *c.MinDomains, "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not "+string(c.WhenUnsatisfiable)))
			}
		}
		errs = append(errs, validateInclusion(c.NodeAffinityPolicy, at.Child("nodeAffinityPolicy"))...)
		errs = append(errs, validateInclusion(c.NodeTaintsPolicy, at.Child("nodeTaintsPolicy"))...)
		if c.LabelSelector != nil {
			errs = append(errs, metavalidation.ValidateLabelSelector(c.LabelSelector, metavalidation.LabelSelectorValidationOptions{}, at.Child("labelSelector"))...)
		}
		if len(c.MatchLabelKeys) > 0 && c.LabelSelector == nil {
			errs = append(errs, field.Forbidden(at.Child("matchLabelKeys"), "must not be specified when labelSelector is not set"))
		}
	}
	return errs
}

func validateInclusion(policy *corev1.NodeInclusionPolicy, path *field.Path) field.ErrorList {
	if policy == nil || *policy == corev1.NodeInclusionPolicyIgnore || *policy == corev1.NodeInclusionPolicyHonor {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, *policy, []corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore})}
}

const (
	maxNameservers  = 3
	maxSearchPaths  = 32
	maxSearchLength = 2048
)

func validateDNSConfig(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	at := path.Child("dnsConfig")
	config := spec.DNSConfig
	if spec.DNSPolicy == corev1.DNSNone {
		if config == nil {
			return field.ErrorList{field.Required(at, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
		}
		if len(config.Nameservers) == 0 {
			return field.ErrorList{field.Required(at.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))}
		}
	}
	if config == nil {
		return nil
	}
	var errs field.ErrorList
	if len(config.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(at.Child("nameservers"), config.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, server := range config.Nameservers {
		errs = append(errs, utilvalidation.IsValidIPForLegacyField(at.Child("nameservers").Index(i), server, false, nil)...)
	}
	if len(config.Searches) > maxSearchPaths {
		errs = append(errs, field.Invalid(at.Child("searches"), config.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearchPaths)))
	}
	if len(strings.Join(config.Searches, " ")) > maxSearchLength {
		errs = append(errs, field.Invalid(at.Child("searches"), config.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchLength)))
	}
	for i, search := range config.Searches {
		if search == "." {
			continue
		}
		for _, msg := range utilvalidation.IsDNS1123SubdomainWithUnderscore(strings.TrimSuffix(search, ".")) {
			errs = append(errs, field.Invalid(at.Child("searches").Index(i), search, msg))
		}
	}
	for i, option := range config.Options {
		if option.Name == "" {
			errs = append(errs, field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func validateHostAliases(aliases []corev1.HostAlias, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, alias := range aliases {
		at := path.Index(i)
		if _, err := netip.ParseAddr(alias.IP); err != nil {
			errs = append(errs, utilvalidation.IsValidIPForLegacyField(at.Child("ip"), alias.IP, false, nil)...)
		}
		for j, name := range alias.Hostnames {
			for _, msg := range utilvalidation.IsDNS1123Subdomain(name) {
				errs = append(errs, field.Invalid(at.Child("hostnames").Index(j), name, msg))
			}
		}
	}
	return errs
}

func validateGates(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, gate := range spec.ReadinessGates {
		for _, msg := range utilvalidation.IsQualifiedName(string(gate.ConditionType)) {
			errs = append(errs, field.Invalid(path.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType), msg))
		}
	}
	seen := map[string]bool{}
	for i, gate := range spec.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		for _, msg := range utilvalidation.IsQualifiedName(gate.Name) {
			errs = append(errs, field.Invalid(at, gate.Name, msg))
		}
		if seen[gate.Name] {
			errs = append(errs, field.Duplicate(at, gate.Name))
		}
		seen[gate.Name] = true
	}
	return errs
}

func validateAffinity(affinity *corev1.Affinity, path *field.Path) field.ErrorList {
	if affinity == nil {
		return nil
	}
	var errs field.ErrorList
	if node := affinity.NodeAffinity; node != nil {
		at := path.Child("nodeAffinity")
		if required := node.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			errs = append(errs, validateNodeSelector(required, at.Child("requiredDuringSchedulingIgnoredDuringExecution"))...)
		}
		for i := range node.PreferredDuringSchedulingIgnoredDuringExecution {
			term, where := &node.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			errs = append(errs, validateWeight(term.Weight, where)...)
			errs = append(errs, validateNodeSelectorTerm(&term.Preference, where.Child("preference"))...)
		}
	}
	if pods := affinity.PodAffinity; pods != nil {
		errs = append(errs, validatePodTerms(pods.RequiredDuringSchedulingIgnoredDuringExecution, pods.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAffinity"))...)
	}
	if pods := affinity.PodAntiAffinity; pods != nil {
		errs = append(errs, validatePodTerms(pods.RequiredDuringSchedulingIgnoredDuringExecution, pods.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAntiAffinity"))...)
	}
	return errs
}

func validateWeight(weight int32, path *field.Path) field.ErrorList {
	if weight <= 0 || weight > 100 {
		return field.ErrorList{field.Invalid(path.Child("weight"), weight, "must be in the range 1-100")}
	}
	return nil
}

func validateNodeSelector(selector *corev1.NodeSelector, path *field.Path) field.ErrorList {
	at := path.Child("nodeSelectorTerms")
	if len(selector.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(at, "must have at least one node selector term")}
	}
	var errs field.ErrorList
	for i := range selector.NodeSelectorTerms {
		errs = append(errs, validateNodeSelectorTerm(&selector.NodeSelectorTerms[i], at.Index(i))...)
	}
	return errs
}

func validateNodeSelectorTerm(term *corev1.NodeSelectorTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range term.MatchExpressions {
		r, at := &term.MatchExpressions[i], path.Child("matchExpressions").Index(i)
		errs = append(errs, validateNodeOperator(r, at)...)
		errs = append(errs, metavalidation.ValidateLabelName(r.Key, at.Child("key"))...)
		if r.Operator == corev1.NodeSelectorOpIn || r.Operator == corev1.NodeSelectorOpNotIn {
			for j, value := range r.Values {
				for _, msg := range utilvalidation.IsValidLabelValue(value) {
					errs = append(errs, field.Invalid(at.Child("values").Index(j), value, msg))
				}
			}
		}
	}
	for i := range term.MatchFields {
		r, at := &term.MatchFields[i], path.Child("matchFields").Index(i)
		switch {
		case r.Operator != corev1.NodeSelectorOpIn && r.Operator != corev1.NodeSelectorOpNotIn:
			errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
		case len(r.Values) != 1:
			errs = append(errs, field.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
		if r.Key != metav1.ObjectNameField {
			errs = append(errs, field.Invalid(at.Child("key"), r.Key, "not a valid field selector key"))
			continue
		}
		for j, value := range r.Values {
			for _, msg := range validation.NameIsDNSSubdomain(value, false) {
				errs = append(errs, field.Invalid(at.Child("values").Index(j), value, msg))
			}
		}
	}
	return errs
}

func validateNodeOperator(r *corev1.NodeSelectorRequirement, path *field.Path) field.ErrorList {
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			return field.ErrorList{field.Required(path.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'")}
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			return field.ErrorList{field.Forbidden(path.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")}
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			return field.ErrorList{field.Required(path.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")}
		}
	default:
		return field.ErrorList{field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator")}
	}
	return nil
}

func validatePodTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range required {
		errs = append(errs, validatePodTerm(&required[i], path.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))...)
	}
	for i := range preferred {
		at := path.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
		errs = append(errs, validateWeight(preferred[i].Weight, at)...)
		errs = append(errs, validatePodTerm(&preferred[i].PodAffinityTerm, at.Child("podAffinityTerm"))...)
	}
	return errs
}

func validatePodTerm(term *corev1.PodAffinityTerm, path *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabelSelector(term.LabelSelector, metavalidation.LabelSelectorValidationOptions{}, path.Child("labelSelector"))
	errs = append(errs, metavalidation.ValidateLabelSelector(term.NamespaceSelector, metavalidation.LabelSelectorValidationOptions{}, path.Child("namespaceSelector"))...)
	for i, name := range term.Namespaces {
		for _, msg := range validation.ValidateNamespaceName(name, false) {
			errs = append(errs, field.Invalid(path.Child("namespaces").Index(i), name, msg))
		}
	}
	if term.TopologyKey == "" {
		return append(errs, field.Required(path.Child("topologyKey"), "can not be empty"))
	}
	return append(errs, metavalidation.ValidateLabelName(term.TopologyKey, path.Child("topologyKey"))...)
}

// validatePodUpdate allows what a running pod can follow, and refuses the rest of the spec.
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(spec.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(spec.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	if before, after := old.Spec.ActiveDeadlineSeconds, p.Spec.ActiveDeadlineSeconds; before != nil {
		switch {
		case after == nil:
			errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), after, "must not update from a positive integer to nil value"))
		case *after > *before:
			errs = append(errs, field.Invalid(spec.Child("activeDeadlineSeconds"), *after, "must be less than or equal to previous value"))
		}
	}
	for i := range old.Spec.Tolerations {
		if !slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool { return sameToleration(&t, &old.Spec.Tolerations[i]) }) {
			errs = append(errs, field.Forbidden(spec.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"))
			break
		}
	}
	for _, gate := range p.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, gate) {
			errs = append(errs, field.Forbidden(spec.Child("schedulingGates"), "only deletion is allowed, but found new scheduling gate '"+gate.Name+"'"))
		}
	}
	// What is left once the allowed changes are undone must be the old spec.
	rest := p.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds, rest.Tolerations, rest.SchedulingGates = old.Spec.ActiveDeadlineSeconds, old.Spec.Tolerations, old.Spec.SchedulingGates
	if grace := old.Spec.TerminationGracePeriodSeconds; grace != nil && *grace < 0 && valueOf(rest.TerminationGracePeriodSeconds) == 1 {
		rest.TerminationGracePeriodSeconds = grace
	}
	if len(old.Spec.SchedulingGates) > 0 {
		// A gated pod has no node yet: whatever directs it to one may still change.
		rest.NodeSelector, rest.Affinity = old.Spec.NodeSelector, old.Spec.Affinity
	}
	same := specEqual(func(p *corev1.Pod) *corev1.PodSpec { return &p.Spec })
	if !same(&corev1.Pod{Spec: *rest}, &corev1.Pod{Spec: old.Spec}) {
		errs = append(errs, field.Forbidden(spec, "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"))
	}
	return errs
}

// sameToleration compares all but the seconds, which may change.
func sameToleration(a, b *corev1.Toleration) bool {
	return a.Key == b.Key && a.Operator == b.Operator && a.Value == b.Value && a.Effect == b.Effect
}

func validatePodStatusUpdate(p, old *corev1.Pod) field.ErrorList {
	status := field.NewPath("status")
	var errs field.ErrorList
	if name := p.Status.NominatedNodeName; name != "" {
		for _, msg := range validation.NameIsDNSSubdomain(name, false) {
			errs = append(errs, field.Invalid(status.Child("nominatedNodeName"), name, msg))
		}
	}
	if old.Status.QOSClass != "" && p.Status.QOSClass != old.Status.QOSClass {
		errs = append(errs, field.Invalid(status.Child("qosClass"), p.Status.QOSClass, validation.FieldImmutableErrorMsg))
	}
	seen := map[corev1.PodConditionType]bool{}
	for i, condition := range p.Status.Conditions {
		for _, msg := range utilvalidation.IsQualifiedName(string(condition.Type)) {
			errs = append(errs, field.Invalid(status.Child("conditions").Index(i).Child("type"), condition.Type, msg))
		}
		if seen[condition.Type] {
			errs = append(errs, field.Duplicate(status.Child("conditions").Index(i).Child("type"), condition.Type))
		}
		seen[condition.Type] = true
	}
	for i, ip := range p.Status.PodIPs {
		errs = append(errs, utilvalidation.IsValidIPForLegacyField(status.Child("podIPs").Index(i), ip.IP, false, nil)...)
	}
	// A container of a pod that is not to restart does not come back.
	if p.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, validateNoRevival(p.Status.ContainerStatuses, old.Status.ContainerStatuses, p.Spec.RestartPolicy, status.Child("containerStatuses"))...)
	}
	return errs
}

func validateNoRevival(now, before []corev1.ContainerStatus, policy corev1.RestartPolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range before {
		was := before[i].State.Terminated
		if was == nil || policy == corev1.RestartPolicyOnFailure && was.ExitCode != 0 {
			continue
		}
		for j := range now {
			if now[j].Name == before[i].Name && now[j].State.Terminated == nil {
				errs = append(errs, field.Forbidden(path.Index(j).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}
