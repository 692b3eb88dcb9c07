package app

import (
	"go.uber.org/zap"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/events"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
)

// voices record events under the names that users know from Kubernetes.
type voices struct {
	api   *client.Client
	clock clock.Clock
	log   *zap.Logger
	tasks []lifecycle.Task // what has to run for the events to be written
}

// as returns how a loop tells of events under a name.
func (v *voices) as(component string) func(about object.Object, severity, reason, message string) {
	recorder := events.New(events.Config{Writer: v.api, Component: component, Clock: v.clock, Log: v.log})
	v.tasks = append(v.tasks, recorder.Run)
	return recorder.Record
}
