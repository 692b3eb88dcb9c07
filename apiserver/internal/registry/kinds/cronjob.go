package kinds

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // schedules name time zones, and a machine may have no data of its own

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// maxCronJobName leaves room for the "-" and the ten digits that a cron job's controller
// appends to the names of its jobs, which end up in labels of 63 characters.
const maxCronJobName = 52

func cronJob() *Kind {
	kind := object.KindOf[*batchv1.CronJob]()
	return &Kind{
		Kind: kind, Singular: "cronjob", ShortNames: []string{"cj"}, Categories: []string{"all"}, Verbs: standardVerbs(),
		Subresources: []Subresource{statusSubresource(kind)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Schedule", "string", "When jobs are made"), column("Timezone", "string", "Time zone of the schedule"),
			column("Suspend", "boolean", "Whether no jobs are made for now"), column("Active", "integer", "Number of running jobs"),
			column("Last Schedule", "string", "Time since a job was last made"), ageColumn(),
			wide("Containers", "string", "Names of the containers"), wide("Images", "string", "Images of the containers"),
			wide("Selector", "string", "Label selector of the pods"),
		},
		Row:          rowOf(cronJobRow),
		ValidateName: validateCronJobName,
		Default: on(func(c *batchv1.CronJob) {
			setDefault(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
			setDefaultPtr(&c.Spec.Suspend, false)
			setDefaultPtr(&c.Spec.SuccessfulJobsHistoryLimit, defaultSucceededKept)
			setDefaultPtr(&c.Spec.FailedJobsHistoryLimit, defaultFailedKept)
			defaultJobTemplate(&c.Spec.JobTemplate.Spec)
		}),
		PrepareForCreate: on(func(c *batchv1.CronJob) {
			c.Status = batchv1.CronJobStatus{}
			c.Spec.JobTemplate.Spec.Scheduling = nil
		}),
		PrepareForUpdate: onBoth(func(c, old *batchv1.CronJob) {
			c.Status = old.Status
			c.Spec.JobTemplate.Spec.Scheduling = nil
		}),
		PrepareForStatusUpdate: onBoth(func(c, old *batchv1.CronJob) {
			c.Spec = old.Spec
			keepStatusMetadata(&c.ObjectMeta, &old.ObjectMeta, false)
		}),
		SpecEqual:            specEqual(func(c *batchv1.CronJob) *batchv1.CronJobSpec { return &c.Spec }),
		Validate:             check(validateCronJob),
		ValidateStatusUpdate: checkBoth(func(_, _ *batchv1.CronJob) field.ErrorList { return nil }),
	}
}

func cronJobRow(c *batchv1.CronJob, now time.Time) []any {
	names, images := containersAndImages(&c.Spec.JobTemplate.Spec.Template.Spec)
	suspend := "<unset>"
	if c.Spec.Suspend != nil {
		suspend = "False"
		if *c.Spec.Suspend {
			suspend = "True"
		}
	}
	last := "<none>"
	if c.Status.LastScheduleTime != nil {
		last = age(*c.Status.LastScheduleTime, now)
	}
	return []any{
		c.Name, c.Spec.Schedule, orNone(valueOf(c.Spec.TimeZone)), suspend, int64(len(c.Status.Active)), last, age(c.CreationTimestamp, now),
		names, images, formatSelector(c.Spec.JobTemplate.Spec.Selector),
	}
}

func validateCronJobName(name string, prefix bool) []string {
	messages := validation.NameIsDNSSubdomain(name, prefix)
	if !prefix && len(name) > maxCronJobName {
		messages = append(messages, fmt.Sprintf("must be no more than %d characters", maxCronJobName))
	}
	return messages
}

func validateCronJob(c *batchv1.CronJob) field.ErrorList {
	path, spec := field.NewPath("spec"), &c.Spec
	errs := validateSchedule(spec.Schedule, path.Child("schedule"))
	errs = append(errs, validateTimeZone(spec.TimeZone, path.Child("timeZone"))...)
	errs = append(errs, nonNegative(valueOf(spec.StartingDeadlineSeconds), path.Child("startingDeadlineSeconds"))...)
	errs = append(errs, nonNegative(int64(valueOf(spec.SuccessfulJobsHistoryLimit)), path.Child("successfulJobsHistoryLimit"))...)
	errs = append(errs, nonNegative(int64(valueOf(spec.FailedJobsHistoryLimit)), path.Child("failedJobsHistoryLimit"))...)
	switch spec.ConcurrencyPolicy {
	case batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent:
	default:
		errs = append(errs, field.NotSupported(path.Child("concurrencyPolicy"), spec.ConcurrencyPolicy, []batchv1.ConcurrencyPolicy{
			batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent,
		}))
	}
	template, at := &spec.JobTemplate.Spec, path.Child("jobTemplate", "spec")
	errs = append(errs, validateJobSpec(template, at)...)
	if template.Selector != nil {
		errs = append(errs, field.Invalid(at.Child("selector"), template.Selector, "`selector` will be auto-generated"))
	}
	if valueOf(template.ManualSelector) {
		errs = append(errs, field.NotSupported(at.Child("manualSelector"), "true", []string{"nil", "false"}))
	}
	return errs
}

func validateSchedule(schedule string, path *field.Path) field.ErrorList {
	if schedule == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if strings.Contains(schedule, "TZ") {
		return field.ErrorList{field.Invalid(path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")}
	}
	if _, err := cron.ParseStandard(schedule); err != nil {
		return field.ErrorList{field.Invalid(path, schedule, err.Error())}
	}
	return nil
}

// timeZonePart matches what a part of a zone's name may be; see the naming rules at
// https://data.iana.org/time-zones/theory.html.
var timeZonePart = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z._0-9+][A-Za-z._0-9+-]{0,13}$`) })

func validateTimeZone(zone *string, path *field.Path) field.ErrorList {
	switch {
	case zone == nil:
		return nil
	case *zone == "":
		return field.ErrorList{field.Invalid(path, *zone, "timeZone must be nil or non-empty string")}
	case strings.EqualFold(*zone, "Local"):
		return field.ErrorList{field.Invalid(path, *zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")}
	}
	for part := range strings.SplitSeq(*zone, "/") {
		if part == "." || part == ".." || !timeZonePart().MatchString(part) {
			return field.ErrorList{field.Invalid(path, *zone, "unknown time zone "+*zone)}
		}
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		return field.ErrorList{field.Invalid(path, *zone, err.Error())}
	}
	return nil
}
