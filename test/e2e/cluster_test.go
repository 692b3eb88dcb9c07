package e2e

import (
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/test/harness"
)

const (
	clusterName = "e2e"
	subnet      = "10.97.0.0/24"
	virtual     = "10.97.0.100"

	// guestbookPort is the NodePort of examples/guestbook.
	guestbookPort = 30080
)

// cluster is the one cluster of the test.
type cluster struct {
	*harness.Cluster

	api *client.Client
}

// clientset talks to one master's REST door, as a program that knows nothing of Kijabi
// would: as the user, or as the holder of a token.
func (c *cluster) clientset(t *harness.T, address, token string) *kubernetes.Clientset {
	t.Helper()
	identity := c.Identity(clusterName)
	config := &rest.Config{Host: "https://" + address + ":6443", Timeout: 20 * time.Second, QPS: -1}
	if config.BearerToken = token; token == "" {
		config.CertFile, config.KeyFile = identity.CertFile, identity.KeyFile
	}
	config.CAFile = identity.CAFile
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
