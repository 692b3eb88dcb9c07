package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/machine"
	"kijabi.dev/cli/internal/output"
)

func newImage() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Load container images into the machines"}
	load := &cobra.Command{
		Use:   "import ARCHIVE...",
		Short: "Load OCI or docker archives into every machine",
		Long: `import loads image archives into the container runtime of every machine that up has
started, so that pods can use them without a registry. On a machine that is a member by
itself it loads them there.`,
		Example: `  kijabi image import guestbook.tar
  docker save example/app:1 -o app.tar && kijabi image import app.tar`,
		Args: cobra.MinimumNArgs(1),
	}
	name := nameFlag(load)
	load.RunE = func(c *cobra.Command, archives []string) error {
		for _, archive := range archives {
			if info, err := os.Stat(archive); err != nil {
				return fmt.Errorf("image archive: %w", err)
			} else if info.IsDir() {
				return fmt.Errorf("image archive %s is a directory: give a .tar file", archive)
			}
		}
		if err := requireRoot(); err != nil {
			return err
		}
		progress := newProgress()
		fleet, err := machine.Open(machine.Root(), *name)
		if errors.Is(err, machine.ErrNotFound) {
			layout, err := install.InstalledLayout()
			if err != nil {
				return err
			}
			if member, ok, _ := install.ReadMember(layout); ok {
				return importHere(c.Context(), layout, member, archives, progress)
			}
		}
		if err != nil {
			return err
		}
		return importEverywhere(c.Context(), fleet, archives, progress)
	}
	c.AddCommand(load)
	return c
}

func importHere(ctx context.Context, layout install.Layout, member install.Member, archives []string, progress *output.Progress) error {
	for _, archive := range archives {
		path, err := filepath.Abs(archive)
		if err != nil {
			return err
		}
		if err := install.ImportImage(ctx, layout, member.BinDir, path); err != nil {
			return err
		}
		progress.Say("%s: %s imported", member.Name, filepath.Base(archive))
	}
	return nil
}

// importEverywhere imports in two machines at a time; more would only wait for the disk.
func importEverywhere(ctx context.Context, fleet *machine.Fleet, archives []string, progress *output.Progress) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for _, name := range fleet.Names() {
		group.Go(func() error {
			for _, archive := range archives {
				if err := importInto(ctx, fleet, name, archive); err != nil {
					return fmt.Errorf("import %s into machine %s: %w", archive, name, err)
				}
				progress.Say("%s: %s imported", name, filepath.Base(archive))
			}
			return nil
		})
	}
	return group.Wait()
}

// importInto hands the archive over as standard input: the machine need not see the file.
func importInto(ctx context.Context, fleet *machine.Fleet, name, archive string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	bin := fleet.State.BinDir
	if fleet.State.OwnRoots {
		member, ok, err := install.ReadMember(install.Layout{StateDir: fleet.StateDir(name)})
		if err != nil || !ok {
			return errors.Join(err, errors.New("it is no member of a cluster: install it first"))
		}
		bin = member.BinDir
	}
	command, err := fleet.Command(ctx, name, filepath.Join(bin, "ctr"),
		"--address", filepath.Join(configv1.RunDir, "containerd", "containerd.sock"),
		"--namespace", "k8s.io", "images", "import", "-")
	if err != nil {
		return err
	}
	var out bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = file, &out, &out
	if err := command.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if last := lines[len(lines)-1]; last != "" {
			return errors.New(last)
		}
		return err
	}
	return nil
}
