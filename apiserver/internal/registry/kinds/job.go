package kinds

import (
	"fmt"
	"maps"
	"math"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"kijabi.dev/platform/kube/object"
)

// Labels of a job's pods from before they had a prefix. Clients still select by them.
const (
	legacyJobNameLabel       = "job-name"
	legacyControllerUIDLabel = "controller-uid"
)

const (
	defaultBackoffLimit    = 6
	unlimitedBackoffLimit  = math.MaxInt32 // each index has its own
	defaultSucceededKept   = 3
	defaultFailedKept      = 1
	defaultJobCompletions  = 1
	defaultJobParallelism  = 1
	selectableJobSuccesses = "status.successful"
)

func job() *Kind {
	kind := object.KindOf[*batchv1.Job]()
	return &Kind{
		Kind: kind, Singular: "job", Categories: []string{"all"}, Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Status", "string", "Where the job stands"),
			column("Completions", "string", "Number of succeeded pods of the wanted ones"),
			column("Duration", "string", "How long the job took or has been running"), ageColumn(),
			wide("Containers", "string", "Names of the containers"), wide("Images", "string", "Images of the containers"),
			wide("Selector", "string", "Label selector of the pods"),
		},
		Row: rowOf(func(j *batchv1.Job, now time.Time) []any {
			names, images := containersAndImages(&j.Spec.Template.Spec)
			return []any{
				j.Name, jobState(j), jobCompletions(j), jobDuration(j, now), age(j.CreationTimestamp, now),
				names, images, formatSelector(j.Spec.Selector),
			}
		}),
		SelectableFields: []string{selectableJobSuccesses},
		Fields: fieldsOf(func(j *batchv1.Job) map[string]string {
			return map[string]string{selectableJobSuccesses: fmt.Sprint(j.Status.Succeeded)}
		}),
		ValidateName: validation.NameIsDNSSubdomain,
		Default:      on(defaultJob),
		PrepareForCreate: on(func(j *batchv1.Job) {
			j.Status = batchv1.JobStatus{}
			j.Spec.Scheduling = nil
			identifyJob(j)
		}),
		PrepareForUpdate: onBoth(func(j, old *batchv1.Job) {
			j.Status = old.Status
			j.Spec.Scheduling = nil
		}),
		PrepareForStatusUpdate: onBoth(func(j, old *batchv1.Job) {
			j.Spec = old.Spec
			keepStatusMetadata(&j.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual:            specEqual(func(j *batchv1.Job) *batchv1.JobSpec { return &j.Spec }),
		Validate:             check(validateJob),
		ValidateUpdate:       checkBoth(validateJobUpdate),
		ValidateStatusUpdate: checkBoth(validateJobStatusUpdate),
		// Clients from before the garbage collector count on it; kubectl says what it wants.
		DefaultPropagation: metav1.DeletePropagationOrphan,
	}
}

func defaultJob(j *batchv1.Job) {
	spec := &j.Spec
	if spec.Completions == nil && spec.Parallelism == nil {
		spec.Completions = ptr[int32](defaultJobCompletions)
	}
	setDefaultPtr(&spec.Parallelism, defaultJobParallelism)
	if spec.BackoffLimitPerIndex != nil {
		setDefaultPtr(&spec.BackoffLimit, unlimitedBackoffLimit)
	}
	setDefaultPtr(&spec.BackoffLimit, defaultBackoffLimit)
	setDefaultPtr(&spec.CompletionMode, batchv1.NonIndexedCompletion)
	setDefaultPtr(&spec.Suspend, false)
	setDefaultPtr(&spec.ManualSelector, false)
	if spec.PodFailurePolicy != nil {
		setDefaultPtr(&spec.PodReplacementPolicy, batchv1.Failed)
	}
	setDefaultPtr(&spec.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	if len(j.Labels) == 0 {
		j.Labels = maps.Clone(spec.Template.Labels)
	}
	defaultJobTemplate(spec)
}

// defaultJobTemplate fills in what a cron job's template of jobs gets as well.
func defaultJobTemplate(spec *batchv1.JobSpec) {
	if spec.PodFailurePolicy != nil {
		for i := range spec.PodFailurePolicy.Rules {
			conditions := spec.PodFailurePolicy.Rules[i].OnPodConditions
			for j := range conditions {
				setDefault(&conditions[j].Status, corev1.ConditionTrue)
			}
		}
	}
	defaultPodSpec(&spec.Template.Spec)
}

// jobLabels tie pods to their job: by its name for people, by its uid for the selector.
func jobLabels(j *batchv1.Job) map[string]string {
	return map[string]string{
		batchv1.JobNameLabel: j.Name, legacyJobNameLabel: j.Name,
		batchv1.ControllerUidLabel: string(j.UID), legacyControllerUIDLabel: string(j.UID),
	}
}

// identifyJob generates selector and labels unless the client manages them itself. What
// the client has set stays, for validation to refuse.
func identifyJob(j *batchv1.Job) {
	if valueOf(j.Spec.ManualSelector) {
		return
	}
	template := &j.Spec.Template
	inherited := maps.Equal(j.Labels, template.Labels)
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	for key, value := range jobLabels(j) {
		if _, set := template.Labels[key]; !set {
			template.Labels[key] = value
		}
	}
	if inherited {
		j.Labels = maps.Clone(template.Labels)
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if _, set := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; set {
		return
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
}

// jobCondition tells whether a condition of a job is true.
func jobCondition(j *batchv1.Job, kind batchv1.JobConditionType) bool {
	for i := range j.Status.Conditions {
		if c := &j.Status.Conditions[i]; c.Type == kind && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

func jobState(j *batchv1.Job) string {
	for _, final := range [...]batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if jobCondition(j, final) {
			return string(final)
		}
	}
	if j.DeletionTimestamp != nil {
		return "Terminating"
	}
	for _, state := range [...]batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if jobCondition(j, state) {
			return string(state)
		}
	}
	return "Running"
}

func jobCompletions(j *batchv1.Job) string {
	switch parallelism := valueOf(j.Spec.Parallelism); {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case parallelism > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job, now time.Time) string {
	if j.Status.StartTime == nil {
		return ""
	}
	end := now
	if j.Status.CompletionTime != nil {
		end = j.Status.CompletionTime.Time
	}
	return duration.HumanDuration(end.Sub(j.Status.StartTime.Time))
}
