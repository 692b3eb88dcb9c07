package kinds

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumeSet holds the names of a pod's volumes; true for claims, which may be block devices.
type volumeSet map[string]bool

func validateContainers(spec *corev1.PodSpec, volumes volumeSet, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := make(map[string]bool, len(spec.Containers)+len(spec.InitContainers))
	hostPorts := map[string]bool{}
	if len(spec.Containers) == 0 {
		errs = append(errs, field.Required(at.Child("containers"), ""))
	}
	for i := range spec.Containers {
		c, where := &spec.Containers[i], at.Child("containers").Index(i)
		errs = append(errs, validateContainerName(c.Name, names, where)...)
		errs = append(errs, validateContainer(c, spec, volumes, where)...)
		errs = append(errs, validateHostPorts(c.Ports, spec, hostPorts, where.Child("ports"))...)
		errs = append(errs, validateProbes(c, where)...)
		errs = append(errs, validateLifecycle(c.Lifecycle, where.Child("lifecycle"))...)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && len(c.RestartPolicyRules) > 0 {
			errs = append(errs, field.Forbidden(where.Child("restartPolicyRules"), "may not be set when `restartPolicy` is 'Always'"))
		}
	}
	for i := range spec.InitContainers {
		c, where := &spec.InitContainers[i], at.Child("initContainers").Index(i)
		errs = append(errs, validateContainerName(c.Name, names, where)...)
		errs = append(errs, validateContainer(c, spec, volumes, where)...)
		errs = append(errs, validateInitContainer(c, where)...)
		// Init containers run one after another, so only sidecars can collide.
		seen := map[string]bool{}
		if isSidecar(c) {
			seen = hostPorts
		}
		errs = append(errs, validateHostPorts(c.Ports, spec, seen, where.Child("ports"))...)
	}
	for i := range spec.EphemeralContainers {
		e, where := &spec.EphemeralContainers[i], at.Child("ephemeralContainers").Index(i)
		c := corev1.Container(e.EphemeralContainerCommon)
		errs = append(errs, validateContainerName(c.Name, names, where)...)
		errs = append(errs, validateContainer(&c, spec, volumes, where)...)
		errs = append(errs, validateEphemeral(&c, where)...)
		if e.TargetContainerName != "" && !slices.ContainsFunc(spec.Containers, func(c corev1.Container) bool { return c.Name == e.TargetContainerName }) {
			errs = append(errs, field.NotFound(where.Child("targetContainerName"), e.TargetContainerName))
		}
	}
	return errs
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func validateContainerName(name string, names map[string]bool, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at.Child("name"), "")}
	}
	var errs field.ErrorList
	for _, msg := range utilvalidation.IsDNS1123Label(name) {
		errs = append(errs, field.Invalid(at.Child("name"), name, msg))
	}
	if names[name] {
		errs = append(errs, field.Duplicate(at.Child("name"), name))
	}
	names[name] = true
	return errs
}

func validateInitContainer(c *corev1.Container, at *field.Path) field.ErrorList {
	if isSidecar(c) {
		errs := validateProbes(c, at)
		return append(errs, validateLifecycle(c.Lifecycle, at.Child("lifecycle"))...)
	}
	var errs field.ErrorList
	if c.RestartPolicy != nil && len(c.RestartPolicyRules) == 0 && *c.RestartPolicy != corev1.ContainerRestartPolicyNever && *c.RestartPolicy != corev1.ContainerRestartPolicyOnFailure {
		errs = append(errs, field.NotSupported(at.Child("restartPolicy"), *c.RestartPolicy, []corev1.ContainerRestartPolicy{
			corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure,
		}))
	}
	const message = "may not be set for init containers without restartPolicy=Always"
	if c.Lifecycle != nil {
		errs = append(errs, field.Forbidden(at.Child("lifecycle"), message))
	}
	if c.LivenessProbe != nil {
		errs = append(errs, field.Forbidden(at.Child("livenessProbe"), message))
	}
	if c.ReadinessProbe != nil {
		errs = append(errs, field.Forbidden(at.Child("readinessProbe"), message))
	}
	if c.StartupProbe != nil {
		errs = append(errs, field.Forbidden(at.Child("startupProbe"), message))
	}
	return errs
}

