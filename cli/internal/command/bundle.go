package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"kijabi.dev/cli/internal/bundle"
)

func newBundle() *cobra.Command {
	c := &cobra.Command{Use: "bundle", Short: "Check release archives"}
	verify := &cobra.Command{
		Use:   "verify ARCHIVE --key kijabi.pub",
		Short: "Check signature and checksums of a release archive",
		Long: `verify checks that the holder of the release key has signed every byte of the archive,
and that the files in it are those that its list of checksums names. Get the public key
from somewhere else than the archive. The same signature can be checked without Kijabi:

  openssl pkeyutl -verify -pubin -inkey kijabi.pub -rawin -in ARCHIVE -sigfile ARCHIVE.sig`,
		Example: `  kijabi bundle verify kijabi-0.1.0-linux-amd64.tar.gz --key kijabi.pub`,
		Args:    cobra.ExactArgs(1),
	}
	key := verify.Flags().String("key", "", "public key to verify with, a PEM file (required)")
	signature := verify.Flags().String("signature", "", "file of the signature (default: ARCHIVE.sig)")
	verify.RunE = func(c *cobra.Command, args []string) error {
		if *key == "" {
			return fmt.Errorf("public key is missing: name kijabi.pub with --key")
		}
		found, err := bundle.Verify(args[0], *signature, *key)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(c.OutOrStdout(), "%s: signature and checksums are right (%s, %d files, %.0f MiB unpacked)\n",
			args[0], found.Name, found.Files, float64(found.Size)/(1<<20))
		return nil
	}
	c.AddCommand(verify)
	return c
}
