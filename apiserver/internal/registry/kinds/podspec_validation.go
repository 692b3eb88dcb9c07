package kinds

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePod(p *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validatePodSpec(&p.Spec, spec)
	if len(p.Spec.EphemeralContainers) > 0 && p.ResourceVersion == "" {
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
	// Kubernetes leaves "metadata" out of these paths.
	errs := metavalidation.ValidateLabels(template.Labels, path.Child("labels"))
	errs = append(errs, validation.ValidateAnnotations(template.Annotations, path.Child("annotations"))...)
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
