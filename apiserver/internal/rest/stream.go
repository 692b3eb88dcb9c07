package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"kijabi.dev/apiserver/internal/registry"
	"kijabi.dev/apiserver/internal/registry/kinds"
	"kijabi.dev/platform/lifecycle"
	"kijabi.dev/platform/rpc"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// servesSubresource tells whether the door has a way to serve a subresource; discovery
// names only those.
func servesSubresource(k *kinds.Kind, name string) bool {
	i := slices.IndexFunc(k.Subresources, func(sub kinds.Subresource) bool { return sub.Name == name })
	if i < 0 {
		return false
	}
	if !k.Subresources[i].Stream {
		return true
	}
	return name == "proxy" || k.GVK.Kind == "Pod" && slices.Contains([]string{"log", "exec", "attach", "portforward", restartName}, name)
}

// serveStream relays a request to a node, most to a pod on it, for as long as its caller still may.
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request, caller registry.Caller, t target, still func(context.Context) error) {
	if !servesSubresource(t.kind, t.sub.Name) || t.rest != "" && t.sub.Name != "proxy" {
		s.fail(w, r, notFound())
		return
	}
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()
	defer s.reauthorize(ctx, cancel, still)()
	r = r.WithContext(ctx)
	if options := connection(r, t); options != nil {
		admitted, err := s.cfg.Registry.Connect(ctx, caller, t.ref, options)
		tell(w, r, admitted)
		if err != nil {
			s.fail(w, r, err)
			return
		}
	}
	var err error
	switch t.sub.Name {
	case "log":
		err = s.serveLog(w, r, caller, t)
	case "exec":
		err = s.serveExec(w, r, caller, t)
	case "attach":
		err = s.serveAttach(w, r, caller, t)
	case "proxy":
		err = s.serveProxy(w, r, caller, t)
	case restartName:
		err = s.serveRestart(w, r, caller, t)
	default:
		err = s.servePortForward(w, r, caller, t)
	}
	if err != nil {
		s.fail(w, r, err)
	}
}

// connection is what a stream asks for, as webhooks and policies see it; nil for logs, which
// are only read, and for restarts, for which Kubernetes has no kind of options.
func connection(r *http.Request, t target) runtime.Object {
	query := r.URL.Query()
	is := func(name string) bool { return isTrue(query.Get(name)) }
	var options runtime.Object
	switch t.sub.Name {
	case "exec":
		options = &corev1.PodExecOptions{
			Stdin: is("stdin"), Stdout: is("stdout"), Stderr: is("stderr"), TTY: is("tty"), Container: query.Get("container"), Command: query["command"],
		}
	case "attach":
		options = &corev1.PodAttachOptions{Stdin: is("stdin"), Stdout: is("stdout"), Stderr: is("stderr"), TTY: is("tty"), Container: query.Get("container")}
	case "portforward":
		forward := &corev1.PodPortForwardOptions{}
		for _, text := range query["ports"] {
			if port, ok := portNumber(text); ok {
				forward.Ports = append(forward.Ports, int32(port)) //nolint:gosec // at most 65535
			}
		}
		options = forward
	case "proxy":
		path := "/" + strings.TrimPrefix(t.rest, "/")
		switch t.kind.GVK.Kind {
		case "Pod":
			options = &corev1.PodProxyOptions{Path: path}
		case "Service":
			options = &corev1.ServiceProxyOptions{Path: path}
		default:
			options = &corev1.NodeProxyOptions{Path: path}
		}
	default:
		return nil
	}
	name := reflect.TypeOf(options).Elem().Name()
	options.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(name))
	return options
}

// reauthorize ends a stream whose caller has lost the right to it. The returned function
// ends the asking.
func (s *Server) reauthorize(ctx context.Context, end context.CancelFunc, still func(context.Context) error) func() {
	group := lifecycle.NewGroup(ctx)
	group.Go(func(ctx context.Context) error {
		ticker := time.NewTicker(s.reauthorizeEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
			if err := still(ctx); err != nil {
				end()
				return nil
			}
		}
	})
	return func() {
		group.Cancel()
		_ = group.Wait()
	}
}

// podOnNode is where a stream leads.
type podOnNode struct {
	pod     *corev1.Pod
	kubelet kubeletv1pb.KubeletServiceClient
	caller  *kubeletv1pb.Caller
}

// target names a container of the pod to the kubelet.
func (p podOnNode) target(container string) *kubeletv1pb.Target {
	return &kubeletv1pb.Target{Namespace: p.pod.Namespace, Pod: p.pod.Name, Uid: string(p.pod.UID), Container: container}
}

// findPod reads the pod and finds the way to its node.
func (s *Server) findPod(ctx context.Context, caller registry.Caller, t target) (podOnNode, error) {
	ref := t.ref
	ref.Subresource = ""
	record, err := s.cfg.Registry.Get(ctx, ref)
	if err != nil {
		return podOnNode{}, err
	}
	obj, err := decodeRecord(target{kind: t.kind, ref: ref}, record)
	if err != nil {
		return podOnNode{}, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return podOnNode{}, fmt.Errorf("%T is no pod", obj)
	}
	if pod.Spec.NodeName == "" {
		return podOnNode{}, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	conn, err := s.cfg.Nodes.Node(ctx, pod.Spec.NodeName)
	if err != nil {
		return podOnNode{}, err
	}
	return podOnNode{
		pod: pod, kubelet: kubeletv1pb.NewKubeletServiceClient(conn),
		caller: &kubeletv1pb.Caller{User: caller.User, RequestId: caller.RequestID},
	}, nil
}

// chooseContainer checks the container a client names, or finds the only one.
func chooseContainer(pod *corev1.Pod, name string) (string, error) {
	var regular, all []string
	for _, c := range pod.Spec.Containers {
		regular = append(regular, c.Name)
	}
	all = append(all, regular...)
	for _, c := range pod.Spec.InitContainers {
		all = append(all, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		all = append(all, c.Name)
	}
	if name != "" {
		if !slices.Contains(all, name) {
			return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
		}
		return name, nil
	}
	if len(regular) == 1 {
		return regular[0], nil
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(regular, " ")))
}

// kubeletError gives an error of the kubelet the class that clients understand.
func kubeletError(err error) error {
	err = rpc.FromStatus(err)
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		return err
	}
	return apierrors.NewInternalError(err)
}
