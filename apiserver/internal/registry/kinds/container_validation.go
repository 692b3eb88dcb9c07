package kinds

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
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

func validateEnv(env []corev1.EnvVar, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range env {
		variable, where := &env[i], at.Index(i)
		if variable.Name == "" {
			errs = append(errs, field.Required(where.Child("name"), ""))
		} else {
			for _, msg := range utilvalidation.IsRelaxedEnvVarName(variable.Name) {
				errs = append(errs, field.Invalid(where.Child("name"), variable.Name, msg))
			}
		}
		if variable.ValueFrom != nil {
			errs = append(errs, validateEnvSource(variable, where.Child("valueFrom"))...)
		}
	}
	return errs
}

func validateEnvSource(variable *corev1.EnvVar, at *field.Path) field.ErrorList {
	source := variable.ValueFrom
	var errs field.ErrorList
	sources := 0
	if ref := source.FieldRef; ref != nil {
		sources++
		errs = append(errs, validateFieldRef(ref, envFields, at.Child("fieldRef"))...)
	}
	if ref := source.ResourceFieldRef; ref != nil {
		sources++
		errs = append(errs, validateResourceFieldRef(ref, false, at.Child("resourceFieldRef"))...)
	}
	if ref := source.ConfigMapKeyRef; ref != nil {
		sources++
		errs = append(errs, validateKeyRef(ref.Name, ref.Key, at.Child("configMapKeyRef"))...)
	}
	if ref := source.SecretKeyRef; ref != nil {
		sources++
		errs = append(errs, validateKeyRef(ref.Name, ref.Key, at.Child("secretKeyRef"))...)
	}
	if ref := source.FileKeyRef; ref != nil {
		sources++
		where := at.Child("fileKeyRef")
		if ref.VolumeName == "" {
			errs = append(errs, field.Required(where.Child("volumeName"), ""))
		}
		if ref.Path == "" {
			errs = append(errs, field.Required(where.Child("path"), ""))
		} else {
			errs = append(errs, validateInsidePath(ref.Path, where.Child("path"))...)
		}
		if ref.Key == "" {
			errs = append(errs, field.Required(where.Child("key"), ""))
		}
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case variable.Value != "":
		errs = append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func validateKeyRef(name, key string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	if key == "" {
		return append(errs, field.Required(at.Child("key"), ""))
	}
	for _, msg := range utilvalidation.IsConfigMapKey(key) {
		errs = append(errs, field.Invalid(at.Child("key"), key, msg))
	}
	return errs
}

const (
	envFields    = "metadata.name metadata.namespace metadata.uid spec.nodeName spec.serviceAccountName status.hostIP status.hostIPs status.podIP status.podIPs"
	volumeFields = "metadata.name metadata.namespace metadata.uid metadata.labels metadata.annotations"
)

// validateFieldRef checks a field of the pod that env variables or files show.
func validateFieldRef(ref *corev1.ObjectFieldSelector, allowed string, at *field.Path) field.ErrorList {
	if ref.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	if ref.FieldPath == "" {
		return field.ErrorList{field.Required(at.Child("fieldPath"), "")}
	}
	if base, key, ok := subscript(ref.FieldPath); ok {
		var messages []string
		switch base {
		case "metadata.annotations":
			messages = utilvalidation.IsQualifiedName(strings.ToLower(key))
		case "metadata.labels":
			messages = utilvalidation.IsQualifiedName(key)
		default:
			messages = []string{"does not support subscript"}
		}
		var errs field.ErrorList
		for _, msg := range messages {
			errs = append(errs, field.Invalid(at, key, msg))
		}
		return errs
	}
	list := strings.Fields(allowed)
	if !slices.Contains(list, ref.FieldPath) {
		return field.ErrorList{field.NotSupported(at.Child("fieldPath"), ref.FieldPath, list)}
	}
	return nil
}

// subscript splits "metadata.labels['key']".
func subscript(fieldPath string) (base, key string, ok bool) {
	rest, ok := strings.CutSuffix(fieldPath, "']")
	if !ok {
		return fieldPath, "", false
	}
	base, key, ok = strings.Cut(rest, "['")
	return base, key, ok
}

func validateResourceFieldRef(ref *corev1.ResourceFieldSelector, volume bool, at *field.Path) field.ErrorList {
	if volume && ref.ContainerName == "" {
		return field.ErrorList{field.Required(at.Child("containerName"), "")}
	}
	if ref.Resource == "" {
		return field.ErrorList{field.Required(at.Child("resource"), "")}
	}
	known := []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
	if !slices.Contains(known, ref.Resource) && !strings.HasPrefix(ref.Resource, "limits.hugepages-") && !strings.HasPrefix(ref.Resource, "requests.hugepages-") {
		return field.ErrorList{field.NotSupported(at.Child("resource"), ref.Resource, known)}
	}
	if ref.Divisor.IsZero() {
		return nil
	}
	divisors := []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
	if strings.HasSuffix(ref.Resource, ".cpu") {
		divisors = []string{"1m", "1"}
	}
	if !slices.Contains(divisors, ref.Divisor.String()) {
		return field.ErrorList{field.Invalid(at.Child("divisor"), ref.Resource, "only divisor's values "+strings.Join(divisors, ", ")+" are supported with this resource")}
	}
	return nil
}

func validateEnvFrom(sources []corev1.EnvFromSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range sources {
		source, where := &sources[i], at.Index(i)
		if source.Prefix != "" {
			for _, msg := range utilvalidation.IsRelaxedEnvVarName(source.Prefix) {
				errs = append(errs, field.Invalid(where.Child("prefix"), source.Prefix, msg))
			}
		}
		switch {
		case source.ConfigMapRef != nil && source.SecretRef != nil:
			errs = append(errs, field.Invalid(where, "", "may not have more than one field specified at a time"))
		case source.ConfigMapRef != nil:
			errs = append(errs, validateSourceName(source.ConfigMapRef.Name, where.Child("configMapRef", "name"))...)
		case source.SecretRef != nil:
			errs = append(errs, validateSourceName(source.SecretRef.Name, where.Child("secretRef", "name"))...)
		default:
			errs = append(errs, field.Invalid(where, "", "must specify one of: `configMapRef` or `secretRef`"))
		}
	}
	return errs
}

func validateSourceName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	for _, msg := range validation.NameIsDNSSubdomain(name, false) {
		errs = append(errs, field.Invalid(at, name, msg))
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

func validateProbes(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, probe := range []struct {
		name  string
		probe *corev1.Probe
		once  bool // the success threshold must be 1
	}{{"livenessProbe", c.LivenessProbe, true}, {"readinessProbe", c.ReadinessProbe, false}, {"startupProbe", c.StartupProbe, true}} {
		if probe.probe == nil {
			continue
		}
		where := at.Child(probe.name)
		errs = append(errs, validateProbe(probe.probe, where)...)
		if probe.once && probe.probe.SuccessThreshold != 1 {
			errs = append(errs, field.Invalid(where.Child("successThreshold"), probe.probe.SuccessThreshold, "must be 1"))
		}
		if probe.name == "readinessProbe" && probe.probe.TerminationGracePeriodSeconds != nil {
			errs = append(errs, field.Invalid(where.Child("terminationGracePeriodSeconds"), *probe.probe.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
		}
	}
	return errs
}

func validateProbe(probe *corev1.Probe, at *field.Path) field.ErrorList {
	errs := validateHandler(handlers{exec: probe.Exec, httpGet: probe.HTTPGet, tcpSocket: probe.TCPSocket, grpc: probe.GRPC}, at)
	for _, number := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", probe.InitialDelaySeconds}, {"timeoutSeconds", probe.TimeoutSeconds}, {"periodSeconds", probe.PeriodSeconds},
		{"successThreshold", probe.SuccessThreshold}, {"failureThreshold", probe.FailureThreshold},
	} {
		if number.value < 0 {
			errs = append(errs, nonNegative(int64(number.value), at.Child(number.name))...)
		}
	}
	if seconds := probe.TerminationGracePeriodSeconds; seconds != nil && *seconds <= 0 {
		errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *seconds, "must be greater than 0"))
	}
	return errs
}

func validateLifecycle(lifecycle *corev1.Lifecycle, at *field.Path) field.ErrorList {
	if lifecycle == nil {
		return nil
	}
	var errs field.ErrorList
	if h := lifecycle.PostStart; h != nil {
		errs = append(errs, validateHandler(handlers{exec: h.Exec, httpGet: h.HTTPGet, tcpSocket: h.TCPSocket, sleep: h.Sleep}, at.Child("postStart"))...)
	}
	if h := lifecycle.PreStop; h != nil {
		errs = append(errs, validateHandler(handlers{exec: h.Exec, httpGet: h.HTTPGet, tcpSocket: h.TCPSocket, sleep: h.Sleep}, at.Child("preStop"))...)
	}
	return errs
}

// handlers are the ways to probe or notify a container, of which exactly one is given.
type handlers struct {
	exec      *corev1.ExecAction
	httpGet   *corev1.HTTPGetAction
	tcpSocket *corev1.TCPSocketAction
	grpc      *corev1.GRPCAction
	sleep     *corev1.SleepAction
}

func validateHandler(h handlers, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	given := 0
	one := func(name string) *field.Path {
		given++
		if given > 1 {
			errs = append(errs, field.Forbidden(at.Child(name), "may not specify more than 1 handler type"))
		}
		return at.Child(name)
	}
	if h.exec != nil {
		if where := one("exec"); given == 1 && len(h.exec.Command) == 0 {
			errs = append(errs, field.Required(where.Child("command"), ""))
		}
	}
	if h.httpGet != nil {
		if where := one("httpGet"); given == 1 {
			errs = append(errs, validateHTTPGet(h.httpGet, where)...)
		}
	}
	if h.tcpSocket != nil {
		if where := one("tcpSocket"); given == 1 {
			errs = append(errs, validatePortNumOrName(h.tcpSocket.Port, where.Child("port"))...)
		}
	}
	if h.grpc != nil {
		if where := one("grpc"); given == 1 {
			for _, msg := range utilvalidation.IsValidPortNum(int(h.grpc.Port)) {
				errs = append(errs, field.Invalid(where.Child("port"), h.grpc.Port, msg))
			}
		}
	}
	if h.sleep != nil {
		if where := one("sleep"); given == 1 && h.sleep.Seconds < 0 {
			errs = append(errs, field.Invalid(where.Child("seconds"), h.sleep.Seconds, "must be greater than or equal to 0"))
		}
	}
	if given == 0 {
		errs = append(errs, field.Required(at, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(get *corev1.HTTPGetAction, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if get.Path == "" {
		errs = append(errs, field.Required(at.Child("path"), ""))
	}
	errs = append(errs, validatePortNumOrName(get.Port, at.Child("port"))...)
	if get.Scheme != corev1.URISchemeHTTP && get.Scheme != corev1.URISchemeHTTPS {
		errs = append(errs, field.NotSupported(at.Child("scheme"), get.Scheme, []corev1.URIScheme{corev1.URISchemeHTTP, corev1.URISchemeHTTPS}))
	}
	for i, header := range get.HTTPHeaders {
		for _, msg := range utilvalidation.IsHTTPHeaderName(header.Name) {
			errs = append(errs, field.Invalid(at.Child("httpHeaders").Index(i).Child("name"), header.Name, msg))
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

// validateResources checks what a container asks for and may use.
func validateResources(r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	if len(r.Limits) == 0 && len(r.Requests) == 0 && len(r.Claims) == 0 {
		return nil
	}
	var errs field.ErrorList
	for _, name := range sortedKeys(r.Limits) {
		quantity := r.Limits[name]
		where := at.Child("limits").Key(string(name))
		errs = append(errs, validateContainerResourceName(name, at.Child("limits"))...)
		errs = append(errs, validateQuantity(name, quantity, where)...)
	}
	for _, name := range sortedKeys(r.Requests) {
		quantity := r.Requests[name]
		where := at.Child("requests").Key(string(name))
		errs = append(errs, validateContainerResourceName(name, at.Child("requests"))...)
		errs = append(errs, validateQuantity(name, quantity, where)...)
		limit, limited := r.Limits[name]
		switch {
		case limited && overcommits(name) && quantity.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(at.Child("requests"), quantity.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case limited && !overcommits(name) && quantity.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(at.Child("requests"), quantity.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case !limited && !overcommits(name):
			errs = append(errs, field.Required(at.Child("limits"), "Limit must be set for non overcommitable resources"))
		}
	}
	return errs
}

// overcommits tells whether more of a resource may be promised than there is: true for the native ones.
func overcommits(name corev1.ResourceName) bool {
	return isNativeResource(name) && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func isNativeResource(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

func validateContainerResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return nil // what is almost always there
	}
	where := at.Key(string(name))
	errs := validateResourceName(name, where)
	if len(errs) > 0 {
		return errs
	}
	if !strings.Contains(string(name), "/") {
		switch {
		case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
		default:
			return field.ErrorList{field.Invalid(where, name, "must be a standard resource for containers")}
		}
	}
	return nil
}

func validateResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range utilvalidation.IsQualifiedName(string(name)) {
		errs = append(errs, field.Invalid(at, name, msg))
	}
	return errs
}

func validateQuantity(name corev1.ResourceName, quantity resource.Quantity, at *field.Path) field.ErrorList {
	if quantity.Sign() < 0 {
		return field.ErrorList{field.Invalid(at, quantity.String(), validation.IsNegativeErrorMsg)}
	}
	fractional := name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || name == corev1.ResourceStorage
	if !fractional && quantity.MilliValue()%1000 != 0 {
		return field.ErrorList{field.Invalid(at, quantity.String(), "must be an integer")}
	}
	return nil
}

func validateResourceList(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedKeys(list) {
		errs = append(errs, validateResourceName(name, at.Key(string(name)))...)
		errs = append(errs, validateQuantity(name, list[name], at.Key(string(name)))...)
	}
	return errs
}

// validateInsidePath refuses paths that leave the directory they are meant to be in.
func validateInsidePath(p string, at *field.Path) field.ErrorList {
	if path.IsAbs(p) {
		return field.ErrorList{field.Invalid(at, p, "must be a relative path")}
	}
	return validateNoBacksteps(p, at)
}

func validateNoBacksteps(p string, at *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(p, "/"), "..") {
		return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
	}
	return nil
}
