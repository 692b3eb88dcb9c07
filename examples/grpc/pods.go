package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/kube/client"
)

func listPods(ctx context.Context, c *client.Client, namespace string, out io.Writer) error {
	page, err := client.List[*corev1.Pod](ctx, c, client.ListOptions{Namespace: namespace})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(table, "NAMESPACE\tNAME\tPHASE\tNODE\tIP") // kept until Flush
	for _, pod := range page.Items {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", pod.Namespace, pod.Name, pod.Status.Phase, pod.Spec.NodeName, pod.Status.PodIP)
	}
	return table.Flush()
}

// watchPods prints the pods there are and then every change. When the stream
// breaks, because a master died for one, it goes on where it stopped.
func watchPods(ctx context.Context, c *client.Client, namespace string, out io.Writer) error {
	opts := client.WatchOptions{Namespace: namespace, SendInitialEvents: true}
	for ctx.Err() == nil {
		for message, err := range client.Watch[*corev1.Pod](ctx, c, opts) {
			if apierrors.IsResourceExpired(err) {
				opts = client.WatchOptions{Namespace: namespace, SendInitialEvents: true} // away too long: begin anew
				break
			}
			if apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) || ctx.Err() != nil {
				break // the next Watch waits for an apiserver that answers
			}
			if err != nil {
				return fmt.Errorf("watch pods: %w", err)
			}
			for _, event := range message.Events {
				if _, err := fmt.Fprintf(out, "%-8s %s/%s %s\n", event.Type, event.Object.Namespace, event.Object.Name, event.Object.Status.Phase); err != nil {
					return err
				}
			}
			if message.Progress != "" {
				opts.ResourceVersion, opts.SendInitialEvents = message.Progress, false
			}
		}
	}
	return nil
}