func validateEphemeral(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, part := range []struct {
		name string
		set  bool
	}{
		{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil}, {"ports", len(c.Ports) > 0},
		{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		{"resources", len(c.Resources.Limits)+len(c.Resources.Requests) > 0}, {"resizePolicy", len(c.ResizePolicy) > 0},
	} {
		if part.set {
			errs = append(errs, field.Forbidden(at.Child(part.name), "cannot be set for an Ephemeral Container"))
		}
	}
	return errs
}

func validateContainer(c *corev1.Container, spec *corev1.PodSpec, volumes volumeSet, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case c.Image == "":
		errs = append(errs, field.Required(at.Child("image"), ""))
	case len(c.Image) != len(strings.TrimSpace(c.Image)):
		errs = append(errs, field.Invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	switch c.TerminationMessagePolicy {
	case corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError:
	case "":
		errs = append(errs, field.Required(at.Child("terminationMessagePolicy"), ""))
	default:
		errs = append(errs, field.NotSupported(at.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, []corev1.TerminationMessagePolicy{
			corev1.TerminationMessageFallbackToLogsOnError, corev1.TerminationMessageReadFile,
		}))
	}
	switch c.ImagePullPolicy {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	case "":
		errs = append(errs, field.Required(at.Child("imagePullPolicy"), ""))
	default:
		errs = append(errs, field.NotSupported(at.Child("imagePullPolicy"), c.ImagePullPolicy, []corev1.PullPolicy{
			corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever,
		}))
	}
	errs = append(errs, validateContainerPorts(c.Ports, at.Child("ports"))...)
	errs = append(errs, validateEnv(c.Env, at.Child("env"))...)
	errs = append(errs, validateEnvFrom(c.EnvFrom, at.Child("envFrom"))...)
	errs = append(errs, validateMounts(c, volumes, at)...)
	errs = append(errs, validateResources(&c.Resources, at.Child("resources"))...)
	return append(errs, validateContainerSecurity(c.SecurityContext, spec, at.Child("securityContext"))...)
}

func validateContainerPorts(ports []corev1.ContainerPort, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	var names map[string]bool
	for i := range ports {
		port, where := &ports[i], at.Index(i)
		if port.Name != "" {
			for _, msg := range utilvalidation.IsValidPortName(port.Name) {
				errs = append(errs, field.Invalid(where.Child("name"), port.Name, msg))
			}
			if names[port.Name] {
				errs = append(errs, field.Duplicate(where.Child("name"), port.Name))
			}
			if names == nil {
				names = map[string]bool{}
			}
			names[port.Name] = true
		}
		if port.ContainerPort == 0 {
			errs = append(errs, field.Required(where.Child("containerPort"), ""))
		} else {
			for _, msg := range utilvalidation.IsValidPortNum(int(port.ContainerPort)) {
				errs = append(errs, field.Invalid(where.Child("containerPort"), port.ContainerPort, msg))
			}
		}
		if port.HostPort != 0 {
			for _, msg := range utilvalidation.IsValidPortNum(int(port.HostPort)) {
				errs = append(errs, field.Invalid(where.Child("hostPort"), port.HostPort, msg))
			}
		}
		errs = append(errs, validateProtocol(port.Protocol, where.Child("protocol"))...)
	}
	return errs
}

func validateHostPorts(ports []corev1.ContainerPort, spec *corev1.PodSpec, seen map[string]bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		port := &ports[i]
		if spec.HostNetwork && port.HostPort != port.ContainerPort {
			errs = append(errs, field.Invalid(at.Index(i).Child("hostPort"), port.HostPort, "must match `containerPort` when `hostNetwork` is true"))
		}
		if port.HostPort == 0 {
			continue
		}
		key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
		if seen[key] {
			errs = append(errs, field.Duplicate(at.Index(i).Child("hostPort"), key))
		}
		seen[key] = true
	}
	return errs
}

func validateMounts(c *corev1.Container, volumes volumeSet, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	var devices map[string]bool
	for i := range c.VolumeDevices {
		device, where := &c.VolumeDevices[i], at.Child("volumeDevices").Index(i)
		claim, known := volumes[device.Name]
		switch {
		case device.Name == "":
			errs = append(errs, field.Required(where.Child("name"), ""))
		case devices[device.Name]:
			errs = append(errs, field.Invalid(where.Child("name"), device.Name, "must be unique"))
		case !known:
			errs = append(errs, field.NotFound(where.Child("name"), device.Name))
		case !claim:
			errs = append(errs, field.Invalid(where.Child("name"), device.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		switch {
		case device.DevicePath == "":
			errs = append(errs, field.Required(where.Child("devicePath"), ""))
		case strings.Contains(device.DevicePath, ".."):
			errs = append(errs, field.Invalid(where.Child("devicePath"), device.DevicePath, "can not contain backsteps ('..')"))
		}
		if devices == nil {
			devices = map[string]bool{}
		}
		devices[device.Name] = true
	}
	for i := range c.VolumeMounts {
		mount, where := &c.VolumeMounts[i], at.Child("volumeMounts").Index(i)
		if mount.Name == "" {
			errs = append(errs, field.Required(where.Child("name"), ""))
		} else if _, known := volumes[mount.Name]; !known {
			errs = append(errs, field.NotFound(where.Child("name"), mount.Name))
		}
		if mount.MountPath == "" {
			errs = append(errs, field.Required(where.Child("mountPath"), ""))
		}
		if slices.ContainsFunc(c.VolumeMounts[:i], func(m corev1.VolumeMount) bool { return m.MountPath == mount.MountPath }) {
			errs = append(errs, field.Invalid(where.Child("mountPath"), mount.MountPath, "must be unique"))
		}
		if devices[mount.Name] {
			errs = append(errs, field.Invalid(where.Child("name"), mount.Name, "must not already exist in volumeDevices"))
		}
		if mount.SubPath != "" {
			errs = append(errs, validateInsidePath(mount.SubPath, where.Child("subPath"))...)
		}
		if mount.SubPathExpr != "" {
			if mount.SubPath != "" {
				errs = append(errs, field.Invalid(where.Child("subPathExpr"), mount.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			errs = append(errs, validateInsidePath(mount.SubPathExpr, where.Child("subPathExpr"))...)
		}
		errs = append(errs, validateMountModes(mount, c, where)...)
	}
	return errs
}

func validateMountModes(mount *corev1.VolumeMount, c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if mode := mount.MountPropagation; mode != nil {
		privileged := c.SecurityContext != nil && valueOf(c.SecurityContext.Privileged)
		switch *mode {
		case corev1.MountPropagationNone, corev1.MountPropagationHostToContainer:
		case corev1.MountPropagationBidirectional:
			if !privileged {
				errs = append(errs, field.Forbidden(at.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
			}
		default:
			errs = append(errs, field.NotSupported(at.Child("mountPropagation"), *mode, []corev1.MountPropagationMode{
				corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone,
			}))
		}
	}
	if mode := mount.RecursiveReadOnly; mode != nil && *mode != corev1.RecursiveReadOnlyDisabled {
		where := at.Child("recursiveReadOnly")
		switch {
		case *mode != corev1.RecursiveReadOnlyEnabled && *mode != corev1.RecursiveReadOnlyIfPossible:
			errs = append(errs, field.NotSupported(where, *mode, []corev1.RecursiveReadOnlyMode{
				corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible,
			}))
		case !mount.ReadOnly:
			errs = append(errs, field.Forbidden(where, "may only be specified when readOnly is true"))
		case mount.MountPropagation != nil && *mount.MountPropagation != corev1.MountPropagationNone:
			errs = append(errs, field.Forbidden(where, "may only be specified when mountPropagation is None or not specified"))
		}
	}
	return errs
}

func validateContainerSecurity(context *corev1.SecurityContext, spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	if context == nil {
		return nil
	}
	errs := validateIDs(context.RunAsUser, context.RunAsGroup, at)
	if kind := context.ProcMount; kind != nil {
		switch {
		case *kind != corev1.DefaultProcMount && *kind != corev1.UnmaskedProcMount:
			errs = append(errs, field.NotSupported(at.Child("procMount"), *kind, []corev1.ProcMountType{corev1.DefaultProcMount, corev1.UnmaskedProcMount}))
		case *kind == corev1.UnmaskedProcMount && valueOr(spec.HostUsers, true):
			errs = append(errs, field.Invalid(at.Child("procMount"), *kind, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, validateSeccomp(context.SeccompProfile, at.Child("seccompProfile"))...)
	if context.AllowPrivilegeEscalation != nil && !*context.AllowPrivilegeEscalation {
		if valueOf(context.Privileged) {
			errs = append(errs, field.Invalid(at, context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if context.Capabilities != nil && slices.Contains(context.Capabilities.Add, "CAP_SYS_ADMIN") {
			errs = append(errs, field.Invalid(at, context, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
		}
	}
	return errs
}

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// validateInsidePath refuses paths that leave the directory they are meant to be in.
func validateInsidePath(p string, at *field.Path) field.ErrorList {
	if path.IsAbs(p) {
		return field.ErrorList{field.Invalid(at, p, "must be a relative path")}
	}
	return validateNoBacksteps(p, at)
}

func validateNoBacksteps(p string, at *field.Path) field.ErrorList {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
		}
	}
	return nil
}
