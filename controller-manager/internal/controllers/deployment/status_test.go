package deployment

import (
	"math"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func TestProgressDeadline(t *testing.T) {
	w := newWorld(deployment(1, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	w.step()
	w.run(0)
	w.step()
	p := w.plan(now.Add(599 * time.Second))
	if c := condition(p.status.Conditions, appsv1.DeploymentProgressing); c.Status != corev1.ConditionTrue || p.requeueAfter <= 0 {
		t.Errorf("before the deadline: %+v, again in %s", c, p.requeueAfter)
	}
	p = w.plan(now.Add(601 * time.Second))
	if c := condition(p.status.Conditions, appsv1.DeploymentProgressing); c.Status != corev1.ConditionFalse || c.Reason != reasonTimedOut {
		t.Errorf("after the deadline: %+v", c)
	}
}

func TestProgressCondition(t *testing.T) {
	w := newWorld(deployment(2, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	progressing := func() string {
		c := condition(w.d.Status.Conditions, appsv1.DeploymentProgressing)
		if c == nil {
			return "none"
		}
		return string(c.Status) + " " + c.Reason
	}
	is := func(want string) {
		t.Helper()
		if have := progressing(); have != want {
			t.Errorf("Progressing is %s, want %s", have, want)
		}
	}
	w.step()
	is("True NewReplicaSetCreated")
	w.run(1)
	w.step()
	is("True ReplicaSetUpdated")
	w.settle(t)
	is("True NewReplicaSetAvailable")
	// A pod that is lost later is no failure of the rollout.
	w.run(1)
	w.d.Status = w.plan(now.Add(time.Hour)).status
	is("True NewReplicaSetAvailable")
	w.d.Spec.Paused = true
	w.step()
	is("Unknown DeploymentPaused")
	if p := w.plan(now.Add(time.Hour)); p.requeueAfter != 0 {
		t.Error("a paused deployment has a deadline")
	}
	w.d.Spec.Paused = false
	w.step()
	is("Unknown DeploymentResumed")
	w.settle(t)
	w.step()
	is("True NewReplicaSetAvailable")
	w.d.Spec.ProgressDeadlineSeconds = ptr.To[int32](math.MaxInt32)
	w.step()
	is("none")
	w.d.Spec.ProgressDeadlineSeconds = ptr.To[int32](600)
	w.run(0)
	w.step()
	is("True FoundNewReplicaSet")
	w.d.Status = w.plan(now.Add(601 * time.Second)).status
	is("False ProgressDeadlineExceeded")
	w.d.Spec.Paused = true
	w.step()
	is("False ProgressDeadlineExceeded")
}

func TestFailuresOfSetsAreShown(t *testing.T) {
	w := newWorld(deployment(2, "one", intstr.FromInt32(1), intstr.FromInt32(0)))
	w.settle(t)
	set := w.list()[0]
	set.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "quota"}}
	set.Status.TerminatingReplicas = ptr.To[int32](3)
	w.step()
	c := condition(w.d.Status.Conditions, appsv1.DeploymentReplicaFailure)
	if c == nil || c.Reason != "FailedCreate" || c.Message != "quota" || ptr.Deref(w.d.Status.TerminatingReplicas, 0) != 3 {
		t.Errorf("status %+v", w.d.Status)
	}
	w.list()[0].Status.Conditions = nil
	if w.step(); condition(w.d.Status.Conditions, appsv1.DeploymentReplicaFailure) != nil {
		t.Error("the failure stays")
	}
}
