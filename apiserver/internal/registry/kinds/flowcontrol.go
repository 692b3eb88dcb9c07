package kinds

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

const (
	defaultPrecedence int32 = 1000
	defaultShares     int32 = 30
	catchAllShares    int32 = 5
	defaultQueues     int32 = 64
	defaultHandSize   int32 = 8
	defaultQueueLimit int32 = 50
	maxQueues         int32 = 10_000_000
	// maxHandBits bounds the random bits that dealing a hand takes: the hash has 64, and the
	// last few would be biased.
	maxHandBits = 60
)

func flowSchema() *Kind {
	kind := object.KindOf[*flowcontrolv1.FlowSchema]()
	return &Kind{
		Kind: kind, Singular: "flowschema", Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("PriorityLevel", "string", "Priority level of the requests"),
			column("MatchingPrecedence", "string", "Schemas with lower numbers are asked first"),
			column("DistinguisherMethod", "string", "What tells flows apart"), ageColumn(),
			column("MissingPL", "string", "Whether the priority level does not exist"),
		},
		Row: rowOf(func(s *flowcontrolv1.FlowSchema, now time.Time) []any {
			method, missing := "<none>", "?"
			if s.Spec.DistinguisherMethod != nil {
				method = string(s.Spec.DistinguisherMethod.Type)
			}
			for _, condition := range s.Status.Conditions {
				if condition.Type == flowcontrolv1.FlowSchemaConditionDangling {
					missing = string(condition.Status)
				}
			}
			return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, age(s.CreationTimestamp, now), missing}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default: on(func(s *flowcontrolv1.FlowSchema) {
			setDefault(&s.Spec.MatchingPrecedence, defaultPrecedence)
		}),
		PrepareForCreate: on(func(s *flowcontrolv1.FlowSchema) { s.Status = flowcontrolv1.FlowSchemaStatus{} }),
		PrepareForUpdate: onBoth(func(s, old *flowcontrolv1.FlowSchema) { s.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(s, old *flowcontrolv1.FlowSchema) {
			s.Spec = old.Spec
			keepStatusMetadata(&s.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual: specEqual(func(s *flowcontrolv1.FlowSchema) *flowcontrolv1.FlowSchemaSpec { return &s.Spec }),
		Validate:  check(validateFlowSchema),
		ValidateStatusUpdate: checkBoth(func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
			var types []string
			for _, condition := range s.Status.Conditions {
				types = append(types, string(condition.Type))
			}
			return validateConditionTypes(types, field.NewPath("status", "conditions"))
		}),
	}
}

// validateConditionTypes wants every condition to have a type of its own.
func validateConditionTypes(types []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, kind := range types {
		at := path.Index(i).Child("type")
		switch {
		case kind == "":
			errs = append(errs, field.Required(at, ""))
		case slices.Contains(types[:i], kind):
			errs = append(errs, field.Duplicate(at, kind))
		}
	}
	return errs
}

// mandatorySchema returns what the schemas that every cluster has must say; nil for others.
func mandatorySchema(name string) *flowcontrolv1.FlowSchemaSpec {
	group := func(name string) flowcontrolv1.Subject {
		return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: name}}
	}
	all := []string{everything}
	rules := func(subjects ...flowcontrolv1.Subject) []flowcontrolv1.PolicyRulesWithSubjects {
		return []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:         subjects,
			ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: all, APIGroups: all, Resources: all, ClusterScope: true, Namespaces: all}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: all, NonResourceURLs: all}},
		}}
	}
	switch name {
	case flowcontrolv1.FlowSchemaNameExempt:
		return &flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: flowcontrolv1.PriorityLevelConfigurationNameExempt},
			MatchingPrecedence:         1, Rules: rules(group("system:masters")),
		}
	case flowcontrolv1.FlowSchemaNameCatchAll:
		return &flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: flowcontrolv1.PriorityLevelConfigurationNameCatchAll},
			MatchingPrecedence:         flowcontrolv1.FlowSchemaMaxMatchingPrecedence,
			DistinguisherMethod:        &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
			Rules:                      rules(group("system:unauthenticated"), group("system:authenticated")),
		}
	}
	return nil
}

func validateFlowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	path, spec := field.NewPath("spec"), &s.Spec
	var errs field.ErrorList
	precedence := path.Child("matchingPrecedence")
	switch n := spec.MatchingPrecedence; {
	case n <= 0:
		errs = append(errs, field.Invalid(precedence, n, "must be a positive value"))
	case n > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		errs = append(errs, field.Invalid(precedence, n, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	case n == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt:
		errs = append(errs, field.Invalid(precedence, n, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if method := spec.DistinguisherMethod; method != nil {
		switch method.Type {
		case flowcontrolv1.FlowDistinguisherMethodByUserType, flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		default:
			errs = append(errs, field.NotSupported(path.Child("distinguisherMethod", "type"), method.Type, []flowcontrolv1.FlowDistinguisherMethodType{
				flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType,
			}))
		}
	}
	level := path.Child("priorityLevelConfiguration", "name")
	if spec.PriorityLevelConfiguration.Name == "" {
		errs = append(errs, field.Required(level, "must reference a priority level"))
	}
	errs = append(errs, validateSubdomain(spec.PriorityLevelConfiguration.Name, level)...)
	for i := range spec.Rules {
		errs = append(errs, validateFlowRule(&spec.Rules[i], path.Child("rules").Index(i))...)
	}
	if fixed := mandatorySchema(s.Name); fixed != nil && !apiequality.Semantic.DeepEqual(*spec, *fixed) {
		errs = append(errs, field.Invalid(path, spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))
	}
	return errs
}

func validateFlowRule(rule *flowcontrolv1.PolicyRulesWithSubjects, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(rule.Subjects) == 0 {
		errs = append(errs, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range rule.Subjects {
		errs = append(errs, validateFlowSubject(&rule.Subjects[i], at.Child("subjects").Index(i))...)
	}
	if len(rule.ResourceRules) == 0 && len(rule.NonResourceRules) == 0 {
		errs = append(errs, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range rule.ResourceRules {
		errs = append(errs, validateFlowResources(&rule.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i := range rule.NonResourceRules {
		errs = append(errs, validateFlowURLs(&rule.NonResourceRules[i], at.Child("nonResourceRules").Index(i))...)
	}
	return errs
}

func validateFlowSubject(s *flowcontrolv1.Subject, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	known := []flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser}
	if !slices.Contains(known, s.Kind) {
		errs = append(errs, field.NotSupported(at.Child("kind"), s.Kind, known))
	}
	// Of the three members the one that the kind names is there.
	member := func(kind flowcontrolv1.SubjectKind, name string, present bool) bool {
		switch {
		case present && s.Kind != kind:
			errs = append(errs, field.Forbidden(at.Child(name), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", name, kind)))
		case !present && s.Kind == kind:
			errs = append(errs, field.Required(at.Child(name), fmt.Sprintf("%s is required when subject kind is '%s'", name, kind)))
		}
		return present && s.Kind == kind
	}
	if member(flowcontrolv1.SubjectKindUser, "user", s.User != nil) && s.User.Name == "" {
		errs = append(errs, field.Required(at.Child("user", "name"), ""))
	}
	if member(flowcontrolv1.SubjectKindGroup, "group", s.Group != nil) && s.Group.Name == "" {
		errs = append(errs, field.Required(at.Child("group", "name"), ""))
	}
	if !member(flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil) {
		return errs
	}
	account, where := s.ServiceAccount, at.Child("serviceAccount")
	switch account.Name {
	case "":
		errs = append(errs, field.Required(where.Child("name"), ""))
	case everything:
	default:
		errs = append(errs, messages(validation.ValidateServiceAccountName(account.Name, false), account.Name, where.Child("name"))...)
	}
	if account.Namespace == "" {
		return append(errs, field.Required(where.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, validateNamespaceReference(account.Namespace, where.Child("namespace"))...)
}

// validateFlowList checks a list that must hold something, and "*" alone or not at all.
func validateFlowList(list []string, what string, at *field.Path) field.ErrorList {
	switch {
	case len(list) == 0:
		return field.ErrorList{field.Required(at, what+" must contain at least one value")}
	case len(list) > 1 && slices.Contains(list, everything):
		return field.ErrorList{field.Invalid(at, list, fmt.Sprintf("if '*' is present, must not specify other %s", what))}
	}
	return nil
}

func validateFlowVerbs(verbs, known []string, at *field.Path) field.ErrorList {
	errs := validateFlowList(verbs, "verbs", at)
	for _, verb := range verbs {
		if verb != everything && !slices.Contains(known, verb) {
			errs = append(errs, field.NotSupported(at, verbs, known))
			break
		}
	}
	return errs
}

func validateFlowResources(rule *flowcontrolv1.ResourcePolicyRule, at *field.Path) field.ErrorList {
	known := []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}
	errs := validateFlowVerbs(rule.Verbs, known, at.Child("verbs"))
	errs = append(errs, validateFlowList(rule.APIGroups, "api groups", at.Child("apiGroups"))...)
	errs = append(errs, validateFlowList(rule.Resources, "resources", at.Child("resources"))...)
	namespaces := at.Child("namespaces")
	if len(rule.Namespaces) == 0 && !rule.ClusterScope {
		return append(errs, field.Required(namespaces, "resource rules that are not cluster scoped must supply at least one namespace"))
	}
	if len(rule.Namespaces) > 1 && slices.Contains(rule.Namespaces, flowcontrolv1.NamespaceEvery) {
		return append(errs, field.Invalid(namespaces, rule.Namespaces, "if '*' is present, must not specify other namespaces"))
	}
	for i, namespace := range rule.Namespaces {
		if namespace != flowcontrolv1.NamespaceEvery {
			errs = append(errs, messages(validation.ValidateNamespaceName(namespace, false), namespace, namespaces.Index(i))...)
		}
	}
	return errs
}

func validateFlowURLs(rule *flowcontrolv1.NonResourcePolicyRule, at *field.Path) field.ErrorList {
	known := []string{"delete", "get", "head", "options", "patch", "post", "put"}
	errs := validateFlowVerbs(rule.Verbs, known, at.Child("verbs"))
	urls := at.Child("nonResourceURLs")
	errs = append(errs, validateFlowList(rule.NonResourceURLs, "non-resource URLs", urls)...)
	for i, url := range rule.NonResourceURLs {
		where := urls.Index(i)
		star := strings.IndexByte(url, '*')
		switch {
		case url == everything:
		case url == "":
			errs = append(errs, field.Required(where, "must not be empty"))
		case !strings.HasPrefix(url, "/"):
			errs = append(errs, field.Invalid(where, url, "must start with slash"))
		case strings.Contains(url, " "):
			errs = append(errs, field.Invalid(where, url, "must not contain white-space"))
		case strings.Contains(url, "//"):
			errs = append(errs, field.Invalid(where, url, "must not contain double slash"))
		case star >= 0 && (star != len(url)-1 || !strings.HasSuffix(url, "/*")):
			errs = append(errs, field.Invalid(where, url, "wildcard can only do suffix matching"))
		}
	}
	return errs
}

func priorityLevelConfiguration() *Kind {
	kind := object.KindOf[*flowcontrolv1.PriorityLevelConfiguration]()
	return &Kind{
		Kind: kind, Singular: "prioritylevelconfiguration", Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Type", "string", "Whether requests are limited"), column("NominalConcurrencyShares", "string", "Share of the server's seats"),
			column("Queues", "string", "Number of queues"), column("HandSize", "string", "Queues a flow may use"),
			column("QueueLengthLimit", "string", "Requests a queue holds"), ageColumn(),
		},
		Row:          rowOf(priorityLevelRow),
		ValidateName: validation.NameIsDNSSubdomain,
		Default:      on(defaultPriorityLevel),
		PrepareForCreate: on(func(c *flowcontrolv1.PriorityLevelConfiguration) {
			c.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
		}),
		PrepareForUpdate: onBoth(func(c, old *flowcontrolv1.PriorityLevelConfiguration) { c.Status = old.Status }),
		PrepareForStatusUpdate: onBoth(func(c, old *flowcontrolv1.PriorityLevelConfiguration) {
			c.Spec = old.Spec
			keepStatusMetadata(&c.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual: specEqual(func(c *flowcontrolv1.PriorityLevelConfiguration) *flowcontrolv1.PriorityLevelConfigurationSpec {
			return &c.Spec
		}),
		Validate: check(validatePriorityLevel),
		ValidateStatusUpdate: checkBoth(func(c, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
			var types []string
			for _, condition := range c.Status.Conditions {
				types = append(types, string(condition.Type))
			}
			return validateConditionTypes(types, field.NewPath("status", "conditions"))
		}),
	}
}

func defaultPriorityLevel(c *flowcontrolv1.PriorityLevelConfiguration) {
	if exempt := c.Spec.Exempt; exempt != nil {
		setDefaultPtr(&exempt.NominalConcurrencyShares, 0)
		setDefaultPtr(&exempt.LendablePercent, 0)
	}
	limited := c.Spec.Limited
	if limited == nil {
		return
	}
	setDefaultPtr(&limited.NominalConcurrencyShares, defaultShares)
	setDefaultPtr(&limited.LendablePercent, 0)
	if queuing := limited.LimitResponse.Queuing; queuing != nil {
		setDefault(&queuing.Queues, defaultQueues)
		setDefault(&queuing.HandSize, defaultHandSize)
		setDefault(&queuing.QueueLengthLimit, defaultQueueLimit)
	}
}

func validatePriorityLevel(c *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	path, spec := field.NewPath("spec"), &c.Spec
	var errs field.ErrorList
	kind := path.Child("type")
	exempt := c.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt
	if exempt != (spec.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		errs = append(errs, field.Invalid(kind, spec.Type, "type must be 'Exempt' if and only if name is 'exempt'"))
	}
	limited, where := spec.Limited, path.Child("limited")
	switch spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if limited != nil {
			errs = append(errs, field.Forbidden(where, "must be nil if the type is not Limited"))
		}
		if spec.Exempt != nil {
			errs = append(errs, validateShares(spec.Exempt.NominalConcurrencyShares, spec.Exempt.LendablePercent, path.Child("exempt"))...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if spec.Exempt != nil {
			errs = append(errs, field.Forbidden(path.Child("exempt"), "must be nil if the type is Limited"))
		}
		if limited == nil {
			errs = append(errs, field.Required(where, "must not be empty when type is Limited"))
		} else {
			errs = append(errs, validateLimitedLevel(limited, where)...)
		}
	case "":
		errs = append(errs, field.Required(kind, ""))
	default:
		errs = append(errs, field.NotSupported(kind, spec.Type, []flowcontrolv1.PriorityLevelEnablement{
			flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited,
		}))
	}
	if c.Name == flowcontrolv1.PriorityLevelConfigurationNameCatchAll {
		fixed := flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: ptr(catchAllShares), LendablePercent: ptr(int32(0)),
				LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
			},
		}
		if !apiequality.Semantic.DeepEqual(*spec, fixed) {
			errs = append(errs, field.Invalid(path, spec, "spec of 'catch-all' must equal the fixed value"))
		}
	}
	return errs
}

func validateShares(shares, lendable *int32, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := valueOf(shares); n < 0 {
		errs = append(errs, field.Invalid(at.Child("nominalConcurrencyShares"), n, "must be a non-negative integer"))
	}
	if n := valueOf(lendable); n < 0 || n > 100 {
		errs = append(errs, field.Invalid(at.Child("lendablePercent"), n, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func validateLimitedLevel(limited *flowcontrolv1.LimitedPriorityLevelConfiguration, at *field.Path) field.ErrorList {
	errs := validateShares(limited.NominalConcurrencyShares, limited.LendablePercent, at)
	if n := limited.BorrowingLimitPercent; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(at.Child("borrowingLimitPercent"), *n, "if specified, must be a non-negative integer"))
	}
	response, queuing := at.Child("limitResponse"), limited.LimitResponse.Queuing
	switch limited.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if queuing != nil {
			errs = append(errs, field.Forbidden(response.Child("queuing"), "must be nil if limited.limitResponse.type is not Queue"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if queuing == nil {
			errs = append(errs, field.Required(response.Child("queuing"), "must not be empty if limited.limitResponse.type is Queue"))
		} else {
			errs = append(errs, validateQueuing(queuing, response.Child("queuing"))...)
		}
	case "":
		errs = append(errs, field.Required(response.Child("type"), ""))
	default:
		errs = append(errs, field.NotSupported(response.Child("type"), limited.LimitResponse.Type, []flowcontrolv1.LimitResponseType{
			flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject,
		}))
	}
	return errs
}

func validateQueuing(q *flowcontrolv1.QueuingConfiguration, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(at.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	switch {
	case q.Queues <= 0:
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, "must be positive"))
	case q.Queues > maxQueues:
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	switch bits := handBits(q.Queues, q.HandSize); {
	case q.HandSize <= 0:
		errs = append(errs, field.Invalid(at.Child("handSize"), q.HandSize, "must be positive"))
	case q.HandSize > q.Queues:
		errs = append(errs, field.Invalid(at.Child("handSize"), q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	case bits > maxHandBits:
		errs = append(errs, field.Invalid(at.Child("handSize"), q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, maxHandBits)))
	}
	return errs
}

// handBits is how many bits it takes to choose a hand of so many queues, one after the other.
func handBits(queues, hand int32) int {
	bits := 0.0
	for i := range hand {
		if queues-i <= 1 || bits > maxHandBits {
			break
		}
		bits += math.Log2(float64(queues - i))
	}
	return int(math.Ceil(bits))
}

func priorityLevelRow(c *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
	shares, queues, hand, limit := any("<none>"), any("<none>"), any("<none>"), any("<none>")
	if exempt := c.Spec.Exempt; exempt != nil && exempt.NominalConcurrencyShares != nil {
		shares = int64(*exempt.NominalConcurrencyShares)
	}
	if limited := c.Spec.Limited; limited != nil {
		shares = int64(valueOf(limited.NominalConcurrencyShares))
		if queuing := limited.LimitResponse.Queuing; queuing != nil {
			queues, hand, limit = int64(queuing.Queues), int64(queuing.HandSize), int64(queuing.QueueLengthLimit)
		}
	}
	return []any{c.Name, string(c.Spec.Type), shares, queues, hand, limit, age(c.CreationTimestamp, now)}
}
