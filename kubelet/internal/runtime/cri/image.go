package cri

import (
	"context"
	"errors"
	"fmt"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kijabi.dev/kubelet/internal/runtime"
)

// Image implements runtime.Images.
func (c *Client) Image(ctx context.Context, name string) (runtime.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	response, err := c.images.ImageStatus(ctx, &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: name}})
	if err != nil {
		return runtime.Image{}, translate("image "+name, err)
	}
	if response.GetImage().GetId() == "" {
		return runtime.Image{}, fmt.Errorf("image %s: %w", name, runtime.ErrNotFound)
	}
	return imageOf(response.GetImage()), nil
}

// Pull implements runtime.Images.
func (c *Client) Pull(ctx context.Context, name string, credentials []runtime.Credentials, sandbox runtime.SandboxSpec) (string, error) {
	attempts := make([]*criv1.AuthConfig, 0, len(credentials)+1)
	for _, credential := range credentials {
		attempts = append(attempts, &criv1.AuthConfig{
			Username: credential.Username, Password: credential.Password, Auth: credential.Auth,
			ServerAddress: credential.ServerAddress, IdentityToken: credential.IdentityToken,
		})
	}
	if len(attempts) == 0 {
		attempts = append(attempts, nil)
	}
	var failures []error
	for _, auth := range attempts {
		response, err := c.images.PullImage(ctx, &criv1.PullImageRequest{
			Image: &criv1.ImageSpec{Image: name}, Auth: auth, SandboxConfig: sandboxConfig(sandbox),
		})
		if err == nil {
			return response.GetImageRef(), nil
		}
		failures = append(failures, translate("pull image "+name, err))
	}
	return "", errors.Join(failures...)
}

// ListImages implements runtime.Images.
func (c *Client) ListImages(ctx context.Context) ([]runtime.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	response, err := c.images.ListImages(ctx, &criv1.ListImagesRequest{})
	if err != nil {
		return nil, translate("list images", err)
	}
	result := make([]runtime.Image, 0, len(response.GetImages()))
	for _, image := range response.GetImages() {
		result = append(result, imageOf(image))
	}
	return result, nil
}

// RemoveImage implements runtime.Images.
func (c *Client) RemoveImage(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, slowCall)
	defer cancel()
	_, err := c.images.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: &criv1.ImageSpec{Image: id}})
	return ignoreNotFound(translate("remove image "+id, err))
}

// ImageFilesystem implements runtime.Images.
func (c *Client) ImageFilesystem(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, quickCall)
	defer cancel()
	response, err := c.images.ImageFsInfo(ctx, &criv1.ImageFsInfoRequest{})
	if err != nil {
		return "", translate("image filesystem", err)
	}
	for _, filesystem := range response.GetImageFilesystems() {
		if path := filesystem.GetFsId().GetMountpoint(); path != "" {
			return path, nil
		}
	}
	return "", fmt.Errorf("image filesystem: %w", runtime.ErrNotFound)
}

func imageOf(image *criv1.Image) runtime.Image {
	result := runtime.Image{
		ID: image.GetId(), Names: image.GetRepoTags(), Digests: image.GetRepoDigests(), Size: image.GetSize(),
		User: image.GetUsername(), Pinned: image.GetPinned(),
	}
	if uid := image.GetUid(); uid != nil {
		value := uid.GetValue()
		result.UID = &value
	}
	return result
}
