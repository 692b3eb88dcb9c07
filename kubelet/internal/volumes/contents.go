package volumes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"kijabi.dev/kubelet/internal/env"
)

// file is one file of a projected volume.
type file struct {
	data []byte
	mode int32
}

// contents computes the files of a volume and whether they hold secrets. directory is
// where the volume is, if it has been made before.
func (v *Volumes) contents(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume, directory string) (files map[string]file, secret bool, err error) {
	files = map[string]file{}
	switch {
	case volume.ConfigMap != nil:
		s := volume.ConfigMap
		err = v.addConfigMap(files, pod.Namespace, s.Name, s.Items, mode(s.DefaultMode), optional(s.Optional))
	case volume.Secret != nil:
		s := volume.Secret
		err = v.addSecret(files, pod.Namespace, s.SecretName, s.Items, mode(s.DefaultMode), optional(s.Optional))
		secret = true
	case volume.DownwardAPI != nil:
		err = v.addDownward(files, pod, volume.DownwardAPI.Items, mode(volume.DownwardAPI.DefaultMode))
	case volume.Projected != nil:
		base := mode(volume.Projected.DefaultMode)
		for i := range volume.Projected.Sources {
			source := &volume.Projected.Sources[i]
			switch {
			case source.ConfigMap != nil:
				s := source.ConfigMap
				err = v.addConfigMap(files, pod.Namespace, s.Name, s.Items, base, optional(s.Optional))
			case source.Secret != nil:
				s := source.Secret
				err = v.addSecret(files, pod.Namespace, s.Name, s.Items, base, optional(s.Optional))
				secret = true
			case source.DownwardAPI != nil:
				err = v.addDownward(files, pod, source.DownwardAPI.Items, base)
			case source.ServiceAccountToken != nil:
				err = v.addToken(ctx, files, pod, source.ServiceAccountToken, base, directory)
				secret = true
			default:
				err = fmt.Errorf("source %d is of a type that this kubelet does not support", i)
			}
			if err != nil {
				break
			}
		}
	}
	return files, secret, err
}

// addToken adds a token. While no master answers, one that the volume holds stays: it may
// still be good, and without it no container could start again.
func (v *Volumes) addToken(ctx context.Context, files map[string]file, pod *corev1.Pod, want *corev1.ServiceAccountTokenProjection, base int32, directory string) error {
	token, err := v.cfg.Token(ctx, pod, want)
	if err != nil {
		held, readErr := os.ReadFile(filepath.Join(directory, filepath.Clean("/"+want.Path)))
		if readErr != nil || len(held) == 0 {
			return err
		}
		token = string(held)
	}
	return add(files, want.Path, file{[]byte(token), base})
}

func (v *Volumes) addConfigMap(files map[string]file, namespace, name string, items []corev1.KeyToPath, base int32, optional bool) error {
	object, err := v.cfg.ConfigMap(namespace, name)
	if err != nil {
		if v.cfg.IsNotFound(err) && optional {
			return nil
		}
		return err
	}
	data := make(map[string][]byte, len(object.Data)+len(object.BinaryData))
	for key, value := range object.Data {
		data[key] = []byte(value)
	}
	for key, value := range object.BinaryData {
		data[key] = value
	}
	return addItems(files, data, items, base, optional, "configmap "+namespace+"/"+name)
}

func (v *Volumes) addSecret(files map[string]file, namespace, name string, items []corev1.KeyToPath, base int32, optional bool) error {
	object, err := v.cfg.Secret(namespace, name)
	if err != nil {
		if v.cfg.IsNotFound(err) && optional {
			return nil
		}
		return err
	}
	return addItems(files, object.Data, items, base, optional, "secret "+namespace+"/"+name)
}

func addItems(files map[string]file, data map[string][]byte, items []corev1.KeyToPath, base int32, optional bool, what string) error {
	if items == nil {
		for key, value := range data {
			if err := add(files, key, file{value, base}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s has no key %q", what, item.Key)
		}
		permissions := base
		if item.Mode != nil {
			permissions = *item.Mode
		}
		if err := add(files, item.Path, file{value, permissions}); err != nil {
			return err
		}
	}
	return nil
}

func (v *Volumes) addDownward(files map[string]file, pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, base int32) error {
	sources := v.cfg.Fields(pod)
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = env.Field(pod, item.FieldRef.FieldPath, sources)
		case item.ResourceFieldRef != nil:
			value, err = env.ResourceField(pod, item.ResourceFieldRef.ContainerName, item.ResourceFieldRef, sources.Allocatable)
		default:
			err = fmt.Errorf("file %s refers to nothing", item.Path)
		}
		if err != nil {
			return err
		}
		permissions := base
		if item.Mode != nil {
			permissions = *item.Mode
		}
		if err := add(files, item.Path, file{[]byte(value), permissions}); err != nil {
			return err
		}
	}
	return nil
}

func add(files map[string]file, path string, f file) error {
	clean := filepath.Clean(path)
	if !filepath.IsLocal(clean) || clean == "." || len(clean) >= 2 && clean[:2] == ".." {
		return fmt.Errorf("path %q leaves the volume", path)
	}
	files[clean] = f
	return nil
}

func mode(value *int32) int32 {
	if value == nil {
		return defaultFileMode
	}
	return *value
}

func optional(flag *bool) bool { return flag != nil && *flag }
