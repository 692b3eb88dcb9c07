package kinds

import (
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kijabi.dev/platform/kube/object"
)

// Events are stored once, as core/v1; events.k8s.io/v1 shows the same objects.
func event() *Kind {
	return &Kind{
		Kind: object.KindOf[*corev1.Event](), Singular: "event", ShortNames: []string{"ev"}, Verbs: standardVerbs(),
		Ephemeral: true,
		Columns:   eventColumns(),
		Row:       rowOf(eventRow),
		SelectableFields: []string{
			"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
			"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
			"reason", "reportingComponent", "source", "type",
		},
		Fields:       fieldsOf(eventFields),
		ValidateName: validation.NameIsDNSSubdomain,
		Validate:     check(validateEvent),
	}
}

func newEvent(stored *Kind) *Kind {
	return &Kind{
		Kind: object.KindOf[*eventsv1.Event](), Singular: "event", ShortNames: []string{"ev"}, Verbs: standardVerbs(),
		Ephemeral: true,
		StoredAs:  stored,
		ToStored:  func(obj object.Object) object.Object { return eventToCore(obj.(*eventsv1.Event)) },
		FromStored: func(obj object.Object) object.Object {
			return eventFromCore(obj.(*corev1.Event))
		},
		Columns: eventColumns(),
		Row: rowOf(func(e *eventsv1.Event, now time.Time) []any {
			return eventRow(eventToCore(e), now)
		}),
		SelectableFields: []string{
			"regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "regarding.apiVersion",
			"regarding.resourceVersion", "regarding.fieldPath", "reason", "reportingController", "type",
		},
		Fields:         fieldsOf(func(e *eventsv1.Event) map[string]string { return eventFields(eventToCore(e)) }),
		ValidateName:   validation.NameIsDNSSubdomain,
		Validate:       check(validateNewEvent),
		ValidateUpdate: checkBoth(validateNewEventUpdate),
	}
}

func eventFields(e *corev1.Event) map[string]string {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	set := map[string]string{}
	for key, value := range map[string]string{
		"involvedObject.kind": e.InvolvedObject.Kind, "involvedObject.namespace": e.InvolvedObject.Namespace,
		"involvedObject.name": e.InvolvedObject.Name, "involvedObject.uid": string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason, "reportingComponent": e.ReportingController, "source": source, "type": e.Type,
	} {
		if value != "" {
			set[key] = value
		}
	}
	return set
}

// EventField translates a field selector's field of events.k8s.io to the stored one.
func EventField(name string) string {
	if rest, ok := strings.CutPrefix(name, "regarding."); ok {
		return "involvedObject." + rest
	}
	if name == "reportingController" {
		return "reportingComponent"
	}
	return name
}

func validateEvent(e *corev1.Event) field.ErrorList {
	involved := field.NewPath("involvedObject", "namespace")
	if e.InvolvedObject.Namespace == "" {
		// Events about cluster-scoped objects are kept in default.
		if e.Namespace != metav1.NamespaceNone && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
			return field.ErrorList{field.Invalid(involved, e.InvolvedObject.Namespace, "does not match event.namespace")}
		}
	} else if e.Namespace != e.InvolvedObject.Namespace {
		return field.ErrorList{field.Invalid(involved, e.InvolvedObject.Namespace, "does not match event.namespace")}
	}
	return nil
}

const (
	eventReasonLimit = 128
	eventNoteLimit   = 1024
)

func validateNewEvent(e *eventsv1.Event) field.ErrorList {
	errs := field.ErrorList{}
	for _, err := range validateEvent(eventToCore(e)) {
		err.Field = "regarding.namespace"
		errs = append(errs, err)
	}
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
		return errs
	}
	if e.ReportingController == "" {
		errs = append(errs, field.Required(field.NewPath("reportingController"), ""))
	} else {
		for _, msg := range utilvalidation.IsQualifiedName(e.ReportingController) {
			errs = append(errs, field.Invalid(field.NewPath("reportingController"), e.ReportingController, msg))
		}
	}
	errs = append(errs, validateEventText(e.ReportingInstance, eventReasonLimit, field.NewPath("reportingInstance"))...)
	errs = append(errs, validateEventText(e.Action, eventReasonLimit, field.NewPath("action"))...)
	errs = append(errs, validateEventText(e.Reason, eventReasonLimit, field.NewPath("reason"))...)
	if len(e.Note) > eventNoteLimit {
		errs = append(errs, field.Invalid(field.NewPath("note"), "", "can have at most 1024 characters"))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), e.Type, "has invalid value"))
	}
	if e.Series != nil {
		if e.Series.Count < 2 {
			errs = append(errs, field.Invalid(field.NewPath("series", "count"), e.Series.Count, "should be at least 2"))
		}
		if e.Series.LastObservedTime.IsZero() {
			errs = append(errs, field.Required(field.NewPath("series", "lastObservedTime"), ""))
		}
	}
	return errs
}

