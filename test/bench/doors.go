package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	objectv1pb "kijabi.dev/proto/gen/kijabi/object/v1"
)

// doorConns is the number of connections that all workers of a door share.
const doorConns = 4

// smallConfigMap and smallPod are what is created and read.
func smallConfigMap(name string) object.Object {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"bench": "requests"}},
		Data:       map[string]string{"key": "a value of a length that is common in such maps", "other": "another"},
	}
}

func smallPod(name string) object.Object {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"bench": "requests", "app": "small"}},
		Spec: corev1.PodSpec{
			// No scheduler answers to this name: the requests alone are measured.
			SchedulerName: "nobody",
			Containers: []corev1.Container{{
				Name: "c", Image: "registry.kijabi.dev/toolbox:1", Command: []string{"/toolbox", "sleep"},
				Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
				Env:   []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi"),
				}},
			}},
		},
	}
}

// smallKinds makes the objects by the name of their kind.
var smallKinds = map[string]func(name string) object.Object{"ConfigMap": smallConfigMap, "Pod": smallPod}

// door is a way to the API. Its methods decode what they are answered, and may be called by
// many workers; worker chooses the connection.
type door interface {
	name() string
	// echo is the cheapest request there is: the floor of all others.
	echo(ctx context.Context, worker int) error
	create(ctx context.Context, worker int, obj object.Object) error
	get(ctx context.Context, worker int, like object.Object) error
	// list reads all pods that a label selector selects and returns their number and the
	// bytes of the answer; the objects are not decoded.
	list(ctx context.Context, selector string) (items, size int, err error)
	close()
}

// doors opens the ways to one master.
func (c *cluster) doors(master int) ([]door, error) {
	g := &grpcDoor{}
	for range doorConns {
		conn, err := c.dial(master, grpc.WithDefaultCallOptions(grpc.StaticMethod(), grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			return nil, err
		}
		g.conns = append(g.conns, conn)
		g.clients = append(g.clients, client.New(conn))
		g.checks = append(g.checks, grpc_health_v1.NewHealthClient(conn))
	}
	return []door{g, c.restDoor(master, "REST protobuf", mediaProtobuf), c.restDoor(master, "REST JSON", "application/json")}, nil
}

type grpcDoor struct {
	conns   []*grpc.ClientConn
	clients []*client.Client
	checks  []grpc_health_v1.HealthClient
}

func (d *grpcDoor) name() string { return "gRPC" }

func (d *grpcDoor) close() {
	for _, conn := range d.conns {
		_ = conn.Close()
	}
}

func (d *grpcDoor) echo(ctx context.Context, worker int) error {
	_, err := d.checks[worker%doorConns].Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	return err
}

func (d *grpcDoor) create(ctx context.Context, worker int, obj object.Object) error {
	_, err := d.clients[worker%len(d.clients)].Create(ctx, obj)
	return err
}

func (d *grpcDoor) get(ctx context.Context, worker int, like object.Object) error {
	var err error
	switch c := d.clients[worker%doorConns]; like.(type) {
	case *corev1.Pod:
		_, err = client.Get[*corev1.Pod](ctx, c, object.KeyOf(like))
	default:
		_, err = client.Get[*corev1.ConfigMap](ctx, c, object.KeyOf(like))
	}
	return err
}

func (d *grpcDoor) list(ctx context.Context, selector string) (items, size int, err error) {
	stream, err := objectv1pb.NewObjectServiceClient(d.conns[0]).List(ctx, &objectv1pb.ListRequest{
		Resource: &objectv1pb.Resource{Version: "v1", Resource: "pods"}, LabelSelector: selector,
	})
	if err != nil {
		return 0, 0, err
	}
	for {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return items, size, nil
		}
		if err != nil {
			return 0, 0, err
		}
		items += len(res.GetObjects())
		for _, item := range res.GetObjects() {
			size += len(item.GetValue())
		}
	}
}

const (
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
	protobufMagic = "k8s\x00"
)

// restDoor speaks HTTP/2, as client-go does, in one encoding and without compression, which
// would measure the compressor.
type restDoor struct {
	title, media, base string
	clients            []*http.Client
	answer             bytes.Buffer // of lists, kept: growing it is not the server's time
}

