package main

import (
	"context"
	"fmt"
	"io"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
)

func deployment(opts options, name string) *appsv1.Deployment {
	namespace := opts.namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	replicas, labels := int32(opts.replicas), map[string]string{"app.kubernetes.io/name": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: opts.image}}},
			},
		},
	}
}

func createDeployment(ctx context.Context, c *client.Client, wanted *appsv1.Deployment, out io.Writer) error {
	created, err := c.Create(ctx, wanted)
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("deployment %s/%s exists already: choose another name or delete it first", wanted.Namespace, wanted.Name)
	}
	if err != nil {
		return fmt.Errorf("create deployment %s/%s: %w", wanted.Namespace, wanted.Name, err)
	}
	_, err = fmt.Fprintf(out, "deployment %s/%s created, version %s\n", created.GetNamespace(), created.GetName(), created.GetResourceVersion())
	return err
}

func deleteDeployment(ctx context.Context, c *client.Client, target *appsv1.Deployment, out io.Writer) error {
	err := c.Delete(ctx, target, client.DeleteOptions{Propagation: metav1.DeletePropagationBackground})
	if err != nil {
		return fmt.Errorf("delete deployment %s/%s: %w", target.Namespace, target.Name, err)
	}
	_, err = fmt.Fprintf(out, "deployment %s/%s deleted\n", target.Namespace, target.Name)
	return err
}
