package command

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"kijabi.dev/platform/pki"

	"kijabi.dev/cli/internal/access"
	"kijabi.dev/cli/internal/output"
)

func newCredential() *cobra.Command {
	c := &cobra.Command{
		Use: "credential", Short: "Print the user's certificate for kubectl (called by kubectl itself)",
		Long: `credential is an exec credential plugin: kubectl, helm and client-go call it, because
the kubeconfig says so, and get the user's current certificate. Certificates live for a
day; this renews yours when two thirds of that have passed. It also points the kubeconfig
to another master when its own is dead, for the next call.`,
		Args: cobra.NoArgs,
	}
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		found, err := find()
		if err != nil {
			return err
		}
		if err := found.Renew(c.Context()); err != nil {
			return err
		}
		repairOwn(found)
		files := found.Files()
		certPEM, err := os.ReadFile(files.CertFile)
		if err != nil {
			return fmt.Errorf("your certificate: %w", err)
		}
		keyPEM, err := os.ReadFile(files.KeyFile)
		if err != nil {
			return fmt.Errorf("your key: %w", err)
		}
		cert, err := pki.ParseCertificate(certPEM)
		if err != nil {
			return fmt.Errorf("your certificate %s: %w", files.CertFile, err)
		}
		return output.JSON(c.OutOrStdout(), map[string]any{
			"apiVersion": "client.authentication.k8s.io/v1beta1", "kind": "ExecCredential",
			"status": map[string]any{
				"expirationTimestamp":   cert.NotAfter.UTC().Format("2006-01-02T15:04:05Z"),
				"clientCertificateData": string(certPEM), "clientKeyData": string(keyPEM),
			},
		})
	}
	return c
}

// repairOwn repairs the user's kubeconfig. Not being able to is no reason to withhold
// the certificate.
func repairOwn(found *access.Access) {
	home, err := access.Home()
	if err != nil || !strings.HasPrefix(found.Dir, home.Dir) {
		return
	}
	if _, err := os.Stat(home.Kubeconfig()); err == nil {
		_ = found.RepairKubeconfig(home.Kubeconfig(), home.Owner)
	}
}
