// Command imagetool makes container images from static binaries, without a base
// image, a daemon or a network. The same input gives the same bytes.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "imagetool:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "imagetool",
		Short:         "Make container images from static binaries",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(buildCommand())
	return root
}

func buildCommand() *cobra.Command {
	var spec Spec
	var files, dirs []string
	var ociPath, dockerPath string
	cmd := &cobra.Command{
		Use:   "build --name REF --entrypoint PATH --file LOCAL:/PATH[:MODE] -o OUT.tar",
		Short: "Write an image as an OCI archive, a docker archive, or both",
		Example: `  imagetool build --name registry.example.com/web:1 --entrypoint /web \
    --file bin/web:/web --port 8080 --user 65532:65532 -o web.tar`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ociPath == "" && dockerPath == "" {
				return fmt.Errorf("nothing to write: give --output or --docker")
			}
			for _, text := range files {
				file, err := ParseFile(text)
				if err != nil {
					return err
				}
				spec.Files = append(spec.Files, file)
			}
			for _, text := range dirs {
				dir, err := ParseDir(text)
				if err != nil {
					return err
				}
				spec.Files = append(spec.Files, dir)
			}
			image, err := Build(spec)
			if err != nil {
				return err
			}
			if ociPath != "" {
				if err := WriteOCI(ociPath, image); err != nil {
					return err
				}
			}
			if dockerPath != "" {
				if err := WriteDocker(dockerPath, image); err != nil {
					return err
				}
			}
			digest, err := image.Digest()
			if err != nil {
				return fmt.Errorf("image %s: %w", spec.Name, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s@%s\n", image.Name, digest)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&spec.Name, "name", "", "reference of the image, with tag")
	flags.StringArrayVar(&spec.Entrypoint, "entrypoint", nil, "program of the image; repeat for fixed arguments")
	flags.StringArrayVar(&spec.Command, "cmd", nil, "default argument; may be repeated")
	flags.StringArrayVar(&files, "file", nil, "file to put in, LOCAL:/PATH[:MODE], mode 0755 when not given; may be repeated")
	flags.StringArrayVar(&dirs, "dir", nil, "empty directory to make, /PATH[:MODE], mode 0755 when not given; may be repeated")
	flags.StringArrayVar(&spec.Env, "env", nil, "environment variable, NAME=VALUE; may be repeated")
	flags.StringArrayVar(&spec.Ports, "port", nil, "port served, N or N/udp; may be repeated")
	flags.StringVar(&spec.User, "user", "", "user, UID or UID:GID")
	flags.StringVar(&spec.WorkingDir, "workdir", "/", "working directory")
	flags.StringVar(&spec.Architecture, "arch", DefaultArchitecture, "architecture of the binaries")
	flags.StringVarP(&ociPath, "output", "o", "", "OCI archive to write")
	flags.StringVar(&dockerPath, "docker", "", "docker archive to write")
	for _, required := range []string{"name", "entrypoint", "file"} {
		if err := cmd.MarkFlagRequired(required); err != nil {
			panic(err) // a flag that was not declared above: a typing error of ours
		}
	}
	return cmd
}