func (c *cluster) restDoor(master int, title, media string) *restDoor {
	d := &restDoor{title: title, media: media, base: fmt.Sprintf("https://10.95.0.%d:%d", 10+master, configv1.PortREST)}
	for range doorConns {
		d.clients = append(d.clients, httpClient(c.identity.ClientTLS("kubernetes")))
	}
	return d
}

func httpClient(tls *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: tls, ForceAttemptHTTP2: true, DisableCompression: true}}
}

func (d *restDoor) name() string { return d.title }

func (d *restDoor) close() {
	for _, client := range d.clients {
		client.CloseIdleConnections()
	}
}

// call makes a request and returns the body of its answer.
func (d *restDoor) call(ctx context.Context, worker int, method, path string, body []byte) ([]byte, error) {
	return d.callInto(ctx, worker, method, path, body, &bytes.Buffer{})
}

// callInto is call that reads the body into a buffer.
func (d *restDoor) callInto(ctx context.Context, worker int, method, path string, body []byte, answer *bytes.Buffer) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, d.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", d.media)
	if body != nil {
		req.Header.Set("Content-Type", d.media)
	}
	res, err := d.clients[worker%doorConns].Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	answer.Grow(int(max(res.ContentLength, 512)))
	if _, err := answer.ReadFrom(res.Body); err != nil {
		return nil, err
	}
	if res.StatusCode >= http.StatusMultipleChoices {
		return nil, fmt.Errorf("%s %s: %s: %.200s", method, path, res.Status, answer.Bytes())
	}
	return answer.Bytes(), nil
}

func (d *restDoor) echo(ctx context.Context, worker int) error {
	_, err := d.call(ctx, worker, http.MethodGet, "/livez", nil)
	return err
}

// collection is the path of an object's kind.
func collection(obj object.Object) string {
	if _, ok := obj.(*corev1.Pod); ok {
		return "/api/v1/namespaces/default/pods"
	}
	return "/api/v1/namespaces/default/configmaps"
}

func (d *restDoor) create(ctx context.Context, worker int, obj object.Object) error {
	kind, err := object.KindOfObject(obj)
	if err != nil {
		return err
	}
	obj.GetObjectKind().SetGroupVersionKind(kind.GVK)
	body, err := d.encode(obj)
	if err != nil {
		return err
	}
	answer, err := d.call(ctx, worker, http.MethodPost, collection(obj), body)
	if err != nil {
		return err
	}
	return d.decode(answer, kind.New())
}

func (d *restDoor) get(ctx context.Context, worker int, like object.Object) error {
	answer, err := d.call(ctx, worker, http.MethodGet, collection(like)+"/"+like.GetName(), nil)
	if err != nil {
		return err
	}
	kind, err := object.KindOfObject(like)
	if err != nil {
		return err
	}
	return d.decode(answer, kind.New())
}

func (d *restDoor) encode(obj object.Object) ([]byte, error) {
	if d.media != mediaProtobuf {
		return json.Marshal(obj)
	}
	raw, err := obj.Marshal()
	if err != nil {
		return nil, err
	}
	apiVersion, kind := obj.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
	envelope, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}).Marshal()
	return append([]byte(protobufMagic), envelope...), err
}

func (d *restDoor) decode(answer []byte, into object.Object) error {
	if d.media != mediaProtobuf {
		return json.Unmarshal(answer, into)
	}
	raw, err := d.unwrap(answer)
	if err != nil {
		return err
	}
	return into.Unmarshal(raw)
}

// unwrap takes the object out of a protobuf answer.
func (d *restDoor) unwrap(answer []byte) ([]byte, error) {
	raw, ok := bytes.CutPrefix(answer, []byte(protobufMagic))
	if !ok {
		return nil, fmt.Errorf("an answer without magic: %.40q", answer)
	}
	var envelope runtime.Unknown
	err := envelope.Unmarshal(raw)
	return envelope.Raw, err
}

func (d *restDoor) list(ctx context.Context, selector string) (items, size int, err error) {
	path := "/api/v1/pods"
	if selector != "" {
		path += "?labelSelector=" + selector
	}
	d.answer.Reset()
	answer, err := d.callInto(ctx, 0, http.MethodGet, path, nil, &d.answer)
	if err != nil {
		return 0, 0, err
	}
	// Every pod runs this many images: its number is counted, not decoded.
	return bytes.Count(answer, []byte("registry.kijabi.dev/toolbox:1")), len(answer), nil
}
