package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"kijabi.dev/tools/imagetool/internal/image"
	"kijabi.dev/tools/imagetool/internal/plan"
	"kijabi.dev/tools/internal/commandline"
)

// buildOptions are the flags of `imagetool build`.
type buildOptions struct {
	spec        image.Spec
	labels      image.Labels
	files, dirs []string
	oci, docker string
	sbom        string
}

func buildCommand() *cobra.Command {
	var opts buildOptions
	cmd := &cobra.Command{
		Use:   "build --name REF --version VERSION --entrypoint PATH --file LOCAL:/PATH[:MODE] -o OUT.tar",
		Short: "Write an image as an OCI archive, a docker archive, or both",
		Long: `Writes one image with all files in one layer, as an OCI archive (containerd reads
it), a docker archive (docker load reads it), or both. The image carries labels and, as
/usr/share/kijabi/sbom.cdx.json, a CycloneDX bill of materials from what its Go programs
tell about themselves.`,
		Example: `  imagetool build --name registry.example.com/web:1 --version 0.1.0 --entrypoint /web \
    --file bin/web:/web --port 8080 --user 65532:65532 -o web.tar --sbom web.cdx.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			built, err := opts.run()
			if err != nil {
				return err
			}
			digest, err := built.Digest()
			if err != nil {
				return fmt.Errorf("image %s: %w", built.Name, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s@%s\n", built.Name, digest)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.spec.Name, "name", "", "reference of the image, with tag")
	flags.StringArrayVar(&opts.spec.Entrypoint, "entrypoint", nil, "program of the image; repeat for fixed arguments")
	flags.StringArrayVar(&opts.spec.Command, "cmd", nil, "default argument; may be repeated")
	flags.StringArrayVar(&opts.files, "file", nil, "file to put in, LOCAL:/PATH[:MODE], mode 0755 when not given; may be repeated")
	flags.StringArrayVar(&opts.dirs, "dir", nil, "empty directory to make, /PATH[:MODE], mode 0755 when not given; may be repeated")
	flags.StringArrayVar(&opts.spec.Env, "env", nil, "environment variable, NAME=VALUE; may be repeated")
	flags.StringArrayVar(&opts.spec.Ports, "port", nil, "port served, N or N/udp; may be repeated")
	flags.StringVar(&opts.spec.User, "user", "", "user, UID or UID:GID")
	flags.StringVar(&opts.spec.WorkingDir, "workdir", "/", "working directory")
	flags.StringVar(&opts.spec.Architecture, "arch", image.DefaultArchitecture, "architecture of the binaries, amd64 or arm64")
	flags.StringVar(&opts.labels.Version, "version", "", "version of the image: a label, and that of modules in the bill of materials that have none")
	flags.StringVar(&opts.labels.Revision, "revision", "", "commit of the sources: a label")
	flags.StringVar(&opts.labels.Title, "title", "", "name for people: a label")
	flags.StringVar(&opts.labels.Description, "description", "", "one sentence: a label")
	flags.StringVar(&opts.labels.Licenses, "licenses", "", "SPDX expression: a label")
	flags.StringVarP(&opts.oci, "output", "o", "", "OCI archive to write")
	flags.StringVar(&opts.docker, "docker", "", "docker archive to write")
	flags.StringVar(&opts.sbom, "sbom", "", "bill of materials to write, as it is in the image")
	commandline.Require(cmd, "name", "version", "entrypoint", "file")
	return cmd
}

func (o *buildOptions) run() (*image.Image, error) {
	if o.oci == "" && o.docker == "" {
		return nil, fmt.Errorf("nothing to write: give --output or --docker")
	}
	layer, err := o.layer()
	if err != nil {
		return nil, err
	}
	spec := o.spec
	spec.Layers, spec.Labels = []image.Layer{layer}, o.labels.Map()
	spec, bill, err := plan.WithBill(spec, o.labels.Version, nil)
	if err != nil {
		return nil, err
	}
	built, err := image.Build(spec)
	if err != nil {
		return nil, err
	}
	if o.oci != "" {
		if err := image.WriteOCI(o.oci, built); err != nil {
			return nil, err
		}
	}
	if o.docker != "" {
		if err := image.WriteDocker(o.docker, built); err != nil {
			return nil, err
		}
	}
	if o.sbom != "" {
		if err := image.WriteFile(o.sbom, bill); err != nil {
			return nil, err
		}
	}
	return built, nil
}

func (o *buildOptions) layer() (image.Layer, error) {
	var layer image.Layer
	for _, text := range o.files {
		file, err := image.ParseFile(text)
		if err != nil {
			return nil, err
		}
		layer = append(layer, file)
	}
	for _, text := range o.dirs {
		dir, err := image.ParseDir(text)
		if err != nil {
			return nil, err
		}
		layer = append(layer, dir)
	}
	return layer, nil
}
