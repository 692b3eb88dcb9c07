package restart

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Live is a Cluster over the REST door.
type Live struct{ Client kubernetes.Interface }

var _ Cluster = Live{}

// Pod implements Cluster.
func (l Live) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return l.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Pods implements Cluster. Those that merely have the workload's labels are left out.
func (l Live) Pods(ctx context.Context, kind, namespace, name string) ([]corev1.Pod, error) {
	var selector *metav1.LabelSelector
	owners := map[types.UID]bool{}
	switch apps := l.Client.AppsV1(); kind {
	case "statefulset":
		set, err := apps.StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		selector, owners[set.UID] = set.Spec.Selector, true
	case "daemonset":
		set, err := apps.DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		selector, owners[set.UID] = set.Spec.Selector, true
	default:
		deployment, err := apps.Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		selector = deployment.Spec.Selector
		sets, err := apps.ReplicaSets(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
		if err != nil {
			return nil, err
		}
		owned(sets.Items, deployment.UID, func(set *appsv1.ReplicaSet) { owners[set.UID] = true })
	}
	list, err := l.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
	if err != nil {
		return nil, err
	}
	var pods []corev1.Pod
	for i := range list.Items {
		if owner := metav1.GetControllerOf(&list.Items[i]); owner != nil && owners[owner.UID] {
			pods = append(pods, list.Items[i])
		}
	}
	return pods, nil
}

func owned(sets []appsv1.ReplicaSet, by types.UID, use func(*appsv1.ReplicaSet)) {
	for i := range sets {
		if owner := metav1.GetControllerOf(&sets[i]); owner != nil && owner.UID == by {
			use(&sets[i])
		}
	}
}

// Restart implements Cluster.
func (l Live) Restart(ctx context.Context, namespace, name string, containers []string) (map[string]string, error) {
	request := l.Client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(name).SubResource("restart").
		MaxRetries(0) // a restart that is asked for twice is done twice
	for _, container := range containers {
		request.Param("container", container)
	}
	result := request.Do(ctx)
	if err := result.Error(); err != nil { // it reads the Status, unlike Raw
		return nil, err
	}
	body, err := result.Raw()
	if err != nil {
		return nil, err
	}
	var answer metav1.Status
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("answer about pod %s: %w", name, err)
	}
	ended := map[string]string{}
	if answer.Details != nil {
		for _, cause := range answer.Details.Causes {
			ended[cause.Field] = cause.Message
		}
	}
	return ended, nil
}
