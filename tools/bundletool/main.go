// Command bundletool makes the release archive: everything that a machine without a
// network needs to become a member of a cluster, with checksums and a signature. The
// same input gives the same bytes.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"kijabi.dev/tools/internal/commandline"
)

func main() { os.Exit(commandline.Main(command())) }

func command() *cobra.Command {
	return commandline.Tool("bundletool", "Make signed release archives", makeCommand())
}

func makeCommand() *cobra.Command {
	var spec Spec
	var out, key string
	cmd := &cobra.Command{
		Use:   "make --version VERSION --bin DIR --license FILE -o DIR",
		Short: "Pack the programs and images of a directory and sign the archive",
		Long: `make writes into the output directory

  kijabi-VERSION-linux-ARCH.tar.gz         the archive: one directory kijabi-VERSION
  kijabi-VERSION-linux-ARCH.tar.gz.sha256  its checksum, for sha256sum -c
  kijabi-VERSION-linux-ARCH.tar.gz.sig     its Ed25519 signature, 64 bytes
  kijabi.pub                               the public key, PEM

The key is a PEM file (PKCS#8, Ed25519), as openssl genpkey -algorithm ed25519 makes it.
Without --key it is ~/.kijabi/signing.key, which is made when there is none.`,
		Example: `  bundletool make --version 0.1.0 --bin bin --license LICENSE -o bin/bundle
  bundletool make --version 0.1.0 --arch arm64 --bin bin/linux-arm64 --license LICENSE \
    --key release.key -o bin/bundle`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if key == "" {
				home, err := os.UserHomeDir()
				if err != nil {
					return fmt.Errorf("signing key: %w: name one with --key", err)
				}
				key = filepath.Join(home, ".kijabi", "signing.key")
				made, err := ensureKey(key)
				if err != nil {
					return err
				}
				if made {
					fmt.Fprintf(cmd.ErrOrStderr(), "bundle: made a new signing key, %s: keep it, and keep it secret\n", key)
				}
			}
			signer, err := loadKey(key)
			if err != nil {
				return err
			}
			made, err := Make(spec, signer, out)
			if err != nil {
				return err
			}
			fmt.Fprint(cmd.OutOrStdout(), made.Summary())
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Version, "version", "", "version, such as 0.1.0")
	flags.StringVar(&spec.Architecture, "arch", DefaultArchitecture, "architecture of the programs")
	flags.StringVar(&spec.Bin, "bin", "", "directory of the programs, with images/ in it")
	flags.StringVar(&spec.License, "license", "", "our licence")
	flags.StringArrayVar(&spec.Notices, "notice", nil, "further licence text to put into NOTICES; may be repeated")
	flags.StringVar(&key, "key", "", "private key to sign with (default ~/.kijabi/signing.key)")
	flags.StringVarP(&out, "output", "o", "", "directory to write to")
	commandline.Require(cmd, "version", "bin", "license", "output")
	return cmd
}
