package kinds

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
)

const (
	defaultFileMode    int32 = 0o644
	defaultTokenExpiry int64 = 60 * 60
)

// defaultPodSpec fills in what every pod and every template of pods gets.
func defaultPodSpec(spec *corev1.PodSpec) {
	setDefault(&spec.DNSPolicy, corev1.DNSClusterFirst)
	setDefault(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	setDefaultPtr(&spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	setDefault(&spec.SchedulerName, corev1.DefaultSchedulerName)
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	// The old name of serviceAccountName stays readable.
	setDefault(&spec.ServiceAccountName, spec.DeprecatedServiceAccount)
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	for i := range spec.InitContainers {
		defaultContainer(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		defaultContainer(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		common := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		defaultContainer(&common)
		spec.EphemeralContainers[i].EphemeralContainerCommon = corev1.EphemeralContainerCommon(common)
	}
	if spec.HostNetwork {
		defaultHostPorts(spec.InitContainers)
		defaultHostPorts(spec.Containers)
	}
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i].VolumeSource)
	}
}

// defaultPod fills in what only pods get, not templates.
func defaultPod(p *corev1.Pod, tolerationSeconds int64) {
	spec := &p.Spec
	setDefaultPtr(&spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	for i := range spec.InitContainers {
		defaultRequests(&spec.InitContainers[i].Resources)
	}
	for i := range spec.Containers {
		defaultRequests(&spec.Containers[i].Resources)
	}
	if spec.Resources != nil {
		defaultRequests(spec.Resources)
	}
	for _, key := range [...]string{taintNotReady, taintUnreachable} {
		if !toleratesNoExecute(spec.Tolerations, key) {
			spec.Tolerations = append(spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr(tolerationSeconds),
			})
		}
	}
}

func toleratesNoExecute(tolerations []corev1.Toleration, key string) bool {
	for i := range tolerations {
		t := &tolerations[i]
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

// defaultRequests lets what is limited but not asked for be asked for in full.
func defaultRequests(resources *corev1.ResourceRequirements) {
	if len(resources.Limits) == 0 {
		return
	}
	for name, limit := range resources.Limits {
		if _, set := resources.Requests[name]; set {
			continue
		}
		if resources.Requests == nil {
			resources.Requests = maps.Clone(resources.Limits)
			return
		}
		resources.Requests[name] = limit.DeepCopy()
	}
}

func defaultHostPorts(containers []corev1.Container) {
	for i := range containers {
		for j := range containers[i].Ports {
			port := &containers[i].Ports[j]
			setDefault(&port.HostPort, port.ContainerPort)
		}
	}
}

func defaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = corev1.PullIfNotPresent
		if tag, digest := imageTag(c.Image); tag == "latest" && !digest {
			c.ImagePullPolicy = corev1.PullAlways
		}
	}
	setDefault(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	setDefault(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		setDefault(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			setDefault(&from.FieldRef.APIVersion, "v1")
		}
	}
	defaultProbe(c.LivenessProbe)
	defaultProbe(c.ReadinessProbe)
	defaultProbe(c.StartupProbe)
	if c.Lifecycle != nil {
		defaultHandler(c.Lifecycle.PostStart)
		defaultHandler(c.Lifecycle.PreStop)
	}
}

func defaultProbe(probe *corev1.Probe) {
	if probe == nil {
		return
	}
	setDefault(&probe.TimeoutSeconds, 1)
	setDefault(&probe.PeriodSeconds, 10)
	setDefault(&probe.SuccessThreshold, 1)
	setDefault(&probe.FailureThreshold, 3)
	defaultHTTPGet(probe.HTTPGet)
	if probe.GRPC != nil {
		setDefaultPtr(&probe.GRPC.Service, "")
	}
}

func defaultHandler(handler *corev1.LifecycleHandler) {
	if handler != nil {
		defaultHTTPGet(handler.HTTPGet)
	}
}

func defaultHTTPGet(get *corev1.HTTPGetAction) {
	if get != nil {
		setDefault(&get.Path, "/")
		setDefault(&get.Scheme, corev1.URISchemeHTTP)
	}
}

func defaultVolume(source *corev1.VolumeSource) {
	switch {
	case source.Secret != nil:
		setDefaultPtr(&source.Secret.DefaultMode, defaultFileMode)
	case source.ConfigMap != nil:
		setDefaultPtr(&source.ConfigMap.DefaultMode, defaultFileMode)
	case source.DownwardAPI != nil:
		setDefaultPtr(&source.DownwardAPI.DefaultMode, defaultFileMode)
		defaultDownwardItems(source.DownwardAPI.Items)
	case source.Projected != nil:
		setDefaultPtr(&source.Projected.DefaultMode, defaultFileMode)
		for i := range source.Projected.Sources {
			projection := &source.Projected.Sources[i]
			if projection.ServiceAccountToken != nil {
				setDefaultPtr(&projection.ServiceAccountToken.ExpirationSeconds, defaultTokenExpiry)
			}
			if projection.DownwardAPI != nil {
				defaultDownwardItems(projection.DownwardAPI.Items)
			}
		}
	case source.HostPath != nil:
		setDefaultPtr(&source.HostPath.Type, corev1.HostPathUnset)
	case source.ISCSI != nil:
		setDefault(&source.ISCSI.ISCSIInterface, "default")
	case source.RBD != nil:
		setDefault(&source.RBD.RBDPool, "rbd")
		setDefault(&source.RBD.RadosUser, "admin")
		setDefault(&source.RBD.Keyring, "/etc/ceph/keyring")
	case source.AzureDisk != nil:
		setDefaultPtr(&source.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		setDefaultPtr(&source.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		setDefaultPtr(&source.AzureDisk.FSType, "ext4")
		setDefaultPtr(&source.AzureDisk.ReadOnly, false)
	case source.ScaleIO != nil:
		setDefault(&source.ScaleIO.StorageMode, "ThinProvisioned")
		setDefault(&source.ScaleIO.FSType, "xfs")
	case source.Ephemeral != nil && source.Ephemeral.VolumeClaimTemplate != nil:
		setDefaultPtr(&source.Ephemeral.VolumeClaimTemplate.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		defaultDataSources(&source.Ephemeral.VolumeClaimTemplate.Spec)
	case source.Image != nil:
		if source.Image.PullPolicy == "" {
			source.Image.PullPolicy = corev1.PullIfNotPresent
			if tag, digest := imageTag(source.Image.Reference); tag == "latest" && !digest {
				source.Image.PullPolicy = corev1.PullAlways
			}
		}
	case *source == corev1.VolumeSource{}:
		source.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
}

func defaultDownwardItems(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if items[i].FieldRef != nil {
			setDefault(&items[i].FieldRef.APIVersion, "v1")
		}
	}
}
