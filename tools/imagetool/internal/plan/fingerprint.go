package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"kijabi.dev/tools/imagetool/internal/image"
	"kijabi.dev/tools/imagetool/internal/sbom"
)

// fingerprint is a hash of all that decides the bytes of an image: what it is to hold,
// the content of its files, and the tool. Times do not count: a build touches programs
// that it does not change.
func fingerprint(spec image.Spec, libraries map[string][]sbom.Library, tool string) (string, error) {
	contents := map[string]string{}
	for _, layer := range spec.Layers {
		for _, file := range layer {
			if file.Local == "" {
				continue
			}
			sum, err := hashFile(file.Local)
			if err != nil {
				return "", err
			}
			contents[file.Path] = sum
		}
	}
	text, err := json.Marshal(map[string]any{"spec": spec, "libraries": libraries, "contents": contents, "tool": tool})
	if err != nil {
		return "", fmt.Errorf("fingerprint: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

func hashFile(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// hashTool hashes this program: another one may pack the same files differently.
func hashTool() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return hashFile(program)
}
