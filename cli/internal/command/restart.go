package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/pki"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/restart"
)

func newRestart() *cobra.Command {
	c := &cobra.Command{
		Use: "restart POD | deployment/NAME | statefulset/NAME | daemonset/NAME", Short: "Restart containers in place",
		Long: `Restarts containers where they are: pods keep their names, nodes, addresses and volumes.
preStop hooks and grace periods are honoured. Pods of a workload are restarted one after the
other; each must be ready again before the next, and the first that does not come up ends it.

To roll out new pods instead, use kijabi kubectl rollout restart.`,
		Example: `  kijabi restart web-0
  kijabi restart web-0 -c proxy
  kijabi restart -n shop deployment/web`,
		Args: cobra.ExactArgs(1),
	}
	namespace := c.Flags().StringP("namespace", "n", "default", "namespace of the pod or workload")
	containers := c.Flags().StringArrayP("container", "c", nil, "container to restart, any number (default: all containers and sidecars)")
	timeout := c.Flags().Duration("timeout", 5*time.Minute, "longest wait for one pod to be ready again")
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := clientset(c.Context(), find)
		if err != nil {
			return err
		}
		return restart.Run(c.Context(), restart.Options{
			Cluster: restart.Live{Client: client}, Namespace: *namespace, Target: args[0], Containers: *containers, Timeout: *timeout,
			Say:   func(format string, args ...any) { _, _ = fmt.Fprintf(c.OutOrStdout(), format+"\n", args...) },
			Clock: clock.RealClock{},
		})
	}
	return c
}

// clientset is a client of the REST door of a master that answers.
func clientset(ctx context.Context, find func() (*access.Access, error)) (kubernetes.Interface, error) {
	found, err := find()
	if err != nil {
		return nil, err
	}
	conn, master, err := found.Connect(ctx)
	if err != nil {
		return nil, err
	}
	_ = conn.Close()
	files := found.Files()
	return kubernetes.NewForConfig(&rest.Config{
		Host:            "https://" + master.REST,
		TLSClientConfig: rest.TLSClientConfig{CertFile: files.CertFile, KeyFile: files.KeyFile, CAFile: files.CAFile, ServerName: pki.APIServerName},
	})
}
