package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

const (
	hollowNodes = 1000
	manyPods    = 5000
	loopsWait   = 2 * time.Minute
)

// measureLoops gives the scheduler and the loops much to do on hollow nodes. The floor is
// the writes alone: as many pods created, bound and posted by one client that already knows
// everything, in transactions as large.
func measureLoops(ctx context.Context, b *bench) error {
	return b.withFleet(ctx, 1, func(c *cluster, f *fleet) error {
		r := &loopsRun{cluster: c, fleet: f}
		if err := r.all(ctx); err != nil {
			return err
		}
		return c.endpointDelay(ctx, f)
	})
}

// measureLoopsFailover is the same with three masters, of which the leader's machine is killed
// in the middle of everything.
func measureLoopsFailover(ctx context.Context, b *bench) error {
	return b.withFleet(ctx, 3, func(c *cluster, f *fleet) error {
		r := &loopsRun{cluster: c, fleet: f, kills: true}
		return r.all(ctx)
	})
}

// loopsRun is one run over everything that loops are given to do.
type loopsRun struct {
	*cluster
	*fleet

	floor time.Duration // of manyPods
	kills bool          // the leader's machine is killed in the middle
	dead  string        // the machine that was
}

func (r *loopsRun) all(ctx context.Context) error {
	var err error
	if r.floor, err = r.bareWrites(ctx); err != nil {
		return err
	}
	for _, task := range []func(context.Context) error{r.scaleRollDelete, r.manyDeployments, r.manyJobs} {
		if err := task(ctx); err != nil {
			return err
		}
	}
	return nil
}

// midway kills the leader's machine once a condition holds, if that is to be.
func (r *loopsRun) midway(ctx context.Context, holds func(pods map[types.UID]*corev1.Pod) bool) error {
	if !r.kills {
		return nil
	}
	leader, err := r.leader(ctx)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, loopsWait)
	defer cancel()
	if err := r.until(waiting, "the middle", holds); err != nil {
		return err
	}
	r.dead = leader
	_, err = r.kijabi(ctx, "machine", "kill", "--name", clusterName, leader)
	return err
}

// mend brings the machine back that was killed.
func (r *loopsRun) mend(ctx context.Context) error {
	if r.dead == "" {
		return nil
	}
	if _, err := r.kijabi(ctx, "machine", "start", "--name", clusterName, r.dead); err != nil {
		return err
	}
	r.dead = ""
	_, err := r.awaitWhole(ctx)
	return err
}

// report adds a figure, and mends.
func (r *loopsRun) report(ctx context.Context, what string, took time.Duration, goal string) error {
	if r.kills {
		what, goal = what+"; the leader's machine killed midway", ""
	}
	r.table.add(row{what: what, figure: milliseconds(took), floor: fmt.Sprintf("%d pods' writes alone %s", manyPods, milliseconds(r.floor)), ratio: ratio(float64(took), float64(r.floor)), goal: goal})
	return r.mend(ctx)
}

// withFleet starts masters and hollow nodes.
func (b *bench) withFleet(ctx context.Context, masters int, task func(*cluster, *fleet) error) error {
	return b.withCluster(ctx, masters, 0, func(c *cluster) (err error) {
		conn, err := c.failover()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		running, cancel := context.WithCancel(ctx)
		defer cancel()
		moved := make(chan error, 1)
		go func() { moved <- conn.Run(running) }()
		f, stop, err := newFleet(running, client.New(conn), hollowNodes)
		if err != nil {
			return err
		}
		err = task(c, f)
		err = errors.Join(err, stop())
		cancel()
		return errors.Join(err, <-moved)
	})
}

// namespace makes one; emptied deletes it and returns how long that took.
func (f *fleet) namespace(ctx context.Context, name string) error {
	_, err := f.api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return err
}

func (r *loopsRun) emptied(ctx context.Context, name string) (time.Duration, error) {
	half := r.there() / 2
	ctx, cancel := context.WithTimeout(ctx, loopsWait)
	defer cancel()
	began := time.Now()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := r.api.Delete(ctx, namespace, client.DeleteOptions{}); err != nil {
		return 0, err
	}
	if err := r.midway(ctx, func(pods map[types.UID]*corev1.Pod) bool { return len(pods) <= half }); err != nil {
		return 0, err
	}
	for {
		have, err := client.Get[*corev1.Namespace](ctx, r.api, object.KeyOf(namespace))
		if apierrors.IsNotFound(err) {
			return time.Since(began), nil
		}
		if err != nil && !r.kills {
			return 0, err
		}
		if pauseErr := pause(ctx, 10*time.Millisecond); pauseErr != nil {
			return 0, errors.Join(fmt.Errorf("namespace %s: %w; its conditions: %v", name, pauseErr, have), err)
		}
	}
}

func hollowTemplate(app, image string) corev1.PodTemplateSpec {
	zero := int64(0)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{hollowLabel: "yes"}, TerminationGracePeriodSeconds: &zero,
			Containers: []corev1.Container{{Name: "main", Image: image}},
		},
	}
}

func hollowDeployment(namespace, name string, replicas int32) *appsv1.Deployment {
	template := hollowTemplate(name, "registry.kijabi.dev/web:1")
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template},
	}
}

// running says whether exactly n pods of an image are in a namespace, and all Ready.
func running(namespace, image string, n int) func(map[types.UID]*corev1.Pod) bool {
	return func(pods map[types.UID]*corev1.Pod) bool {
		there, up := 0, 0
		for _, pod := range pods {
			if pod.Namespace != namespace {
				continue
			}
			there++
			if pod.Spec.Containers[0].Image == image && ready(pod) {
				up++
			}
		}
		return there == n && up == n
	}
}

// bareWrites is the floor of a scale-up.
func (r *loopsRun) bareWrites(ctx context.Context) (time.Duration, error) {
	if err := r.namespace(ctx, "floor"); err != nil {
		return 0, err
	}
	began := time.Now()
	var creates, binds []client.Op
	template := hollowTemplate("floor", "registry.kijabi.dev/web:1")
	for i := range manyPods {
		pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		pod.Namespace, pod.Name = "floor", fmt.Sprintf("floor-%05d", i)
		pod.Spec.SchedulerName = "nobody" // bound below
		creates = append(creates, client.CreateOp(pod))
		binds = append(binds, client.BindOp(object.KeyOf(pod), "", r.nodes[i%len(r.nodes)]))
	}
	if err := r.write(ctx, creates); err != nil {
		return 0, err
	}
	if err := r.write(ctx, binds); err != nil {
		return 0, err
	}
	waiting, cancel := context.WithTimeout(ctx, loopsWait)
	defer cancel()
	if err := r.until(waiting, "bare pods run", running("floor", "registry.kijabi.dev/web:1", manyPods)); err != nil {
		return 0, err
	}
	took := time.Since(began)
	kills := r.kills
	r.kills = false
	_, err := r.emptied(ctx, "floor")
	r.kills = kills
	return took, err
}

// timed waits for a condition and returns how long it took since began.
func (f *fleet) timed(ctx context.Context, began time.Time, what string, holds func(map[types.UID]*corev1.Pod) bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, loopsWait)
	defer cancel()
	if err := f.until(ctx, what, holds); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

func (r *loopsRun) scaleRollDelete(ctx context.Context) error {
	const ns, old, young = "scale", "registry.kijabi.dev/web:1", "registry.kijabi.dev/web:2"
	if err := r.namespace(ctx, ns); err != nil {
		return err
	}
	web := hollowDeployment(ns, "web", 0)
	if _, err := r.api.Create(ctx, web); err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	before := r.total()
	began := time.Now()
	if err := r.api.Scale(ctx, web, manyPods); err != nil {
		return err
	}
	if err := r.midway(ctx, func(map[types.UID]*corev1.Pod) bool { return r.seen-before >= manyPods/3 }); err != nil {
		return err
	}
	created, err := r.timed(ctx, began, "all pods exist", func(map[types.UID]*corev1.Pod) bool { return r.seen-before >= manyPods })
	if err != nil {
		return err
	}
	took, err := r.timed(ctx, began, "all pods run", running(ns, old, manyPods))
	if err != nil {
		return err
	}
	if err := r.report(ctx, fmt.Sprintf("Deployment 0 → %d on %d hollow nodes, all Running (all created after %s; pods ever made %d)",
		manyPods, hollowNodes, milliseconds(created), r.total()-before), took, "≤ 4 s"); err != nil {
		return err
	}

	before = r.total()
	began = time.Now()
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"main","image":%q}]}}}}`, young)
	if _, err := r.api.Patch(ctx, web, types.StrategicMergePatchType, []byte(patch), ""); err != nil {
		return err
	}
	if err := r.midway(ctx, func(map[types.UID]*corev1.Pod) bool { return r.seen-before >= manyPods/2 }); err != nil {
		return err
	}
	if took, err = r.timed(ctx, began, "all pods are new", running(ns, young, manyPods)); err != nil {
		return err
	}
	if err := r.report(ctx, fmt.Sprintf("rolling update of it, 25 %% surge, 25 %% unavailable (pods ever made %d)", r.total()-before), took, ""); err != nil {
		return err
	}
	if took, err = r.emptied(ctx, ns); err != nil {
		return err
	}
	return r.report(ctx, fmt.Sprintf("namespace with %d pods deleted until it is gone", manyPods), took, "≤ 10 s")
}

// there is how many pods are there; total is how many have ever been seen.
func (f *fleet) there() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.pods)
}

func (f *fleet) total() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

func (r *loopsRun) manyDeployments(ctx context.Context) error {
	const ns, deployments, replicas = "many", manyPods / 5, 5
	if err := r.namespace(ctx, ns); err != nil {
		return err
	}
	before := r.total()
	began := time.Now()
	ops := make([]client.Op, deployments)
	for i := range ops {
		ops[i] = client.CreateOp(hollowDeployment(ns, fmt.Sprintf("web-%04d", i), replicas))
	}
	if err := r.write(ctx, ops); err != nil {
		return err
	}
	if err := r.midway(ctx, func(map[types.UID]*corev1.Pod) bool { return r.seen-before >= manyPods/3 }); err != nil {
		return err
	}
	took, err := r.timed(ctx, began, "all pods run", running(ns, "registry.kijabi.dev/web:1", deployments*replicas))
	if err != nil {
		return err
	}
	if err := r.report(ctx, fmt.Sprintf("%d Deployments of %d, all Running (pods ever made %d)", deployments, replicas, r.total()-before), took, ""); err != nil {
		return err
	}
	if took, err = r.emptied(ctx, ns); err != nil {
		return err
	}
	return r.report(ctx, fmt.Sprintf("namespace with %d Deployments and their pods deleted until it is gone", deployments), took, "")
}

func (r *loopsRun) manyJobs(ctx context.Context) error {
	const ns, jobs, pods = "jobs", 100, 100
	if err := r.namespace(ctx, ns); err != nil {
		return err
	}
	before := r.total()
	began := time.Now()
	ops := make([]client.Op, jobs)
	for i := range ops {
		template := hollowTemplate("job", jobImage)
		template.Spec.RestartPolicy = corev1.RestartPolicyNever
		ops[i] = client.CreateOp(&batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("job-%03d", i)},
			Spec:       batchv1.JobSpec{Parallelism: ptr.To[int32](pods), Completions: ptr.To[int32](pods), Template: template},
		})
	}
	if err := r.write(ctx, ops); err != nil {
		return err
	}
	if err := r.midway(ctx, func(map[types.UID]*corev1.Pod) bool { return r.seen-before >= jobs*pods/3 }); err != nil {
		return err
	}
	if err := r.complete(ctx, ns, jobs, pods); err != nil {
		return err
	}
	took := time.Since(began)
	if err := r.report(ctx, fmt.Sprintf("%d Jobs of %d pods, all Complete (pods ever made %d)", jobs, pods, r.total()-before), took, ""); err != nil {
		return err
	}
	took, err := r.emptied(ctx, ns)
	if err != nil {
		return err
	}
	return r.report(ctx, fmt.Sprintf("namespace with %d Jobs and their pods deleted until it is gone", jobs), took, "")
}

// complete waits until all Jobs are, each with as many pods succeeded as it asks for.
func (r *loopsRun) complete(ctx context.Context, ns string, jobs, pods int) error {
	ctx, cancel := context.WithTimeout(ctx, loopsWait)
	defer cancel()
	for {
		page, err := client.List[*batchv1.Job](ctx, r.api, client.ListOptions{Namespace: ns})
		if err != nil && !r.kills {
			return err
		}
		done := 0
		for _, job := range page.Items {
			for _, condition := range job.Status.Conditions {
				if condition.Type == batchv1.JobComplete && condition.Status == corev1.ConditionTrue && int(job.Status.Succeeded) == pods {
					done++
				}
			}
		}
		if done == jobs {
			return nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d jobs are complete: %w", done, jobs, err)
		}
	}
}
