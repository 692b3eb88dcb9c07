package refs

import (
	"context"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/informer"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/platform/lifecycle"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// master serves watches of single objects from a map.
type master struct {
	objectv1pb.UnimplementedObjectServiceServer

	mu      sync.Mutex
	away    bool
	version int
	objects map[string]object.Object // by resource/name
	changed chan struct{}
}

func (m *master) set(obj object.Object, resource string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.version++
	obj.SetResourceVersion(strconv.Itoa(m.version))
	m.objects[resource+"/"+obj.GetName()] = obj
	m.announce()
}

func (m *master) announce() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *master) leave(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
	m.announce()
}

func (m *master) Watch(request *objectv1pb.WatchRequest, out grpc.ServerStreamingServer[objectv1pb.WatchResponse]) error {
	name, ok := strings.CutPrefix(request.GetFieldSelector(), "metadata.name=")
	if !ok {
		return status.Error(codes.PermissionDenied, "a node reads objects by name")
	}
	sent := ""
	for first := true; ; first = false {
		m.mu.Lock()
		away, obj, changed := m.away, m.objects[request.GetResource().GetResource()+"/"+name], m.changed
		m.mu.Unlock()
		if away {
			return status.Error(codes.Unavailable, "away")
		}
		response := &objectv1pb.WatchResponse{InitialEventsEnd: first}
		if obj != nil && obj.GetResourceVersion() != sent {
			sent = obj.GetResourceVersion()
			packed, err := object.Pack(obj)
			if err != nil {
				return err
			}
			response.Events = []*objectv1pb.WatchEvent{{Type: objectv1pb.EventType_EVENT_TYPE_ADDED, Object: packed}}
		}
		if first || len(response.GetEvents()) > 0 {
			if err := out.Send(response); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-out.Context().Done():
			return nil
		}
	}
}

// run starts a store against m; stop ends it.
func run(t *testing.T, m *master, file string) (s *Store, changed chan types.UID, stop func()) {
	t.Helper()
	socket, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	objectv1pb.RegisterObjectServiceServer(server, m)
	conn, err := grpc.NewClient(socket.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	api := client.New(conn)
	changed = make(chan types.UID, 100)
	s, err = New(Config{
		Client: api, Services: informer.Of[*corev1.Service](informer.NewSet(api, zap.NewNop())), SnapshotFile: file, NodeName: "n",
		Changed: func(uid types.UID) { changed <- uid }, Clock: clock.RealClock{}, Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	group := lifecycle.NewGroup(ctx)
	group.Go(s.Run)
	group.Go(func(context.Context) error { return server.Serve(socket) })
	stop = sync.OnceFunc(func() {
		cancel()
		_ = conn.Close()
		server.Stop()
		_ = group.Wait()
	})
	t.Cleanup(stop)
	return s, changed, stop
}

func podReferring(config, secret string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid"},
		Spec: corev1.PodSpec{
			Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}},
			Containers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{
				ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: config}},
			}}}},
		},
	}
}

func TestFollowAndRestartWithoutMasters(t *testing.T) {
	m := &master{objects: map[string]object.Object{}, changed: make(chan struct{})}
	file := filepath.Join(t.TempDir(), "snapshot")
	m.set(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}, Data: map[string]string{"k": "1"}}, "configmaps")
	s, changed, stop := run(t, m, file)
	pod := podReferring("c", "s")
	s.Use(pod)
	if err := s.Await(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if c, err := s.ConfigMap("ns", "c"); err != nil || c.Data["k"] != "1" {
		t.Fatalf("%v %v", c, err)
	}
	if _, err := s.Secret("ns", "s"); !apierrors.IsNotFound(err) {
		t.Fatalf("absent secret: %v", err)
	}
	m.set(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns"}, Data: map[string][]byte{"k": []byte("x")}}, "secrets")
	await(t, changed, func() bool { _, err := s.Secret("ns", "s"); return err == nil })
	m.set(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}, Data: map[string]string{"k": "2"}}, "configmaps")
	await(t, changed, func() bool { c, err := s.ConfigMap("ns", "c"); return err == nil && c.Data["k"] == "2" })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if written, err := readSnapshot(file); err == nil && len(written) == 2 && strings.Contains(string(written[id{"ConfigMap", object.Key{Namespace: "ns", Name: "c"}}]), "2") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no snapshot")
		}
	}
	m.leave(true)
	stop()

	s, _, _ = run(t, m, file)
	s.Use(pod)
	if err := s.Await(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if c, err := s.ConfigMap("ns", "c"); err != nil || c.Data["k"] != "2" {
		t.Fatalf("from the snapshot: %v %v", c, err)
	}
	unknown := podReferring("never-seen", "")
	unknown.UID = "other"
	s.Use(unknown)
	if err := s.Await(t.Context(), unknown); err == nil {
		t.Fatal("an object that was never seen counts as known")
	}
	s.Release(pod.UID)
	if _, err := s.ConfigMap("ns", "c"); !apierrors.IsNotFound(err) {
		t.Fatalf("released: %v", err)
	}
}

