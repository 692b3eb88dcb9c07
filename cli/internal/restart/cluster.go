package restart

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
)

// answerLimit bounds an answer of the REST door, bytes.
const answerLimit = 1 << 20

// Live is a Cluster that runs. Every field is required.
type Live struct {
	// API is a master's gRPC door.
	API *client.Client
	// HTTP reaches the REST door at host:port Door as the same user: restarts are asked for there.
	HTTP *http.Client
	Door string
}

var _ Cluster = (*Live)(nil)

// Pod implements Cluster.
func (l *Live) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return client.Get[*corev1.Pod](ctx, l.API, object.Key{Namespace: namespace, Name: name})
}

// Pods implements Cluster. Those that merely have the workload's labels are left out.
func (l *Live) Pods(ctx context.Context, kind, namespace, name string) ([]corev1.Pod, error) {
	key := object.Key{Namespace: namespace, Name: name}
	var selector *metav1.LabelSelector
	owners := map[types.UID]bool{}
	switch kind {
	case "statefulset":
		set, err := client.Get[*appsv1.StatefulSet](ctx, l.API, key)
		if err != nil {
			return nil, err
		}
		selector, owners[set.UID] = set.Spec.Selector, true
	case "daemonset":
		set, err := client.Get[*appsv1.DaemonSet](ctx, l.API, key)
		if err != nil {
			return nil, err
		}
		selector, owners[set.UID] = set.Spec.Selector, true
	default:
		deployment, err := client.Get[*appsv1.Deployment](ctx, l.API, key)
		if err != nil {
			return nil, err
		}
		selector = deployment.Spec.Selector
		sets, err := ownedBy[*appsv1.ReplicaSet](ctx, l.API, namespace, selector, map[types.UID]bool{deployment.UID: true})
		if err != nil {
			return nil, err
		}
		for _, set := range sets {
			owners[set.UID] = true
		}
	}
	found, err := ownedBy[*corev1.Pod](ctx, l.API, namespace, selector, owners)
	if err != nil {
		return nil, err
	}
	pods := make([]corev1.Pod, 0, len(found))
	for _, pod := range found {
		pods = append(pods, *pod)
	}
	return pods, nil
}

// ownedBy lists objects that a selector selects and one of the owners controls.
func ownedBy[T object.Object](ctx context.Context, api *client.Client, namespace string, selector *metav1.LabelSelector, owners map[types.UID]bool) ([]T, error) {
	page, err := client.List[T](ctx, api, client.ListOptions{Namespace: namespace, LabelSelector: metav1.FormatLabelSelector(selector)})
	if err != nil {
		return nil, err
	}
	var result []T
	for _, obj := range page.Items {
		if owner := metav1.GetControllerOf(obj); owner != nil && owners[owner.UID] {
			result = append(result, obj)
		}
	}
	return result, nil
}

// Restart implements Cluster. It is asked for once: a restart that is repeated is done twice.
func (l *Live) Restart(ctx context.Context, namespace, name string, containers []string) (map[string]string, error) {
	at := url.URL{
		Scheme: "https", Host: l.Door, Path: "/api/v1/namespaces/" + namespace + "/pods/" + name + "/restart",
		RawQuery: url.Values{"container": containers}.Encode(),
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	answer, err := l.HTTP.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, answerLimit))
	if err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	var status metav1.Status
	if err := json.Unmarshal(body, &status); err != nil {
		return nil, fmt.Errorf("answer %s: %w", answer.Status, err)
	}
	if answer.StatusCode != http.StatusOK || status.Status != metav1.StatusSuccess {
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	ended := map[string]string{}
	if status.Details != nil {
		for _, cause := range status.Details.Causes {
			ended[cause.Field] = cause.Message
		}
	}
	return ended, nil
}