func validateEventText(value string, limit int, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(value) > limit {
		return field.ErrorList{field.Invalid(path, "", "can have at most "+strconv.Itoa(limit)+" characters")}
	}
	return nil
}

// What an event reports does not change; only its series goes on.
func validateNewEventUpdate(e, old *eventsv1.Event) field.ErrorList {
	if old.EventTime.IsZero() {
		return nil // written through core/v1, where updates are free
	}
	var errs field.ErrorList
	same := func(value, before any, name string) {
		errs = append(errs, validation.ValidateImmutableField(value, before, field.NewPath(name))...)
	}
	same(e.Regarding, old.Regarding, "regarding")
	same(e.Related, old.Related, "related")
	same(e.Reason, old.Reason, "reason")
	same(e.Note, old.Note, "note")
	same(e.Type, old.Type, "type")
	same(e.ReportingController, old.ReportingController, "reportingController")
	same(e.ReportingInstance, old.ReportingInstance, "reportingInstance")
	same(e.Action, old.Action, "action")
	same(e.EventTime.UnixMicro(), old.EventTime.UnixMicro(), "eventTime")
	return errs
}

func eventToCore(e *eventsv1.Event) *corev1.Event {
	out := &corev1.Event{
		ObjectMeta: e.ObjectMeta, InvolvedObject: e.Regarding, Reason: e.Reason, Message: e.Note,
		Source: e.DeprecatedSource, FirstTimestamp: e.DeprecatedFirstTimestamp, LastTimestamp: e.DeprecatedLastTimestamp,
		Count: e.DeprecatedCount, Type: e.Type, EventTime: e.EventTime, Action: e.Action, Related: e.Related,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
	}
	if e.Series != nil {
		out.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	out.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Event"))
	return out
}

func eventFromCore(e *corev1.Event) *eventsv1.Event {
	out := &eventsv1.Event{
		ObjectMeta: e.ObjectMeta, Regarding: e.InvolvedObject, Reason: e.Reason, Note: e.Message,
		DeprecatedSource: e.Source, DeprecatedFirstTimestamp: e.FirstTimestamp, DeprecatedLastTimestamp: e.LastTimestamp,
		DeprecatedCount: e.Count, Type: e.Type, EventTime: e.EventTime, Action: e.Action, Related: e.Related,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
	}
	if e.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	out.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
	return out
}

func eventColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		column("Last Seen", "string", "Time since the event was last seen"),
		column("Type", "string", "Normal or Warning"),
		column("Reason", "string", "Short, machine understandable reason"),
		column("Object", "string", "What the event is about"),
		wide("Subobject", "string", "Part of the object the event is about"),
		wide("Source", "string", "Component that reported the event"),
		column("Message", "string", "Human-readable description"),
		wide("First Seen", "string", "Time since the event was first seen"),
		wide("Count", "string", "How often the event occurred"),
		{Name: "Name", Type: "string", Format: "name", Description: "Unique name of the event", Priority: 1},
	}
}

func eventRow(e *corev1.Event, now time.Time) []any {
	first := age(e.FirstTimestamp, now)
	if e.FirstTimestamp.IsZero() {
		first = age(metav1.Time{Time: e.EventTime.Time}, now)
	}
	last, count := first, int64(1)
	switch {
	case e.Series != nil:
		last, count = age(metav1.Time{Time: e.Series.LastObservedTime.Time}, now), int64(e.Series.Count)
	case !e.LastTimestamp.IsZero():
		last, count = age(e.LastTimestamp, now), max(int64(e.Count), 1)
	}
	target := e.InvolvedObject.Name
	if e.InvolvedObject.Kind != "" {
		target = strings.ToLower(e.InvolvedObject.Kind) + "/" + target
	}
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	host := e.Source.Host
	if host == "" {
		host = e.ReportingInstance
	}
	if host != "" {
		source += ", " + host
	}
	return []any{last, e.Type, e.Reason, target, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), first, count, e.Name}
}