func await(t *testing.T, changed <-chan types.UID, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("no change")
		}
	}
}

func TestRegistryMatching(t *testing.T) {
	for _, row := range []struct {
		server, image string
		want          bool
	}{
		{"https://index.docker.io/v1/", "library/nginx:1", true},
		{"registry.example.com", "registry.example.com/a/b:1", true},
		{"registry.example.com/a", "registry.example.com/a/b:1", true},
		{"registry.example.com/x", "registry.example.com/a/b:1", false},
		{"example.com", "registry.example.com/a", false},
		{"http://localhost:5000", "localhost:5000/a", true},
	} {
		if got := matches(row.server, row.image); got != row.want {
			t.Errorf("matches(%q, %q) = %v", row.server, row.image, got)
		}
	}
}

// TestClaimsAndTheirVolumes: the volume of a claim is followed as soon as the claim has one.
func TestClaimsAndTheirVolumes(t *testing.T) {
	m := &master{objects: map[string]object.Object{}, changed: make(chan struct{})}
	file := filepath.Join(t.TempDir(), "snapshot")
	s, changed, stop := run(t, m, file)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
	}}}
	s.Use(pod)
	if err := s.Await(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim("ns", "data"); !apierrors.IsNotFound(err) {
		t.Fatalf("absent claim: %v", err)
	}
	claim := func(name string, phase corev1.PersistentVolumeClaimPhase) {
		m.set(&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "of-" + name},
			Status: corev1.PersistentVolumeClaimStatus{Phase: phase},
		}, "persistentvolumeclaims")
	}
	claim("p-scratch", corev1.ClaimBound)
	claim("data", corev1.ClaimPending)
	await(t, changed, func() bool { _, err := s.Claim("ns", "data"); return err == nil })
	for _, name := range []string{"of-data", "of-p-scratch"} {
		m.set(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}, "persistentvolumes")
	}
	await(t, changed, func() bool { _, err := s.Volume("of-p-scratch"); return err == nil })
	if _, err := s.Volume("of-data"); !apierrors.IsNotFound(err) {
		t.Fatalf("a volume that the claim is not bound to yet: %v", err)
	}
	claim("data", corev1.ClaimBound)
	await(t, changed, func() bool { _, err := s.Volume("of-data"); return err == nil })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if written, err := readSnapshot(file); err == nil && len(written) == 4 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no snapshot")
		}
	}
	m.leave(true)
	stop()

	s, _, _ = run(t, m, file)
	s.Use(pod)
	other := pod.DeepCopy()
	other.UID = "other"
	s.Use(other)
	if err := s.Await(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Volume("of-data"); err != nil {
		t.Fatalf("from the snapshot: %v", err)
	}
	s.Release(pod.UID)
	if _, err := s.Volume("of-data"); err != nil {
		t.Fatalf("another pod uses it still: %v", err)
	}
	s.Release(other.UID)
	if _, err := s.Volume("of-data"); !apierrors.IsNotFound(err) {
		t.Fatalf("released: %v", err)
	}
}
