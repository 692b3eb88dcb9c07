package command

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/compose"
)

func newCompose() *cobra.Command {
	c := &cobra.Command{
		Use: "compose", Short: "Start or remove the demo of containers on a Docker engine",
		Long: `compose starts the cluster of deploy/compose on the Docker engine of this host: 3 masters
and 2 nodes, every program in a container of its own, any of which can be killed and
started again alone.`,
		Example: `  kijabi compose up
  docker kill -s QUIT master-1-apiserver      # a crash: it is started again
  kijabi status --cluster compose
  kijabi compose down`,
	}
	c.AddCommand(newComposeUp(), newComposeDown())
	return c
}

func newComposeUp() *cobra.Command {
	c := &cobra.Command{
		Use: "up", Short: "Start the demo, or what of it is stopped, and wait until it is Ready",
		Long: `up gives the engine the images it does not have, runs "docker compose up" (or
docker-compose), waits until every machine is a member of the cluster and Ready, and
writes your access to $HOME/.kijabi. Run again, it starts what is stopped.

COMPOSE_PROFILES chooses more machines: masters-5, nodes-3, nodes-4. KIJABI_NET sets the
first three parts of the machines' addresses (default 10.90.0).`,
		Example: `  kijabi compose up
  COMPOSE_PROFILES=masters-5,nodes-4 kijabi compose up
  KIJABI_NET=10.91.0 kijabi compose up`,
		Args: cobra.NoArgs,
	}
	file := c.Flags().String("file", "", "Compose file (default: deploy/compose/docker-compose.yaml beside the directory of kijabi)")
	images := c.Flags().String("images", "", "directory of the image archives (default: container-images beside kijabi)")
	timeout := c.Flags().Duration("timeout", 10*time.Minute, "give up after this time")
	c.RunE = func(c *cobra.Command, _ []string) error {
		home, err := access.Home()
		if err != nil {
			return err
		}
		program, err := os.Executable()
		if err != nil {
			return fmt.Errorf("path of this program: %w", err)
		}
		o := compose.Options{
			File: *file, Images: *images, Home: home, Program: program, Timeout: *timeout, Progress: newProgress(),
		}
		if o.File == "" {
			o.File = filepath.Join(filepath.Dir(defaultBin()), "deploy", "compose", "docker-compose.yaml")
		}
		if o.Images == "" {
			o.Images = filepath.Join(defaultBin(), "container-images")
		}
		user, err := compose.Up(c.Context(), o)
		if err != nil {
			return err
		}
		composeNextSteps(home.Kubeconfig(), user)
		return nil
	}
	return c
}

func composeNextSteps(kubeconfig string, user *access.Access) {
	_, _ = fmt.Fprintf(os.Stdout, `
export KUBECONFIG=%[1]s

Three things to try:
  kijabi kubectl apply -f examples/guestbook     then open http://%[2]s:30080/ from this host
  docker kill -s QUIT %[3]s-apiserver       crash a master's apiserver; kijabi status --cluster compose
  docker restart node-1-kubelet                  the pods of node-1 do not notice

More to break: deploy/compose/README.md. The end: make compose-down
`, kubeconfig, hostOf(user.Cluster.Masters[0].REST), user.Cluster.Masters[0].Name)
}

func newComposeDown() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Remove the demo: containers, network, volumes and your access",
		Long: `down removes everything that up has made, whatever profiles it was started with. It
asks nothing. The images stay; docker image rm removes them.`,
		Example: `  kijabi compose down`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			home, err := access.Home()
			if err != nil {
				return err
			}
			return compose.Down(c.Context(), compose.Options{Home: home, Progress: newProgress()})
		},
	}
}
