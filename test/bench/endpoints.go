package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

const (
	endpointPods    = 100
	endpointChanges = 200
)

// endpointDelay makes one of a Service's pods unready and ready in turn, and times until its
// slice says so; the floor is the same write seen by a watch of pods.
func (c *cluster) endpointDelay(ctx context.Context, f *fleet) error {
	const ns, image = "endpoints", "registry.kijabi.dev/web:1"
	if err := f.namespace(ctx, ns); err != nil {
		return err
	}
	deployment := hollowDeployment(ns, "web", endpointPods)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: deployment.Spec.Selector.MatchLabels, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if _, err := f.api.Create(ctx, service); err != nil {
		return err
	}
	if _, err := f.api.Create(ctx, deployment); err != nil {
		return err
	}
	if _, err := f.timed(ctx, time.Now(), "all pods run", running(ns, image, endpointPods)); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	published := follow(watching, f.api, ns, func(slice *discoveryv1.EndpointSlice, states map[string]bool) {
		for _, endpoint := range slice.Endpoints {
			if endpoint.TargetRef != nil {
				states[endpoint.TargetRef.Name] = ptr.Deref(endpoint.Conditions.Ready, false)
			}
		}
	})
	pods := follow(watching, f.api, ns, func(pod *corev1.Pod, states map[string]bool) { states[pod.Name] = ready(pod) })
	f.mu.Lock()
	var victim *corev1.Pod
	for _, pod := range f.pods {
		if pod.Namespace == ns {
			victim = pod
		}
	}
	f.mu.Unlock()
	if err := published.until(ctx, victim.Name, true); err != nil {
		return err
	}
	f.leaveAlone(victim.UID) // a hollow kubelet would make it ready again
	var took, floor []time.Duration
	for i := range endpointChanges {
		state := i%2 == 1
		status := corev1.ConditionFalse
		if state {
			status = corev1.ConditionTrue
		}
		patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":%q}]}}`, status)
		began := time.Now()
		if _, err := f.api.Patch(ctx, victim, types.StrategicMergePatchType, []byte(patch), "status"); err != nil {
			return err
		}
		if err := pods.until(ctx, victim.Name, state); err != nil {
			return err
		}
		floor = append(floor, time.Since(began))
		if err := published.until(ctx, victim.Name, state); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	for _, q := range []struct {
		name, goal string
		at         float64
	}{{"p50", "", 0.5}, {"p99", "≤ 50 ms", 0.99}} {
		a, b := quantile(took, q.at), quantile(floor, q.at)
		c.table.add(row{
			what:   fmt.Sprintf("a pod's readiness → its slice of %d, %d changes, %s", endpointPods, endpointChanges, q.name),
			figure: milliseconds(a), floor: "a watch of pods " + milliseconds(b), ratio: ratio(float64(a), float64(b)), goal: q.goal,
		})
	}
	return nil
}

// states follows something of objects that is either so or not, by name.
type states struct {
	changes chan map[string]bool
	failed  chan error
	now     map[string]bool
}

func follow[T interface {
	*corev1.Pod | *discoveryv1.EndpointSlice
	object.Object
}](ctx context.Context, api *client.Client, ns string, of func(T, map[string]bool)) *states {
	s := &states{changes: make(chan map[string]bool, 1024), failed: make(chan error, 1), now: map[string]bool{}}
	go func() {
		for message, err := range client.Watch[T](ctx, api, client.WatchOptions{Namespace: ns, SendInitialEvents: true}) {
			if err != nil {
				s.failed <- err
				return
			}
			changed := map[string]bool{}
			for _, event := range message.Events {
				of(event.Object, changed)
			}
			select {
			case s.changes <- changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

func (s *states) until(ctx context.Context, name string, want bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		if have, known := s.now[name]; known && have == want {
			return nil
		}
		select {
		case changed := <-s.changes:
			for key, value := range changed {
				s.now[key] = value
			}
		case err := <-s.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%s does not turn to %t: %w", name, want, ctx.Err())
		}
	}
}
