package clients

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"kijabi.dev/test/harness"
)

const (
	fakeNodes = 1000
	fakePods  = 5000
)

// testKwok has kwok pretend a thousand nodes, and the scheduler fill them.
func testKwok(t *harness.T, c *clients) {
	namespace := c.namespace(t, "kwok")
	stages, err := filepath.Glob(filepath.Join(c.programs, "kwok-stages", "*.yaml"))
	if err != nil || len(stages) == 0 {
		t.Fatalf("%v: there are no stages beside kwok: run `make test-clients`", err)
	}
	argv := []string{
		c.program(t, "kwok"), "--kubeconfig", c.Kubeconfig(), "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
		"--node-lease-duration-seconds=40", "--node-ip=10.99.0.200", "--server-address=127.0.0.1:0",
	}
	for _, stage := range stages {
		argv = append(argv, "--config", stage)
	}
	kwok := c.Start(t, harness.Invocation{Argv: argv})

	cfg := c.restConfig(t)
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes, pods := factory.Core().V1().Nodes().Lister(), factory.Core().V1().Pods().Lister()
	factory.Core().V1().Nodes().Informer()
	factory.Core().V1().Pods().Informer()
	ctx, cancel := context.WithCancel(t.Context())
	defer factory.Shutdown()
	defer cancel()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	step := timer(t)
	each(t, fakeNodes, func(i int) error {
		_, err := client.CoreV1().Nodes().Create(t.Context(), fakeNode(i), metav1.CreateOptions{})
		return err
	})
	step("%d nodes are made", fakeNodes)
	harness.Eventually(t, 3*time.Minute, "all nodes are Ready and have a range", func() error { return readyNodes(nodes, fakeNodes) })
	step("they are Ready")

	// Deployments of a thousand pods each make what people make.
	for i := range 5 {
		if _, err := client.AppsV1().Deployments(namespace).Create(t.Context(), fakeDeployment(i, fakePods/5), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, 10*time.Minute, "all pods are Running", func() error {
		_, err := runningPods(pods, namespace, fakePods)
		return err
	})
	step("%d pods are Running", fakePods)
	on, err := runningPods(pods, namespace, fakePods)
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	for _, count := range on {
		most = max(most, count)
	}
	if len(on) < fakeNodes*9/10 || most > 4*fakePods/fakeNodes {
		t.Errorf("pods are on %d nodes, at most %d on one", len(on), most)
	}
	harness.Eventually(t, time.Minute, "the deployments are complete", func() error {
		list, err := client.AppsV1().Deployments(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if s := list.Items[i].Status; s.AvailableReplicas != fakePods/5 {
				return fmt.Errorf("%s: %d available", list.Items[i].Name, s.AvailableReplicas)
			}
		}
		return nil
	})
	step("the deployments are complete")
	if err := readyNodes(nodes, fakeNodes); err != nil {
		t.Errorf("meanwhile: %v", err)
	}

	for i := range 5 {
		if err := client.AppsV1().Deployments(namespace).Delete(t.Context(), fmt.Sprintf("fake-%d", i), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, 10*time.Minute, "all pods are gone", func() error {
		left, err := pods.Pods(namespace).List(labels.Everything())
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d are left", len(left))
		}
		return err
	})
	step("the pods are gone")

	// Without kwok nobody renews the leases: the nodes leave traffic, unless they are most
	// of all nodes. So all but a few go first.
	each(t, fakeNodes, func(i int) error {
		if i < 3 {
			return nil
		}
		return client.CoreV1().Nodes().Delete(t.Context(), fakeNode(i).Name, metav1.DeleteOptions{})
	})
	step("the nodes are deleted")
	kwok.Stop(t)
	harness.Eventually(t, 2*time.Minute, "nodes whose leases ended are not Ready", func() error {
		var errs []error
		for i := range 3 {
			node, err := nodes.Get(fakeNode(i).Name)
			if err == nil && readiness(node) != corev1.ConditionUnknown {
				err = fmt.Errorf("node %s is Ready: %s", node.Name, readiness(node))
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	step("nodes whose leases ended are not Ready")
	each(t, 3, func(i int) error {
		return client.CoreV1().Nodes().Delete(t.Context(), fakeNode(i).Name, metav1.DeleteOptions{})
	})
}

// timer logs how long steps took.
func timer(t *harness.T) func(format string, args ...any) {
	t.Helper()
	last := time.Now()
	return func(format string, args ...any) {
		t.Helper()
		t.Logf("%s: after %s", fmt.Sprintf(format, args...), time.Since(last).Round(100*time.Millisecond))
		last = time.Now()
	}
}

// each does something for many numbers, some at once.
func each(t *harness.T, count int, do func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	const workers = 8
	for worker := range workers {
		wg.Go(func() {
			for i := worker; i < count; i += workers {
				if err := do(i); err != nil {
					t.Errorf("number %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func fakeNode(i int) *corev1.Node {
	name := fmt.Sprintf("kwok-%04d", i)
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"type": "kwok", corev1.LabelHostname: name}, Annotations: map[string]string{"kwok.x-k8s.io/node": "fake"},
		},
		Spec:   corev1.NodeSpec{Taints: []corev1.Taint{{Key: "kwok.x-k8s.io/node", Value: "fake", Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{Allocatable: capacity, Capacity: capacity},
	}
}

func fakeDeployment(i int, replicas int32) *appsv1.Deployment {
	app := map[string]string{"app": fmt.Sprintf("fake-%d", i)}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: app["app"]},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: app},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: app},
				Spec: corev1.PodSpec{
					NodeSelector: map[string]string{"type": "kwok"},
					Tolerations:  []corev1.Toleration{{Key: "kwok.x-k8s.io/node", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
					Containers: []corev1.Container{{Name: "fake", Image: "fake", Resources: corev1.ResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")},
					}}},
				},
			},
		},
	}
}

func readiness(node *corev1.Node) corev1.ConditionStatus {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status
		}
	}
	return ""
}

// readyNodes says which fake nodes cannot take pods.
func readyNodes(nodes corelisters.NodeLister, want int) error {
	list, err := nodes.List(labels.SelectorFromSet(labels.Set{"type": "kwok"}))
	if err != nil {
		return err
	}
	ready, last := 0, ""
	for _, node := range list {
		if readiness(node) == corev1.ConditionTrue && len(node.Spec.Taints) == 1 && node.Spec.PodCIDR != "" {
			ready++
		} else {
			last = fmt.Sprintf("%s: Ready is %q, range %q, taints %v", node.Name, readiness(node), node.Spec.PodCIDR, node.Spec.Taints)
		}
	}
	if ready != want {
		return fmt.Errorf("%d of %d nodes; %s", ready, len(list), last)
	}
	return nil
}

// runningPods counts the running pods by node.
func runningPods(pods corelisters.PodLister, namespace string, want int) (map[string]int, error) {
	list, err := pods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	on := map[string]int{}
	running, bound := 0, 0
	for _, pod := range list {
		if pod.Spec.NodeName != "" {
			bound++
		}
		if pod.Status.Phase == corev1.PodRunning {
			running++
			on[pod.Spec.NodeName]++
		}
	}
	if running != want {
		return nil, fmt.Errorf("%d of %d are bound, %d Running", bound, len(list), running)
	}
	return on, nil
}
