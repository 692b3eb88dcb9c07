package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"kijabi.dev/tools/imagetool/internal/image"
)

// Made is an image that is in the output directory.
type Made struct {
	// Name is the full reference, Digest that of the manifest.
	Name   string `json:"name"`
	Digest string `json:"digest"`
	// Packed is the size of the compressed layers, Unpacked that of the files in them,
	// in bytes.
	Packed   int64 `json:"packed"`
	Unpacked int64 `json:"unpacked"`
	// Inputs is a hash of all that the image was made of.
	Inputs string `json:"inputs"`
	// Kept tells that it was there already, made of the same.
	Kept bool `json:"-"`
}

// Make makes the images of the plan in directory, for each NAME: NAME.oci.tar,
// NAME.docker.tar and NAME.cdx.json. An image whose content is the same as that of the
// last time is left alone. An image that fails does not keep the others from being
// made; what came out is returned beside the error, in the order of the plan.
func (p Plan) Make(ctx context.Context, directory string, release Release) ([]Made, error) {
	tool, err := hashTool()
	if err != nil {
		return nil, err
	}
	made := make([]Made, len(p.Images))
	failed := make([]error, len(p.Images))
	group := errgroup.Group{}
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range p.Images {
		group.Go(func() error {
			if failed[i] = context.Cause(ctx); failed[i] == nil {
				made[i], failed[i] = p.Images[i].make(p.Registry, filepath.Join(directory, p.Images[i].Name), release, tool)
			}
			return nil // the others go on
		})
	}
	_ = group.Wait()
	var whole []Made
	for i := range made {
		if failed[i] == nil {
			whole = append(whole, made[i])
		}
	}
	return whole, errors.Join(failed...)
}

// make makes the archives that begin with the path base.
func (i *Image) make(registry, base string, release Release, tool string) (Made, error) {
	spec, libraries, err := i.spec(registry, release)
	if err != nil {
		return Made{}, err
	}
	inputs, err := fingerprint(spec, libraries, tool)
	if err != nil {
		return Made{}, fmt.Errorf("image %s: %w", i.Name, err)
	}
	outputs := []string{base + ".oci.tar", base + ".docker.tar", base + ".cdx.json"}
	record := filepath.Join(filepath.Dir(base), "."+filepath.Base(base)+".made")
	if made, ok := kept(record, inputs, outputs); ok {
		return made, nil
	}
	// Without the record nobody takes a mixture of old and new for whole.
	if err := os.Remove(record); err != nil && !os.IsNotExist(err) {
		return Made{}, fmt.Errorf("image %s: %w", i.Name, err)
	}
	spec, bill, err := WithBill(spec, release.Version, libraries)
	if err != nil {
		return Made{}, err
	}
	built, err := image.Build(spec)
	if err != nil {
		return Made{}, err
	}
	if err := image.WriteOCI(outputs[0], built); err != nil {
		return Made{}, err
	}
	if err := image.WriteDocker(outputs[1], built); err != nil {
		return Made{}, err
	}
	if err := image.WriteFile(outputs[2], bill); err != nil {
		return Made{}, err
	}
	digest, err := built.Digest()
	if err != nil {
		return Made{}, fmt.Errorf("image %s: %w", i.Name, err)
	}
	made := Made{Name: built.Name, Digest: digest.String(), Packed: built.Packed, Unpacked: built.Unpacked, Inputs: inputs}
	content, err := json.Marshal(made)
	if err != nil {
		return Made{}, fmt.Errorf("image %s: %w", i.Name, err)
	}
	return made, image.WriteFile(record, append(content, '\n'))
}

// kept returns what the record tells, if it was made of the same and is all there.
func kept(record, inputs string, outputs []string) (Made, bool) {
	content, err := os.ReadFile(record)
	if err != nil {
		return Made{}, false
	}
	var made Made
	if json.Unmarshal(content, &made) != nil || made.Inputs != inputs {
		return Made{}, false
	}
	for _, output := range outputs {
		if _, err := os.Stat(output); err != nil {
			return Made{}, false
		}
	}
	made.Kept = true
	return made, true
}
