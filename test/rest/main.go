// Command rest is an unmodified client-go at work against a REST door: typed clients
// that speak protobuf both ways, and informers that begin with a WatchList. It exits
// with an error that names the first thing that is not as Kubernetes promises.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	kubeconfig := flag.String("kubeconfig", os.Getenv("KUBECONFIG"), "file that names the door")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, *kubeconfig); err != nil {
		fmt.Fprintln(os.Stderr, "rest:", err)
		os.Exit(1)
	}
	fmt.Println("all as promised")
}

func run(ctx context.Context, kubeconfig string) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	cfg.QPS, cfg.Burst = -1, -1
	wire := rest.CopyConfig(cfg)
	wire.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(wire)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context, *kubernetes.Clientset, *rest.Config) error
	}{
		{"typed writes", writes}, {"paging", paging}, {"informers", watches}, {"metadata informer", partial},
	} {
		if err := step.do(ctx, client, cfg); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

const namespace = "default"

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// writes goes through every kind of write of a typed client.
func writes(ctx context.Context, client *kubernetes.Clientset, _ *rest.Config) error {
	maps := client.CoreV1().ConfigMaps(namespace)
	made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "rest-"}, Data: map[string]string{"a": "1"}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: made.Name}}, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		return expect(false, "second create: %v", err)
	}
	stale := made.DeepCopy()
	made.Data["b"] = "2"
	if made, err = maps.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if _, err := maps.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return expect(stale.Data["b"] == made.Data["b"], "stale update: %v", err)
	}
	for kind, body := range map[types.PatchType]string{
		types.MergePatchType: `{"data":{"m":"1"}}`, types.StrategicMergePatchType: `{"data":{"s":"1"}}`,
		types.JSONPatchType: `[{"op":"add","path":"/data/j","value":"1"}]`,
	} {
		if made, err = maps.Patch(ctx, made.Name, kind, []byte(body), metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	applied, err := maps.Apply(ctx, corev1apply.ConfigMap(made.Name, namespace).WithData(map[string]string{"f": "1"}), metav1.ApplyOptions{FieldManager: "rest", Force: true})
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if err := expect(len(applied.Data) == 6 && len(applied.ManagedFields) > 0, "after all patches: %v %v", applied.Data, applied.ManagedFields); err != nil {
		return err
	}
	other := types.UID("other")
	if err := maps.Delete(ctx, made.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}}); !apierrors.IsConflict(err) {
		return expect(false, "delete of another uid: %v", err)
	}
	if err := maps.Delete(ctx, made.Name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if _, err := maps.Get(ctx, made.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return expect(false, "get of the deleted: %v", err)
	}
	_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "Not_Valid"}}, metav1.CreateOptions{})
	return expect(apierrors.IsInvalid(err), "invalid create: %v", err)
}

// paging walks a collection by pages and empties it.
func paging(ctx context.Context, client *kubernetes.Clientset, _ *rest.Config) error {
	maps := client.CoreV1().ConfigMaps(namespace)
	for i := range 7 {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("page-%d", i), Labels: map[string]string{"rest": "page"}}}
		if _, err := maps.Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	seen, next := 0, ""
	for {
		page, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "rest=page", Limit: 3, Continue: next})
		if err != nil {
			return err
		}
		seen, next = seen+len(page.Items), page.Continue
		if next == "" {
			break
		}
	}
	if seen != 7 {
		return fmt.Errorf("%d objects on all pages", seen)
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "rest=page"}); err != nil {
		return err
	}
	left, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "rest=page"})
	if err != nil {
		return err
	}
	return expect(len(left.Items) == 0, "%d objects left", len(left.Items))
}

// watches follows a collection with shared informers.
func watches(ctx context.Context, client *kubernetes.Clientset, _ *rest.Config) error {
	events := make(chan string, 100)
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	if err := note(informer, events); err != nil {
		return err
	}
	// A kind of each group must at least synchronize.
	factory.Core().V1().Pods().Informer()
	factory.Apps().V1().Deployments().Informer()
	factory.Discovery().V1().EndpointSlices().Informer()
	factory.Coordination().V1().Leases().Informer()
	factory.Events().V1().Events().Informer()
	ctx, cancel := context.WithCancel(ctx)
	defer factory.Shutdown()
	defer cancel()
	factory.Start(ctx.Done())
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("%v did not synchronize", kind)
		}
	}
	return changes(ctx, client, "informed", events)
}

// partial follows the same collection by metadata only.
func partial(ctx context.Context, client *kubernetes.Clientset, cfg *rest.Config) error {
	meta, err := metadata.NewForConfig(cfg)
	if err != nil {
		return err
	}
	events := make(chan string, 100)
	factory := metadatainformer.NewFilteredSharedInformerFactory(meta, 0, namespace, nil)
	informer := factory.ForResource(corev1.SchemeGroupVersion.WithResource("configmaps")).Informer()
	if err := note(informer, events); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return errors.New("did not synchronize")
	}
	return changes(ctx, client, "described", events)
}

func note(informer cache.SharedIndexInformer, events chan<- string) error {
	name := func(obj any) string {
		if object, ok := obj.(metav1.Object); ok {
			return object.GetName()
		}
		return fmt.Sprintf("%T", obj)
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { events <- "add " + name(obj) },
		UpdateFunc: func(_, obj any) { events <- "update " + name(obj) },
		DeleteFunc: func(obj any) { events <- "delete " + name(obj) },
	})
	return err
}

// changes makes three changes and expects to hear of each.
func changes(ctx context.Context, client *kubernetes.Clientset, name string, events <-chan string) error {
	maps := client.CoreV1().ConfigMaps(namespace)
	made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := await(ctx, events, "add "+name); err != nil {
		return err
	}
	made.Data = map[string]string{"a": "b"}
	if _, err := maps.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := await(ctx, events, "update "+name); err != nil {
		return err
	}
	if err := maps.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return await(ctx, events, "delete "+name)
}

func await(ctx context.Context, events <-chan string, want string) error {
	for {
		select {
		case got := <-events:
			if got == want {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("no %q: %w", want, ctx.Err())
		}
	}
}
