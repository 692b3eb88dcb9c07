package nodetest

import (
	"testing"

	"kijabi.dev/kubelet/internal/runtime/cri"
	"kijabi.dev/kubelet/internal/runtime/runtimetest"
)

func TestContainerdPassesTheSuite(t *testing.T) {
	client, err := cri.New(containerd(t).endpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	runtimetest.Run(t, client, testImage, []string{"serve"})
}
