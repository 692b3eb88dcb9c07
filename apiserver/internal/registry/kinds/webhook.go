package kinds

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const (
	webhookTimeout    int32 = 10 // seconds
	maxWebhookTimeout int32 = 30
	webhookPort       int32 = 443
)

// reviewVersions are the versions of AdmissionReview that the apiserver can send.
func reviewVersions() []string { return []string{"v1", "v1beta1"} }

func webhookColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{nameColumn(), column("Webhooks", "integer", "Number of webhooks"), ageColumn()}
}

func mutatingWebhookConfiguration() *Kind {
	type configuration = admissionregistrationv1.MutatingWebhookConfiguration
	return &Kind{
		Kind: object.KindOf[*configuration](), Singular: "mutatingwebhookconfiguration", Categories: []string{"api-extensions"}, Verbs: standardVerbs(),
		Columns: webhookColumns(),
		Row: rowOf(func(c *configuration, now time.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), age(c.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(c *configuration) {
			for i := range c.Webhooks {
				hook := webhookOfMutating(&c.Webhooks[i])
				hook.setDefaults()
				setDefaultPtr(&c.Webhooks[i].ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
			}
		}),
		SpecEqual: specEqual(func(c *configuration) *configuration { return &configuration{Webhooks: c.Webhooks} }),
		Validate: check(func(c *configuration) field.ErrorList {
			var hooks []webhook
			var errs field.ErrorList
			for i := range c.Webhooks {
				hooks = append(hooks, webhookOfMutating(&c.Webhooks[i]))
				errs = append(errs, validateReinvocation(valueOf(c.Webhooks[i].ReinvocationPolicy), field.NewPath("webhooks").Index(i).Child("reinvocationPolicy"))...)
			}
			return append(errs, validateWebhooks(hooks, field.NewPath("webhooks"))...)
		}),
	}
}

func validatingWebhookConfiguration() *Kind {
	type configuration = admissionregistrationv1.ValidatingWebhookConfiguration
	return &Kind{
		Kind: object.KindOf[*configuration](), Singular: "validatingwebhookconfiguration", Categories: []string{"api-extensions"}, Verbs: standardVerbs(),
		Columns: webhookColumns(),
		Row: rowOf(func(c *configuration, now time.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), age(c.CreationTimestamp, now)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(c *configuration) {
			for i := range c.Webhooks {
				hook := webhookOfValidating(&c.Webhooks[i])
				hook.setDefaults()
			}
		}),
		SpecEqual: specEqual(func(c *configuration) *configuration { return &configuration{Webhooks: c.Webhooks} }),
		Validate: check(func(c *configuration) field.ErrorList {
			var hooks []webhook
			for i := range c.Webhooks {
				hooks = append(hooks, webhookOfValidating(&c.Webhooks[i]))
			}
			return validateWebhooks(hooks, field.NewPath("webhooks"))
		}),
	}
}

// webhook is what both kinds of webhooks have in common. Pointers lead into the object.
type webhook struct {
	name                              string
	client                            *admissionregistrationv1.WebhookClientConfig
	rules                             []admissionregistrationv1.RuleWithOperations
	failurePolicy                     **admissionregistrationv1.FailurePolicyType
	matchPolicy                       **admissionregistrationv1.MatchPolicyType
	namespaceSelector, objectSelector **metav1.LabelSelector
	sideEffects                       *admissionregistrationv1.SideEffectClass
	timeoutSeconds                    **int32
	reviewVersions                    []string
	matchConditions                   []admissionregistrationv1.MatchCondition
}

func webhookOfMutating(w *admissionregistrationv1.MutatingWebhook) webhook {
	return webhook{
		name: w.Name, client: &w.ClientConfig, rules: w.Rules, failurePolicy: &w.FailurePolicy, matchPolicy: &w.MatchPolicy,
		namespaceSelector: &w.NamespaceSelector, objectSelector: &w.ObjectSelector, sideEffects: w.SideEffects,
		timeoutSeconds: &w.TimeoutSeconds, reviewVersions: w.AdmissionReviewVersions, matchConditions: w.MatchConditions,
	}
}

func webhookOfValidating(w *admissionregistrationv1.ValidatingWebhook) webhook {
	return webhook{
		name: w.Name, client: &w.ClientConfig, rules: w.Rules, failurePolicy: &w.FailurePolicy, matchPolicy: &w.MatchPolicy,
		namespaceSelector: &w.NamespaceSelector, objectSelector: &w.ObjectSelector, sideEffects: w.SideEffects,
		timeoutSeconds: &w.TimeoutSeconds, reviewVersions: w.AdmissionReviewVersions, matchConditions: w.MatchConditions,
	}
}

func (w *webhook) setDefaults() {
	setDefaultPtr(w.failurePolicy, admissionregistrationv1.Fail)
	setDefaultPtr(w.matchPolicy, admissionregistrationv1.Equivalent)
	setDefaultPtr(w.namespaceSelector, metav1.LabelSelector{})
	setDefaultPtr(w.objectSelector, metav1.LabelSelector{})
	setDefaultPtr(w.timeoutSeconds, webhookTimeout)
	if w.client.Service != nil {
		setDefaultPtr(&w.client.Service.Port, webhookPort)
	}
	for i := range w.rules {
		setDefaultPtr(&w.rules[i].Scope, admissionregistrationv1.AllScopes)
	}
}

func validateWebhooks(hooks []webhook, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range hooks {
		hook, at := &hooks[i], path.Index(i)
		errs = append(errs, utilvalidation.IsFullyQualifiedName(at.Child("name"), hook.name)...)
		if names[hook.name] {
			errs = append(errs, field.Duplicate(at.Child("name"), hook.name))
		}
		names[hook.name] = true
		errs = append(errs, validateReviewVersions(hook.reviewVersions, at.Child("admissionReviewVersions"))...)
		for j := range hook.rules {
			errs = append(errs, validateAdmissionRule(&hook.rules[j], allOperations(), at.Child("rules").Index(j))...)
		}
		errs = append(errs, validateFailurePolicy(valueOf(*hook.failurePolicy), at.Child("failurePolicy"))...)
		errs = append(errs, validateMatchPolicy(*hook.matchPolicy, at.Child("matchPolicy"))...)
		errs = append(errs, validateSideEffects(hook.sideEffects, at.Child("sideEffects"))...)
		if seconds := valueOf(*hook.timeoutSeconds); seconds < 1 || seconds > maxWebhookTimeout {
			errs = append(errs, field.Invalid(at.Child("timeoutSeconds"), seconds, "the timeout value must be between 1 and 30 seconds"))
		}
		errs = append(errs, validateSelector(*hook.namespaceSelector, at.Child("namespaceSelector"))...)
		errs = append(errs, validateSelector(*hook.objectSelector, at.Child("objectSelector"))...)
		errs = append(errs, validateWebhookClient(hook.client, at.Child("clientConfig"))...)
		errs = append(errs, validateMatchConditions(hook.matchConditions, at.Child("matchConditions"))...)
	}
	return errs
}

func validateReviewVersions(versions []string, at *field.Path) field.ErrorList {
	known := strings.Join(reviewVersions(), ", ")
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, "must specify one of "+known)}
	}
	var errs field.ErrorList
	usable := false
	for i, version := range versions {
		if slices.Contains(versions[:i], version) {
			errs = append(errs, field.Invalid(at.Index(i), version, "duplicate version"))
			continue
		}
		errs = append(errs, messages(utilvalidation.IsDNS1035Label(version), version, at.Index(i))...)
		usable = usable || slices.Contains(reviewVersions(), version)
	}
	if !usable {
		errs = append(errs, field.Invalid(at, versions, "must include at least one of "+known))
	}
	return errs
}

func validateSideEffects(effects *admissionregistrationv1.SideEffectClass, at *field.Path) field.ErrorList {
	if effects == nil {
		return field.ErrorList{field.Required(at, "must specify one of None, NoneOnDryRun")}
	}
	if *effects != admissionregistrationv1.SideEffectClassNone && *effects != admissionregistrationv1.SideEffectClassNoneOnDryRun {
		return field.ErrorList{field.NotSupported(at, *effects, []admissionregistrationv1.SideEffectClass{
			admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun,
		})}
	}
	return nil
}

func validateReinvocation(policy admissionregistrationv1.ReinvocationPolicyType, at *field.Path) field.ErrorList {
	switch policy {
	case admissionregistrationv1.NeverReinvocationPolicy, admissionregistrationv1.IfNeededReinvocationPolicy:
		return nil
	case "":
		return field.ErrorList{field.Required(at, "")}
	}
	return field.ErrorList{field.NotSupported(at, policy, []admissionregistrationv1.ReinvocationPolicyType{
		admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy,
	})}
}

func validateFailurePolicy(policy admissionregistrationv1.FailurePolicyType, at *field.Path) field.ErrorList {
	if policy == admissionregistrationv1.Ignore || policy == admissionregistrationv1.Fail {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, policy, []admissionregistrationv1.FailurePolicyType{admissionregistrationv1.Fail, admissionregistrationv1.Ignore})}
}

func validateMatchPolicy(policy *admissionregistrationv1.MatchPolicyType, at *field.Path) field.ErrorList {
	switch valueOf(policy) {
	case admissionregistrationv1.Exact, admissionregistrationv1.Equivalent:
		return nil
	}
	return field.ErrorList{field.NotSupported(at, valueOf(policy), []admissionregistrationv1.MatchPolicyType{
		admissionregistrationv1.Equivalent, admissionregistrationv1.Exact,
	})}
}

func validateWebhookClient(client *admissionregistrationv1.WebhookClientConfig, at *field.Path) field.ErrorList {
	switch {
	case (client.URL == nil) == (client.Service == nil):
		return field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case client.URL != nil:
		return validateWebhookURL(*client.URL, at.Child("url"))
	}
	service, where := client.Service, at.Child("service")
	var errs field.ErrorList
	if service.Name == "" {
		errs = append(errs, field.Required(where.Child("name"), "service name is required"))
	}
	if service.Namespace == "" {
		errs = append(errs, field.Required(where.Child("namespace"), "service namespace is required"))
	}
	if port := valueOf(service.Port); len(utilvalidation.IsValidPortNum(int(port))) > 0 {
		errs = append(errs, field.Invalid(where.Child("port"), port, "port is not valid: "+strings.Join(utilvalidation.IsValidPortNum(int(port)), ", ")))
	}
	if service.Path != nil {
		errs = append(errs, validateServicePath(*service.Path, where.Child("path"))...)
	}
	return errs
}

func validateWebhookURL(text string, at *field.Path) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Required(at, "url must be a valid URL: "+err.Error()+form)}
	}
	var errs field.ErrorList
	if u.Scheme != "https" {
		errs = append(errs, field.Invalid(at, u.Scheme, "'https' is the only allowed URL scheme"+form))
	}
	if u.Host == "" {
		errs = append(errs, field.Invalid(at, u.Host, "host must be specified"+form))
	}
	if u.User != nil {
		errs = append(errs, field.Invalid(at, u.User.String(), "user information is not permitted in the URL"))
	}
	if u.Fragment != "" {
		errs = append(errs, field.Invalid(at, u.Fragment, "fragments are not permitted in the URL"))
	}
	if u.RawQuery != "" {
		errs = append(errs, field.Invalid(at, u.RawQuery, "query parameters are not permitted in the URL"))
	}
	return errs
}

func validateServicePath(p string, at *field.Path) field.ErrorList {
	if p == "/" || p == "" {
		return nil
	}
	if p == "//" {
		return field.ErrorList{field.Invalid(at, p, "segment[0] may not be empty")}
	}
	if !strings.HasPrefix(p, "/") {
		return field.ErrorList{field.Invalid(at, p, "must start with a '/'")}
	}
	u, err := url.Parse(p)
	if err != nil || u.Path != p {
		return field.ErrorList{field.Invalid(at, p, "must be a valid URL path")}
	}
	var errs field.ErrorList
	for i, segment := range strings.Split(strings.TrimSuffix(p[1:], "/"), "/") {
		if segment == "" {
			errs = append(errs, field.Invalid(at, p, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, msg := range utilvalidation.IsDNS1123Subdomain(segment) {
			errs = append(errs, field.Invalid(at, p, fmt.Sprintf("segment[%d]: %s", i, msg)))
		}
	}
	return errs
}
