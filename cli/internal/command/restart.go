package command

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/pki"

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
		found, err := find()
		if err != nil {
			return err
		}
		conn, master, err := found.Connect(c.Context())
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		id, err := found.Identity(c.Context())
		if err != nil {
			return err
		}
		transport := &http.Transport{TLSClientConfig: id.ClientTLS(pki.APIServerName), ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		return restart.Run(c.Context(), restart.Options{
			Cluster:   &restart.Live{API: client.New(conn), HTTP: &http.Client{Transport: transport, Timeout: callTimeout}, Door: master.REST},
			Namespace: *namespace, Target: args[0], Containers: *containers, Timeout: *timeout,
			Say:   func(format string, args ...any) { _, _ = fmt.Fprintf(c.OutOrStdout(), format+"\n", args...) },
			Clock: clock.RealClock{},
		})
	}
	return c
}
