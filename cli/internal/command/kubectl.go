package command

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"kijabi.dev/cli/internal/access"
)

// newKubectl hands kubectl's command line over unparsed; Main does so even earlier.
func newKubectl() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl ...", Short: "kubectl, built in, talking to a living master",
		Long: `kubectl is the whole kubectl command. It uses $KUBECONFIG, else $HOME/.kijabi/kubeconfig,
and picks a master that is alive.`,
		Example: `  kijabi kubectl get pods -A
  kijabi kubectl apply -f examples/guestbook`,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if code := kubectl(append([]string{"kijabi", "kubectl"}, args...)); code != 0 {
				return exitError(code)
			}
			return nil
		},
	}
}

// kubectl runs kubectl's own command tree. Its errors print themselves and end the
// program, as those of kubectl do.
func kubectl(args []string) int {
	if err := prepareKubectl(); err != nil {
		fmt.Fprintln(os.Stderr, "Error: "+oneLine(err))
		return 1
	}
	flags := genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50)
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	command := kubectlcmd.NewDefaultKubectlCommandWithArgs(kubectlcmd.KubectlOptions{
		PluginHandler: kubectlcmd.NewDefaultPluginHandler([]string{"kubectl"}),
		Arguments:     append([]string{"kubectl"}, args[2:]...), ConfigFlags: flags, IOStreams: streams,
	})
	command.Use = "kubectl"
	command.SetArgs(args[2:])
	if err := command.Execute(); err != nil {
		cmdutil.CheckErr(err)
		return 1
	}
	return 0
}

// prepareKubectl sets $KUBECONFIG and points it to a living master.
func prepareKubectl() error {
	if os.Getenv("KUBECONFIG") != "" {
		return nil
	}
	home, err := access.Home()
	if err != nil {
		return err
	}
	path := home.Kubeconfig()
	if _, err := os.Stat(path); err != nil {
		if admin, err := access.Load("/etc/kijabi/admin"); err == nil {
			return adminKubectl(admin)
		}
		return fmt.Errorf("no cluster found: %s does not exist; start one with `kijabi up`, or run this as root on a master", path)
	}
	if err := os.Setenv("KUBECONFIG", path); err != nil {
		return err
	}
	if found, err := access.Find(""); err == nil && strings.HasPrefix(found.Dir, home.Dir) {
		return found.RepairKubeconfig(path, home.Owner)
	}
	return nil
}

// adminKubectl makes root's kubeconfig on a master, beside its access.
func adminKubectl(admin *access.Access) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	path := admin.Dir + "/kubeconfig"
	if err := os.Setenv("KIJABI_ACCESS", admin.Dir); err != nil {
		return err
	}
	if err := admin.WriteKubeconfig(path, program, access.Owner{}); err != nil {
		return err
	}
	if err := admin.RepairKubeconfig(path, access.Owner{}); err != nil {
		return err
	}
	return os.Setenv("KUBECONFIG", path)
}
