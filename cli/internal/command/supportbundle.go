package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/supportbundle"
)

func newSupportBundle() *cobra.Command {
	c := &cobra.Command{
		Use: "support-bundle", Short: "Collect logs, state and figures in one archive, without secrets",
		Long: `support-bundle writes one .tar.gz for whoever helps you.

On a member of a cluster (as root) it holds the logs and units of Kijabi's programs, their
configuration and versions, what preflight says, health, certificates' dates, network,
packet filter, mounts, control groups, disk usage and containers. With access to the
cluster it also holds what status says, masters' metrics, and nodes, pods, events and
other objects. What does not answer is left out: it works with every master down, and on
a laptop with only access it collects the part of the cluster.

Never in it: Secrets, values of ConfigMaps and of environment variables, private keys,
tokens, kubeconfigs, logs and files of containers. What looks like a key, a token or a
password anywhere else is replaced by ` + supportbundle.Removed + `. manifest.json lists what was collected
and what was not, with the reason. Have a look before you hand it on.`,
		Example: `  sudo kijabi support-bundle                          # on the machine in question
  sudo kijabi support-bundle --since 2h -f /tmp/b.tar.gz
  kijabi support-bundle                               # on a laptop with access

  # In a machine of kijabi up
  kijabi machine shell node-1 -- "$(command -v kijabi)" support-bundle -f - > node-1.tar.gz`,
		Args: cobra.NoArgs,
	}
	file := c.Flags().StringP("file", "f", "", "file to write, or - for standard output (default kijabi-support-HOST-TIME.tar.gz here)")
	since := c.Flags().Duration("since", 24*time.Hour, "how far back logs go")
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *since <= 0 {
			return fmt.Errorf("--since %s is no time to look back: give one like 24h", *since)
		}
		subject, err := subjectOfBundle(find, time.Now().Add(-*since), c.Flags().Changed("cluster"))
		if err != nil {
			return err
		}
		root := fmt.Sprintf("kijabi-support-%s-%s", subject.header.Machine, subject.header.Created.UTC().Format("20060102-150405"))
		write := func(out io.Writer) (*supportbundle.Manifest, error) {
			return supportbundle.Write(c.Context(), out, root, subject.header, subject.collectors)
		}
		path := *file
		if path == "" {
			path = root + ".tar.gz"
		}
		manifest, err := writeBundle(path, c.OutOrStdout(), write)
		if err != nil {
			return err
		}
		describeBundle(c.ErrOrStderr(), path, manifest)
		return nil
	}
	return c
}

// bundled is what a bundle is about.
type bundled struct {
	header     supportbundle.Header
	collectors []supportbundle.Collector
}

// subjectOfBundle decides what can be collected here: the machine, if it is a member or
// half of one, and the cluster, if there is access.
func subjectOfBundle(find func() (*access.Access, error), since time.Time, named bool) (bundled, error) {
	layout, err := install.InstalledLayout()
	if err != nil {
		return bundled{}, err
	}
	member, isMember, err := install.ReadMember(layout)
	if err != nil && !os.IsPermission(err) {
		return bundled{}, err
	}
	host, hostErr := os.Hostname()
	if hostErr != nil {
		return bundled{}, fmt.Errorf("host name: %w", hostErr)
	}
	of := bundled{header: supportbundle.Header{Created: time.Now(), Machine: host}}
	onMachine := isMember || err != nil || layout.Unfinished() != ""
	if onMachine {
		if err := requireRoot(); err != nil {
			return bundled{}, err
		}
	}
	var found *access.Access
	if isMember && member.Master && !named {
		found, err = access.Load(layout.AdminDir())
	} else {
		found, err = find()
	}
	if err != nil && !onMachine {
		return bundled{}, fmt.Errorf("nothing to collect: this machine is a member of no cluster, and %w", err)
	}
	if found != nil {
		of.collectors = supportbundle.Cluster(supportbundle.ClusterOptions{
			Status: func(ctx context.Context) (any, error) { return collect(ctx, found) },
			Connect: func(ctx context.Context) (*grpc.ClientConn, error) {
				conn, _, err := found.Connect(ctx)
				return conn, err
			},
			Metrics: func(ctx context.Context) (map[string][]byte, error) { return metrics(ctx, found) },
		})
	}
	if !onMachine {
		return of, nil
	}
	if isMember {
		of.header.Member = member.String()
	} else {
		member = install.Member{Name: host, BinDir: defaultBin(), Master: true} // every program may be there
	}
	machine := supportbundle.MachineOptions{Layout: layout, LogDir: configv1.LogDir, Member: member, Since: since}
	if found == nil {
		of.collectors = supportbundle.Cluster(supportbundle.ClusterOptions{Connect: machine.Connect, Node: member.Name})
	}
	of.collectors = append(supportbundle.Machine(machine), of.collectors...)
	return of, nil
}

// metricsLimit bounds what is taken of one master's metrics, and metricsTimeout the wait for it.
const (
	metricsLimit   = 8 << 20
	metricsTimeout = 5 * time.Second
)

// metrics asks every master what it counts.
func metrics(ctx context.Context, user *access.Access) (map[string][]byte, error) {
	id, err := user.Identity(ctx)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: id.ClientTLS(pki.APIServerName), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: metricsTimeout}
	found := map[string][]byte{}
	var errs []error
	for _, master := range user.Cluster.Masters {
		content, err := getMetrics(ctx, client, master.REST)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", master.Name, err))
			continue
		}
		found[master.Name] = content
	}
	return found, errors.Join(errs...)
}

func getMetrics(ctx context.Context, client *http.Client, door string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+door+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, metricsLimit))
}

// writeBundle writes to a file that only its owner reads, all or nothing.
func writeBundle(path string, stdout io.Writer, write func(io.Writer) (*supportbundle.Manifest, error)) (manifest *supportbundle.Manifest, err error) {
	if path == "-" {
		return write(stdout)
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return nil, fmt.Errorf("support bundle: %w", err)
	}
	defer func() {
		if err != nil {
			_ = file.Close()
			_ = os.Remove(file.Name())
		}
	}()
	if manifest, err = write(file); err != nil {
		return nil, fmt.Errorf("support bundle: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("support bundle: %w", err)
	}
	home, err := access.Home() // of the person behind sudo
	if err != nil {
		return nil, err
	}
	if err := home.Owner.Own(file.Name()); err != nil {
		return nil, err
	}
	return manifest, os.Rename(file.Name(), path)
}

func describeBundle(out io.Writer, path string, manifest *supportbundle.Manifest) {
	var size, redacted int
	for _, file := range manifest.Files {
		size, redacted = size+file.Bytes, redacted+file.Redacted
	}
	var text strings.Builder
	for _, missing := range manifest.Missing {
		fmt.Fprintf(&text, "not collected: %s: %s\n", missing.What, oneLine(fmt.Errorf("%s", missing.Reason)))
	}
	fmt.Fprintf(&text, "%s: %d files, %.1f MiB before compression, %d values removed. Have a look before you hand it on.\n",
		path, len(manifest.Files), float64(size)/(1<<20), redacted)
	_, _ = io.WriteString(out, text.String())
}
