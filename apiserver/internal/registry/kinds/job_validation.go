package kinds

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Limits of jobs. Those of indexed ones keep the status, which lists indexes, small.
const (
	maxIndexedParallelism   = 100_000
	maxFailedIndexes        = 100_000
	manyCompletions         = 100_000
	maxParallelismOfMany    = 10_000
	maxFailedIndexesOfMany  = 10_000
	maxJobManagerLength     = 63
	maxJobRules             = 20
	maxJobRuleExitCodes     = 255
	maxJobRuleConditions    = 20
	maxSucceededIndexesText = 64 << 10
)

func validateJob(j *batchv1.Job) field.ErrorList {
	path, spec := field.NewPath("spec"), &j.Spec
	errs := validateJobSpec(spec, path)
	if spec.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else {
		errs = append(errs, metavalidation.ValidateLabelSelector(spec.Selector, metavalidation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
		errs = append(errs, validateTemplateLabels(&spec.Template, spec.Selector, path.Child("template"))...)
		errs = append(errs, validateJobIdentity(j)...)
	}
	if indexed(spec) && valueOf(spec.Completions) > 0 {
		// The pod of an index is its own host.
		longest := fmt.Sprintf("%s-%d", j.Name, *spec.Completions-1)
		if len(utilvalidation.IsDNS1123Label(longest)) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+longest))
		}
	}
	return errs
}

func indexed(spec *batchv1.JobSpec) bool {
	return valueOf(spec.CompletionMode) == batchv1.IndexedCompletion
}

// validateJobIdentity makes sure that a generated selector finds the job's pods and no others.
func validateJobIdentity(j *batchv1.Job) field.ErrorList {
	if valueOf(j.Spec.ManualSelector) {
		return nil
	}
	var errs field.ErrorList
	want, at := jobLabels(j), field.NewPath("spec", "template", "metadata", "labels")
	for _, key := range sortedKeys(want) {
		switch got, ok := j.Spec.Template.Labels[key]; {
		case !ok:
			errs = append(errs, field.Required(at.Key(key), "must be '"+want[key]+"'"))
		case got != want[key]:
			errs = append(errs, field.Invalid(at.Key(key), got, "must be '"+want[key]+"'"))
		}
	}
	bare := corev1.PodTemplateSpec{}
	bare.Labels = want
	if len(validateTemplateLabels(&bare, j.Spec.Selector, at)) > 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// validateJobSpec checks what jobs and templates of jobs have in common.
func validateJobSpec(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, count := range []struct {
		name  string
		value *int32
	}{
		{"parallelism", spec.Parallelism}, {"completions", spec.Completions}, {"backoffLimit", spec.BackoffLimit},
		{"ttlSecondsAfterFinished", spec.TTLSecondsAfterFinished}, {"backoffLimitPerIndex", spec.BackoffLimitPerIndex},
		{"maxFailedIndexes", spec.MaxFailedIndexes},
	} {
		errs = append(errs, nonNegative(int64(valueOf(count.value)), path.Child(count.name))...)
	}
	errs = append(errs, nonNegative(valueOf(spec.ActiveDeadlineSeconds), path.Child("activeDeadlineSeconds"))...)
	if spec.ManagedBy != nil {
		at := path.Child("managedBy")
		errs = append(errs, utilvalidation.IsDomainPrefixedPath(at, *spec.ManagedBy)...)
		if len(*spec.ManagedBy) > maxJobManagerLength {
			errs = append(errs, field.TooLong(at, "", maxJobManagerLength))
		}
	}
	if mode := spec.CompletionMode; mode != nil && *mode != batchv1.NonIndexedCompletion && *mode != batchv1.IndexedCompletion {
		errs = append(errs, field.NotSupported(path.Child("completionMode"), *mode, []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}))
	}
	if spec.MaxFailedIndexes != nil && spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	errs = append(errs, validateIndexing(spec, path)...)
	errs = append(errs, validatePodFailurePolicy(spec, path.Child("podFailurePolicy"))...)
	errs = append(errs, validateReplacement(spec, path.Child("podReplacementPolicy"))...)
	errs = append(errs, validatePodTemplate(&spec.Template, path.Child("template"))...)
	return append(errs, validateJobRestarts(spec, path.Child("template", "spec", "restartPolicy"))...)
}

