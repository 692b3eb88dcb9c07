package rpcapi_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/controller"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
)

// forgetful is a connection that loses the answers to all creations, and whose watches
// are late.
type forgetful struct{ grpc.ClientConnInterface }

func (f forgetful) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	err := f.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	if err == nil && strings.HasSuffix(method, "/Create") {
		return apierrors.NewServiceUnavailable("the answer was lost")
	}
	return err
}

func (f forgetful) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := f.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	if err == nil && strings.HasSuffix(method, "/Watch") {
		stream = late{stream}
	}
	return stream, err
}

type late struct{ grpc.ClientStream }

func (s late) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	pause := time.NewTimer(100 * time.Millisecond)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-s.Context().Done():
	}
	return err
}

// A controller that was not told what became of its write looks again only when its caches
// would hold it: it makes nothing twice.
func TestControllerWaitsForWritesWithLostAnswers(t *testing.T) {
	d := open(t)
	direct := client.New(d.dial(t, "admin"))
	api := client.New(forgetful{d.dial(t, "admin")})
	set := informer.NewSet(api, zap.NewNop())
	c := &counter{maps: informer.Of[*corev1.ConfigMap](set)}
	loops, err := controller.NewRuntime(controller.RuntimeConfig{Client: api, Clock: clock.RealClock{}, Log: zap.NewNop(), Controllers: []controller.Controller{c}})
	if err != nil {
		t.Fatal(err)
	}
	background(t, set.Run, func(ctx context.Context) error {
		if err := set.WaitSynced(ctx); err != nil {
			return nil //nolint:nilerr // the test ended first
		}
		return loops.Run(ctx)
	})
	if _, err := direct.Create(t.Context(), configMap("first", "1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ten objects", func() bool { return len(c.maps.List()) >= 10 })
	page, err := client.List[*corev1.ConfigMap](t.Context(), direct, client.ListOptions{Namespace: "default"})
	if err != nil || len(page.Items) != 10 {
		t.Errorf("%d objects, want 10: %v", len(page.Items), err)
	}
}

func TestScaleIsRead(t *testing.T) {
	d := open(t)
	api := client.New(d.dial(t, "admin"))
	labels := map[string]string{"app": "web"}
	if _, err := api.Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](3), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		},
	}); err != nil {
		t.Fatal(err)
	}
	got, err := api.GetSubresource(t.Context(), object.KindOf[*appsv1.Deployment](), key("web"), "scale")
	if err != nil {
		t.Fatal(err)
	}
	if scale, ok := got.(*autoscalingv1.Scale); !ok || scale.Spec.Replicas != 3 || scale.Status.Selector != "app=web" || scale.UID == "" {
		t.Errorf("scale %+v", got)
	}
	if _, err := api.GetSubresource(t.Context(), object.KindOf[*corev1.ConfigMap](), key("web"), "scale"); !apierrors.IsNotFound(err) {
		t.Errorf("scale of a ConfigMap: %v", err)
	}
	if _, err := api.GetSubresource(t.Context(), object.KindOf[*appsv1.Deployment](), key("web"), "log"); !apierrors.IsBadRequest(err) {
		t.Errorf("another subresource: %v", err)
	}
}
