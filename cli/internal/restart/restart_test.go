package restart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// cluster restarts pods of one container in synthetic time.
type cluster struct {
	t    *testing.T
	pods map[string]*life
	said []string
}

// life is a pod: what it becomes is a function of the time since it was restarted.
type life struct {
	pod      corev1.Pod
	restarts []time.Time
	become   func(since time.Duration, pod *corev1.Pod)
}

var names = []string{"web-0", "web-1", "web-2", "web-10"}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, pods: map[string]*life{}}
	for _, name := range names {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)}}
		show(&p, "old", true)
		c.pods[name] = &life{pod: p, become: func(since time.Duration, pod *corev1.Pod) {
			show(pod, "new", since > 3*time.Second)
		}}
	}
	return c
}

func show(pod *corev1.Pod, id string, ready bool) {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", ContainerID: id, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
}

func (c *cluster) Pods(_ context.Context, _, _, _ string) ([]corev1.Pod, error) {
	var all []corev1.Pod
	for _, name := range names {
		all = append(all, c.pods[name].pod)
	}
	return all, nil
}

func (c *cluster) Pod(_ context.Context, _, name string) (*corev1.Pod, error) {
	l, ok := c.pods[name]
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	pod := l.pod.DeepCopy()
	if len(l.restarts) > 0 {
		l.become(time.Since(l.restarts[len(l.restarts)-1]), pod)
	}
	return pod, nil
}

func (c *cluster) Restart(ctx context.Context, namespace, name string, _ []string) (map[string]string, error) {
	for other, l := range c.pods {
		if now, err := c.Pod(ctx, namespace, other); other != name && len(l.restarts) > 0 && err == nil && !ready(now) {
			c.t.Errorf("%s is restarted while %s is not ready", name, other)
		}
	}
	c.said = append(c.said, name)
	c.pods[name].restarts = append(c.pods[name].restarts, time.Now())
	return map[string]string{"c": "old"}, nil
}

func (c *cluster) run(target string) error {
	return Run(c.t.Context(), Options{
		Cluster: c, Namespace: "ns", Target: target, Timeout: time.Minute, Say: func(string, ...any) {}, Clock: clock.RealClock{},
	})
}

func TestOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		show(&c.pods["web-1"].pod, "old", false)
		if err := c.run("sts/web"); err != nil {
			t.Fatal(err)
		}
		if want := []string{"web-1", "web-10", "web-2", "web-0"}; !slices.Equal(c.said, want) {
			t.Errorf("order %v, want %v", c.said, want)
		}
	})
}

func TestFirstThatFailsIsTheLast(t *testing.T) {
	crash := func(since time.Duration, pod *corev1.Pod) {
		show(pod, fmt.Sprintf("new-%d", since/time.Second), false)
		pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
		pod.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error", Message: "no database"}
	}
	for name, row := range map[string]struct {
		become func(time.Duration, *corev1.Pod)
		want   string
	}{
		"crashes":       {crash, "pod web-10 does not come up: container c ended again with code 3: Error no database; 3 of 4 pods of deployment web were not restarted"},
		"not ready":     {func(_ time.Duration, p *corev1.Pod) { show(p, "new", false) }, "pod web-10 is not ready after 1m0s: its containers run, but it is not ready; 3 of 4"},
		"does not end":  {func(_ time.Duration, p *corev1.Pod) { show(p, "old", true) }, "container c has not ended yet"},
		"is replaced":   {func(_ time.Duration, p *corev1.Pod) { p.UID = "other" }, "it is another pod now"},
		"is going away": {func(_ time.Duration, p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, "it is another pod now"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				c.pods["web-10"].become = row.become
				err := c.run("deployment/web")
				if err == nil || !strings.Contains(err.Error(), row.want) {
					t.Errorf("error %v, want %s", err, row.want)
				}
				if len(c.said) != 1 {
					t.Errorf("restarted %v", c.said)
				}
			})
		})
	}
}

func TestTargets(t *testing.T) {
	for target, want := range map[string]string{
		"p": "pod p", "pod/p": "pod p", "deploy/d": "deployment d", "statefulset/s": "statefulset s", "ds/d": "daemonset d",
	} {
		kind, name, err := parse(target)
		if err != nil || kind+" "+name != want {
			t.Errorf("%s: %s %s %v", target, kind, name, err)
		}
	}
	if _, _, err := parse("job/j"); err == nil {
		t.Error("a job was accepted")
	}
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		if err := c.run("none"); !apierrors.IsNotFound(err) {
			t.Errorf("no pod: %v", err)
		}
		c.pods["web-0"].become = func(since time.Duration, pod *corev1.Pod) {
			if since > time.Second {
				delete(c.pods, "web-0")
			}
			show(pod, "new", false)
		}
		if err := c.run("web-0"); err == nil || !strings.Contains(err.Error(), "was deleted while it restarted") {
			t.Errorf("deleted: %v", err)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Run(cancelled, Options{
			Cluster: c, Namespace: "ns", Target: "web-1", Timeout: time.Minute, Say: func(string, ...any) {}, Clock: clock.RealClock{},
		}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}