// validateIndexing checks what depends on whether completions are numbered.
func validateIndexing(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	tooMany := func(name string, value, limit int32, when string) {
		if value > limit {
			errs = append(errs, field.Invalid(path.Child(name), value, fmt.Sprintf("must be less than or equal to %d%s", limit, when)))
		}
	}
	if !indexed(spec) {
		const needsIndexes = "requires indexed completion mode"
		if spec.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(path.Child("backoffLimitPerIndex"), *spec.BackoffLimitPerIndex, needsIndexes))
		}
		if spec.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *spec.MaxFailedIndexes, needsIndexes))
		}
		if spec.SuccessPolicy != nil {
			errs = append(errs, field.Invalid(path.Child("successPolicy"), *spec.SuccessPolicy, needsIndexes))
		}
		return errs
	}
	if spec.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), "when completion mode is Indexed"))
	}
	parallelism, failed := valueOf(spec.Parallelism), valueOf(spec.MaxFailedIndexes)
	tooMany("parallelism", parallelism, maxIndexedParallelism, " when completion mode is Indexed")
	tooMany("maxFailedIndexes", failed, maxFailedIndexes, "")
	if spec.Completions != nil && failed > *spec.Completions {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), failed, "must be less than or equal to completions"))
	}
	if valueOf(spec.Completions) > manyCompletions && spec.BackoffLimitPerIndex != nil {
		when := fmt.Sprintf(" when completions are above %d and used with backoff limit per index", manyCompletions)
		tooMany("parallelism", parallelism, maxParallelismOfMany, when)
		tooMany("maxFailedIndexes", failed, maxFailedIndexesOfMany, when)
		if spec.MaxFailedIndexes == nil {
			errs = append(errs, field.Required(path.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
		}
	}
	return append(errs, validateSuccessPolicy(spec, path.Child("successPolicy", "rules"))...)
}

// validateJobRestarts allows the policies under which pods end.
func validateJobRestarts(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	switch policy := spec.Template.Spec.RestartPolicy; {
	case policy == corev1.RestartPolicyAlways || policy == "": // the default, when the client said nothing
		return field.ErrorList{field.Required(path, `valid values: "OnFailure", "Never"`)}
	case policy != corev1.RestartPolicyOnFailure && policy != corev1.RestartPolicyNever:
		return field.ErrorList{field.NotSupported(path, policy, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever})}
	case spec.PodFailurePolicy != nil && policy != corev1.RestartPolicyNever:
		return field.ErrorList{field.Invalid(path, policy, `only "Never" is supported when podFailurePolicy is specified`)}
	}
	return nil
}

func validateReplacement(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	allowed := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
	if spec.PodFailurePolicy != nil {
		allowed = allowed[:1] // only an ended pod shows why it failed
	}
	if policy := spec.PodReplacementPolicy; policy != nil && !slices.Contains(allowed, *policy) {
		return field.ErrorList{field.NotSupported(path, *policy, allowed)}
	}
	return nil
}

