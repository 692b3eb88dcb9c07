package faults

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"kijabi.dev/test/faults/internal/cluster"
)

// overLife is longer than the certificates of a session's cluster live.
const overLife = cluster.CertificateLife + 30*time.Second

// programs are those that have certificates.
var programs = []string{"apiserver", "scheduler", "controller-manager", "cloud-controller-manager", "kubelet", "kube-proxy", "network-agent", "dns"}

// certificates end while programs run, and while a machine is off.
func certificates() []Fault {
	return []Fault{
		{
			ID: "F19/running", About: "the certificates of all programs end, and are renewed before", Hold: overLife, Limit: time.Second, KeepsLeader: true,
			Inject: func(_ context.Context, s Scene) (*Injection, error) { return renewal(s) },
		},
		{
			ID: "F19/away", About: "a follower's machine is off for longer than its certificates live", Hold: overLife, Limit: 10 * time.Second, KeepsLeader: true,
			Inject: func(ctx context.Context, s Scene) (*Injection, error) {
				master := s.follower()
				in, err := kill(ctx, s, master)
				if err == nil {
					down := in.Verify
					in.Verify = func(ctx context.Context) error {
						return errors.Join(down(ctx), allEnded(leaves(s, master)))
					}
				}
				return in, err
			},
		},
	}
}

// renewal changes nothing: time does.
func renewal(s Scene) (*Injection, error) {
	var before []cluster.Process
	var files []string
	for _, master := range s.Cluster.Masters() {
		all, err := s.Cluster.Processes(master)
		if err != nil {
			return nil, err
		}
		before = append(before, slices.DeleteFunc(all, func(p cluster.Process) bool { return !slices.Contains(programs, p.Name) })...)
		files = append(files, leaves(s, master)...)
	}
	first, err := ends(files)
	return &Injection{
		Heal: nothing,
		Verify: func(context.Context) error {
			var errs []error
			now, err := ends(files)
			errs = append(errs, err)
			for file, end := range now {
				if !end.After(first[file]) {
					errs = append(errs, fmt.Errorf("%s was not renewed, it ends at %s", file, end))
				}
			}
			for _, p := range before {
				if p.State() == 0 {
					errs = append(errs, fmt.Errorf("%s, process %d, did not live through the renewal", p.Name, p.PID))
				}
			}
			return errors.Join(errs...)
		},
	}, err
}

// leaves are the files of the certificates of a machine's programs.
func leaves(s Scene, master string) []string {
	found, _ := filepath.Glob(filepath.Join(s.Cluster.Dir(master), "lib", "identity", "*.crt")) // the pattern is valid
	return found
}

// ends are the times at which certificates end, those of authorities left out.
func ends(files []string) (map[string]time.Time, error) {
	found := map[string]time.Time{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(content)
		if block == nil {
			return nil, fmt.Errorf("%s holds no certificate", file)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if !cert.IsCA {
			found[file] = cert.NotAfter
		}
	}
	if len(found) == 0 {
		return nil, errors.New("there are no certificates")
	}
	return found, nil
}

func allEnded(files []string) error {
	all, err := ends(files)
	for file, end := range all {
		if time.Now().Before(end) {
			err = errors.Join(err, fmt.Errorf("%s does not end before %s", file, end))
		}
	}
	return err
}
