package kinds

import (
	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

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