func validatePodFailurePolicy(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if spec.PodFailurePolicy == nil {
		return nil
	}
	var errs field.ErrorList
	rules := path.Child("rules")
	if n := len(spec.PodFailurePolicy.Rules); n > maxJobRules {
		errs = append(errs, field.TooMany(rules, n, maxJobRules))
	}
	for i := range spec.PodFailurePolicy.Rules {
		rule, at := &spec.PodFailurePolicy.Rules[i], rules.Index(i)
		errs = append(errs, validateFailureAction(spec, rule.Action, at.Child("action"))...)
		switch {
		case rule.OnExitCodes != nil && len(rule.OnPodConditions) > 0:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		case rule.OnExitCodes == nil && len(rule.OnPodConditions) == 0:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
		errs = append(errs, validateExitCodes(rule.OnExitCodes, &spec.Template.Spec, at.Child("onExitCodes"))...)
		errs = append(errs, validateFailureConditions(rule.OnPodConditions, at.Child("onPodConditions"))...)
	}
	return errs
}

func validateFailureAction(spec *batchv1.JobSpec, action batchv1.PodFailurePolicyAction, path *field.Path) field.ErrorList {
	switch action {
	case batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore:
		return nil
	case batchv1.PodFailurePolicyActionFailIndex:
		if spec.BackoffLimitPerIndex == nil {
			return field.ErrorList{field.Invalid(path, action, "requires the backoffLimitPerIndex to be set")}
		}
		return nil
	case "":
		return field.ErrorList{field.Required(path, `valid values: ["Count" "FailIndex" "FailJob" "Ignore"]`)}
	}
	return field.ErrorList{field.NotSupported(path, action, []batchv1.PodFailurePolicyAction{
		batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore,
	})}
}

func validateExitCodes(on *batchv1.PodFailurePolicyOnExitCodesRequirement, pod *corev1.PodSpec, path *field.Path) field.ErrorList {
	if on == nil {
		return nil
	}
	var errs field.ErrorList
	switch on.Operator {
	case batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn:
	case "":
		errs = append(errs, field.Required(path.Child("operator"), `valid values: ["In" "NotIn"]`))
	default:
		errs = append(errs, field.NotSupported(path.Child("operator"), on.Operator, []batchv1.PodFailurePolicyOnExitCodesOperator{
			batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn,
		}))
	}
	if on.ContainerName != nil {
		named := func(c corev1.Container) bool { return c.Name == *on.ContainerName }
		if !slices.ContainsFunc(pod.Containers, named) && !slices.ContainsFunc(pod.InitContainers, named) {
			errs = append(errs, field.Invalid(path.Child("containerName"), *on.ContainerName, "must be one of the container or initContainer names in the pod template"))
		}
	}
	values := path.Child("values")
	switch n := len(on.Values); {
	case n == 0:
		errs = append(errs, field.Invalid(values, on.Values, "at least one value is required"))
	case n > maxJobRuleExitCodes:
		errs = append(errs, field.TooMany(values, n, maxJobRuleExitCodes))
	}
	seen := make(map[int32]bool, len(on.Values))
	for i, code := range on.Values {
		if code == 0 && on.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn {
			errs = append(errs, field.Invalid(values.Index(i), code, "must not be 0 for the In operator"))
		}
		if seen[code] {
			errs = append(errs, field.Duplicate(values.Index(i), code))
		}
		seen[code] = true
	}
	if !slices.IsSorted(on.Values) {
		errs = append(errs, field.Invalid(values, on.Values, "must be ordered"))
	}
	return errs
}

func validateFailureConditions(patterns []batchv1.PodFailurePolicyOnPodConditionsPattern, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(patterns); n > maxJobRuleConditions {
		errs = append(errs, field.TooMany(path, n, maxJobRuleConditions))
	}
	for i, pattern := range patterns {
		at := path.Index(i)
		for _, msg := range utilvalidation.IsQualifiedName(string(pattern.Type)) {
			errs = append(errs, field.Invalid(at.Child("type"), pattern.Type, msg))
		}
		switch pattern.Status {
		case corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown:
		case "":
			errs = append(errs, field.Required(at.Child("status"), `valid values: ["False" "True" "Unknown"]`))
		default:
			errs = append(errs, field.NotSupported(at.Child("status"), pattern.Status, []corev1.ConditionStatus{
				corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown,
			}))
		}
	}
	return errs
}

func validateSuccessPolicy(spec *batchv1.JobSpec, rules *field.Path) field.ErrorList {
	if spec.SuccessPolicy == nil {
		return nil
	}
	var errs field.ErrorList
	switch n := len(spec.SuccessPolicy.Rules); {
	case n == 0:
		errs = append(errs, field.Required(rules, "at least one rules must be specified when the successPolicy is specified"))
	case n > maxJobRules:
		errs = append(errs, field.TooMany(rules, n, maxJobRules))
	}
	completions := valueOf(spec.Completions)
	for i := range spec.SuccessPolicy.Rules {
		rule, at := &spec.SuccessPolicy.Rules[i], rules.Index(i)
		if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
			errs = append(errs, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
		}
		listed := completions
		if rule.SucceededIndexes != nil {
			text, where := *rule.SucceededIndexes, at.Child("succeededIndexes")
			if len(text) > maxSucceededIndexesText {
				errs = append(errs, field.TooLong(where, "", maxSucceededIndexesText))
			}
			intervals, err := parseIndexes(text, completions)
			if err != nil {
				errs = append(errs, field.Invalid(where, text, "error parsing succeededIndexes: "+err.Error()))
			}
			listed = countIndexes(intervals)
		}
		if rule.SucceededCount == nil {
			continue
		}
		where := at.Child("succeededCount")
		errs = append(errs, nonNegative(int64(*rule.SucceededCount), where)...)
		switch count := *rule.SucceededCount; {
		case count > completions:
			errs = append(errs, field.Invalid(where, count, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
		case count > listed:
			errs = append(errs, field.Invalid(where, count, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", listed)))
		}
	}
	return errs
}

// interval is a range of completion indexes, both ends included.
type interval struct{ first, last int32 }

// parseIndexes reads a list such as "1,3-5": intervals in ascending order below limit.
func parseIndexes(text string, limit int32) ([]interval, error) {
	if text == "" {
		return nil, nil
	}
	var out []interval
	for part := range strings.SplitSeq(text, ",") {
		ends := strings.Split(part, "-")
		if len(ends) > 2 {
			return nil, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
		}
		first, err := parseIndex(ends[0], limit)
		if err != nil {
			return nil, err
		}
		next := interval{first, first}
		if len(ends) == 2 {
			if next.last, err = parseIndex(ends[1], limit); err != nil {
				return nil, err
			}
			if next.last <= first {
				return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", first, next.last)
			}
		}
		if n := len(out); n > 0 && out[n-1].last >= first {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", out[n-1].last, first)
		}
		out = append(out, next)
	}
	return out, nil
}

func parseIndex(text string, limit int32) (int32, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && n >= int64(limit):
		return 0, fmt.Errorf("too large index: %q", text)
	case err != nil:
		return 0, fmt.Errorf("cannot convert string to integer for index: %q", text)
	}
	return int32(n), nil
}

func countIndexes(intervals []interval) int32 {
	var n int32
	for _, i := range intervals {
		n += i.last - i.first + 1
	}
	return n
}

// sharedIndex returns an index that both lists hold.
func sharedIndex(a, b []interval) (int32, bool) {
	for len(a) > 0 && len(b) > 0 {
		if first := max(a[0].first, b[0].first); first <= min(a[0].last, b[0].last) {
			return first, true
		}
		if a[0].last < b[0].last {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return 0, false
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	for _, part := range []struct {
		name        string
		now, before any
	}{
		{"selector", j.Spec.Selector, old.Spec.Selector}, {"completionMode", j.Spec.CompletionMode, old.Spec.CompletionMode},
		{"podFailurePolicy", j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy},
		{"backoffLimitPerIndex", j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex},
		{"managedBy", j.Spec.ManagedBy, old.Spec.ManagedBy}, {"successPolicy", j.Spec.SuccessPolicy, old.Spec.SuccessPolicy},
	} {
		errs = append(errs, validation.ValidateImmutableField(part.now, part.before, path.Child(part.name))...)
	}
	errs = append(errs, validateCompletionsUpdate(j, old, path.Child("completions"))...)
	template := j.Spec.Template.DeepCopy()
	if atRest(old) {
		redirect(template, &old.Spec.Template)
	}
	return append(errs, validation.ValidateImmutableField(template, &old.Spec.Template, path.Child("template"))...)
}

// validateCompletionsUpdate lets indexed jobs grow and shrink with their parallelism.
func validateCompletionsUpdate(j, old *batchv1.Job, path *field.Path) field.ErrorList {
	if !indexed(&j.Spec) {
		return validation.ValidateImmutableField(j.Spec.Completions, old.Spec.Completions, path)
	}
	if j.Spec.Completions == nil || apiequality.Semantic.DeepEqual(j.Spec.Completions, old.Spec.Completions) {
		return nil // none is reported by validateIndexing
	}
	if *j.Spec.Completions != valueOf(j.Spec.Parallelism) {
		return field.ErrorList{field.Invalid(path, *j.Spec.Completions, "can only be modified in tandem with spec.parallelism")}
	}
	return nil
}

// atRest tells whether a job is suspended and none of its pods are left: it has not begun,
// or its controller has confirmed the suspension.
func atRest(j *batchv1.Job) bool {
	return valueOf(j.Spec.Suspend) && j.Status.Active == 0 && (j.Status.StartTime == nil || jobCondition(j, batchv1.JobSuspended))
}

// redirect undoes the changes of a template that a job at rest may see: where its pods go
// and what they need, as queueing systems set it before they let the job begin.
func redirect(template, old *corev1.PodTemplateSpec) {
	template.Labels, template.Annotations = old.Labels, old.Annotations
	spec, before := &template.Spec, &old.Spec
	spec.NodeSelector, spec.Tolerations, spec.SchedulingGates = before.NodeSelector, before.Tolerations, before.SchedulingGates
	var affinity, affinityBefore corev1.Affinity
	if spec.Affinity != nil {
		affinity = *spec.Affinity
	}
	if before.Affinity != nil {
		affinityBefore = *before.Affinity
	}
	affinity.NodeAffinity = affinityBefore.NodeAffinity
	if apiequality.Semantic.DeepEqual(affinity, affinityBefore) {
		spec.Affinity = before.Affinity
	}
	for _, pair := range [][2][]corev1.Container{{spec.Containers, before.Containers}, {spec.InitContainers, before.InitContainers}} {
		for i := range min(len(pair[0]), len(pair[1])) {
			pair[0][i].Resources = pair[1][i].Resources
		}
	}
}

func validateJobStatusUpdate(j, old *batchv1.Job) field.ErrorList {
	path, s := field.NewPath("status"), &j.Status
	errs := validateJobCounts(j, path)
	errs = append(errs, validateJobConditions(j, path.Child("conditions"))...)
	errs = append(errs, validateJobTimes(j, path)...)
	errs = append(errs, validateJobIndexes(j, path)...)
	for _, kind := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if jobCondition(old, kind) && !jobCondition(j, kind) {
			errs = append(errs, field.Invalid(path.Child("conditions"), field.OmitValueType{}, "cannot disable the terminal "+string(kind)+"=True condition"))
		}
	}
	if jobCondition(old, batchv1.JobSuccessCriteriaMet) && !jobCondition(j, batchv1.JobSuccessCriteriaMet) {
		errs = append(errs, field.Invalid(path.Child("conditions"), field.OmitValueType{}, "cannot disable the SuccessCriteriaMet=True condition"))
	}
	if s.Failed < old.Status.Failed {
		errs = append(errs, field.Invalid(path.Child("failed"), s.Failed, "cannot decrease the failed counter"))
	}
	// An indexed job whose completions follow its parallelism may have shrunk.
	elastic := indexed(&j.Spec) && apiequality.Semantic.DeepEqual(j.Spec.Completions, j.Spec.Parallelism)
	if s.Succeeded < old.Status.Succeeded && !elastic {
		errs = append(errs, field.Invalid(path.Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter"))
	}
	if before := old.Status.CompletionTime; before != nil && s.CompletionTime != nil && !before.Equal(s.CompletionTime) {
		errs = append(errs, field.Invalid(path.Child("completionTime"), s.CompletionTime, "completionTime cannot be mutated"))
	}
	resumed := jobCondition(old, batchv1.JobSuspended) && !jobCondition(j, batchv1.JobSuspended) // its time begins anew
	if before := old.Status.StartTime; before != nil && !valueOf(j.Spec.Suspend) && !resumed && !before.Equal(s.StartTime) {
		errs = append(errs, field.Invalid(path.Child("startTime"), s.StartTime, "field is immutable for unsuspended job once set"))
	}
	return errs
}

func finished(j *batchv1.Job) bool {
	return jobCondition(j, batchv1.JobComplete) || jobCondition(j, batchv1.JobFailed)
}

func validateJobCounts(j *batchv1.Job, path *field.Path) field.ErrorList {
	s := &j.Status
	var errs field.ErrorList
	for _, count := range []replicaCount{
		{"active", s.Active}, {"succeeded", s.Succeeded}, {"failed", s.Failed},
		{"ready", valueOf(s.Ready)}, {"terminating", valueOf(s.Terminating)},
	} {
		errs = append(errs, nonNegative(int64(count.value), path.Child(count.name))...)
	}
	if s.Ready != nil && *s.Ready > s.Active {
		errs = append(errs, field.Invalid(path.Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	if finished(j) {
		if s.Active > 0 {
			errs = append(errs, field.Invalid(path.Child("active"), s.Active, "active>0 is invalid for finished job"))
		}
		if valueOf(s.Terminating) > 0 {
			errs = append(errs, field.Invalid(path.Child("terminating"), *s.Terminating, "terminating>0 is invalid for finished job"))
		}
	}
	uncounted, at := s.UncountedTerminatedPods, path.Child("uncountedTerminatedPods")
	if uncounted == nil {
		return errs
	}
	if finished(j) && len(uncounted.Succeeded)+len(uncounted.Failed) > 0 {
		errs = append(errs, field.Invalid(at, uncounted, "uncountedTerminatedPods needs to be empty for finished job"))
	}
	seen := map[string]bool{}
	for i, uid := range uncounted.Succeeded {
		errs = append(errs, validateUncounted(string(uid), seen, at.Child("succeeded").Index(i))...)
	}
	for i, uid := range uncounted.Failed {
		errs = append(errs, validateUncounted(string(uid), seen, at.Child("failed").Index(i))...)
	}
	return errs
}

func validateUncounted(uid string, seen map[string]bool, path *field.Path) field.ErrorList {
	switch {
	case uid == "":
		return field.ErrorList{field.Invalid(path, uid, "must not be empty")}
	case seen[uid]:
		return field.ErrorList{field.Duplicate(path, uid)}
	}
	seen[uid] = true
	return nil
}

// validateJobConditions refuses conditions that contradict one another. A job first meets
// its criteria of success or failure, and ends when its pods have.
func validateJobConditions(j *batchv1.Job, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	refuse := func(is bool, message string) {
		if is {
			errs = append(errs, field.Invalid(path, field.OmitValueType{}, message))
		}
	}
	complete, failed := jobCondition(j, batchv1.JobComplete), jobCondition(j, batchv1.JobFailed)
	met, target := jobCondition(j, batchv1.JobSuccessCriteriaMet), jobCondition(j, batchv1.JobFailureTarget)
	refuse(complete && failed, "cannot set Complete=True and Failed=true conditions")
	refuse(complete && target, "cannot set Complete=True and FailureTarget=true conditions")
	refuse(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions")
	refuse(met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	refuse(failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition")
	refuse(complete && !met, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	return errs
}

func validateJobTimes(j *batchv1.Job, path *field.Path) field.ErrorList {
	s, complete := &j.Status, jobCondition(j, batchv1.JobComplete)
	var errs field.ErrorList
	switch at := path.Child("completionTime"); {
	case s.CompletionTime != nil && !complete:
		errs = append(errs, field.Invalid(at, s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	case s.CompletionTime == nil && complete:
		errs = append(errs, field.Required(at, "completionTime is required for Complete jobs"))
	case s.CompletionTime != nil && s.StartTime != nil && s.CompletionTime.Before(s.StartTime):
		errs = append(errs, field.Invalid(at, s.CompletionTime, "completionTime cannot be set before startTime"))
	}
	if s.StartTime == nil && finished(j) {
		errs = append(errs, field.Required(path.Child("startTime"), "startTime is required for finished job"))
	}
	return errs
}

func validateJobIndexes(j *batchv1.Job, path *field.Path) field.ErrorList {
	s, limit := &j.Status, valueOf(j.Spec.Completions)
	at, failedAt := path.Child("completedIndexes"), path.Child("failedIndexes")
	var errs field.ErrorList
	if s.CompletedIndexes != "" && !indexed(&j.Spec) {
		errs = append(errs, field.Invalid(at, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))
	}
	if s.FailedIndexes != nil && j.Spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(failedAt, *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))
	}
	if j.Spec.Completions == nil || len(errs) > 0 {
		return errs
	}
	completed, err := parseIndexes(s.CompletedIndexes, limit)
	if err != nil {
		errs = append(errs, field.Invalid(at, s.CompletedIndexes, "error parsing completedIndexes: "+err.Error()))
	}
	failed, err := parseIndexes(valueOf(s.FailedIndexes), limit)
	if err != nil {
		errs = append(errs, field.Invalid(failedAt, *s.FailedIndexes, "error parsing failedIndexes: "+err.Error()))
	}
	if index, ok := sharedIndex(completed, failed); ok {
		errs = append(errs, field.Invalid(failedAt, *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", index)))
	}
	return errs
}
