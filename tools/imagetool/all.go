package main

import (
	"fmt"
	"io"
	"runtime/debug"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"kijabi.dev/tools/imagetool/internal/image"
	"kijabi.dev/tools/imagetool/internal/plan"
	"kijabi.dev/tools/internal/commandline"
)

func buildAllCommand() *cobra.Command {
	var release plan.Release
	var directory string
	var values map[string]string
	cmd := &cobra.Command{
		Use:   "build-all PLAN --out DIR --version VERSION",
		Short: "Write all images that a file lists",
		Long: `Makes every image that PLAN lists and writes, for each NAME, into DIR: NAME.oci.tar
(OCI archive), NAME.docker.tar (for docker load) and NAME.cdx.json (CycloneDX bill of
materials, which is in the image, too). An image that is there already, made of the same
files with the same labels, is left alone. Prints one line for each image.`,
		Example: `  imagetool build-all deploy/images/images.yaml --out bin/container-images \
    --version 0.1.0 --revision 0123abcd --set bin=$PWD/bin`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			read, err := plan.Read(args[0], values)
			if err != nil {
				return err
			}
			tool, ok := debug.ReadBuildInfo()
			if !ok {
				return fmt.Errorf("this program does not tell what it was built from: build it with 'go build'")
			}
			release.Tool = tool
			made, failed := read.Make(cmd.Context(), directory, release)
			if err := list(cmd.OutOrStdout(), made); err != nil {
				return err
			}
			return failed
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&directory, "out", "", "directory to write to")
	flags.StringVar(&release.Version, "version", "", "tag and label of every image")
	flags.StringVar(&release.Revision, "revision", "", "commit of the sources: a label")
	flags.StringVar(&release.Architecture, "arch", image.DefaultArchitecture, "architecture of the programs, amd64 or arm64")
	flags.StringToStringVar(&values, "set", nil, "NAME=VALUE for each ${NAME} of the plan; may be repeated")
	commandline.Require(cmd, "out", "version")
	return cmd
}

func list(out io.Writer, made []plan.Made) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, one := range made {
		note := ""
		if one.Kept {
			note = "unchanged"
		}
		fmt.Fprintf(table, "%s\t%6.1f MiB packed\t%6.1f MiB unpacked\t%s\n", one.Name, mebibytes(one.Packed), mebibytes(one.Unpacked), note)
	}
	return table.Flush()
}

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }
