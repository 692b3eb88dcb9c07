package addons

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// maxFile bounds what is read of a file.
const maxFile = 1 << 20

// file is a manifest as it was read.
type file struct {
	name string
	// sum is of the content.
	sum     string
	objects []*unstructured.Unstructured
	// err says why objects are not all that is meant.
	err error
}

// readDir reads the manifests of a directory, by name. It fails if the directory cannot be
// read, which says nothing about what should be there.
func readDir(dir string) ([]file, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	defer func() { _ = root.Close() }()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	var out []file
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			continue
		}
		f := file{name: name}
		content, err := readFile(root, name)
		if err == nil {
			sum := sha256.Sum256(content)
			f.sum = hex.EncodeToString(sum[:])
			f.objects, err = parse(content)
		}
		f.err = err
		out = append(out, f)
	}
	return out, nil
}

func readFile(root *os.Root, name string) ([]byte, error) {
	if problems := validation.IsConfigMapKey(name); len(problems) > 0 {
		return nil, fmt.Errorf("the file's name is not usable: %s", strings.Join(problems, "; "))
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("others may write it (mode %04o), and it is applied with all rights; chmod go-w it", info.Mode().Perm())
	case info.Size() > maxFile:
		return nil, fmt.Errorf("it has %d bytes, more than %d", info.Size(), maxFile)
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// parse finds the objects of a file: YAML or JSON documents, of which lists are taken apart.
func parse(content []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		text, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			return out, err
		}
		if string(bytes.TrimSpace(text)) == "null" {
			continue // a comment, or nothing
		}
		obj := &unstructured.Unstructured{}
		if err := json.Unmarshal(text, &obj.Object); err != nil {
			return out, err
		}
		found := []*unstructured.Unstructured{obj}
		if obj.IsList() {
			list, err := obj.ToList()
			if err != nil {
				return out, err
			}
			found = nil
			for i := range list.Items {
				found = append(found, &list.Items[i])
			}
		}
		for _, one := range found {
			if one.GetKind() == "" || one.GetAPIVersion() == "" || one.GetName() == "" {
				return out, fmt.Errorf("an object lacks apiVersion, kind or metadata.name: %s %q", one.GetKind(), one.GetName())
			}
			out = append(out, one)
		}
	}
}
