package access

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// WriteKubeconfig puts the cluster into the kubeconfig at path and makes it the current
// one: a context named as the cluster, whose server is the first virtual address or else the first
// master, and one MASTER@CLUSTER for every master. Entries of other clusters are kept. The user's
// certificate comes from program, called as a credential plugin.
func (a *Access) WriteKubeconfig(path, program string, owner Owner) error {
	config, err := loadKubeconfig(path)
	if err != nil {
		return err
	}
	caPEM, err := os.ReadFile(a.Files().CAFile)
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	a.removeFrom(config)
	name := a.Cluster.Name
	user := clientcmdapi.NewAuthInfo()
	user.Exec = &clientcmdapi.ExecConfig{
		APIVersion: "client.authentication.k8s.io/v1beta1", Command: program,
		Args:            []string{"credential", "--cluster", name},
		InteractiveMode: clientcmdapi.NeverExecInteractiveMode,
		InstallHint:     "The kijabi command was moved: run it once as `kijabi status` from its new place.",
	}
	config.AuthInfos[name] = user
	add := func(entry, door string) {
		cluster := clientcmdapi.NewCluster()
		cluster.Server, cluster.CertificateAuthorityData = "https://"+door, caPEM
		config.Clusters[entry] = cluster
		kubeContext := clientcmdapi.NewContext()
		kubeContext.Cluster, kubeContext.AuthInfo = entry, name
		config.Contexts[entry] = kubeContext
	}
	add(name, append(slices.Clone(a.Cluster.VIP), a.Cluster.Masters[0].REST)[0])
	for _, master := range a.Cluster.Masters {
		add(master.Name+"@"+name, master.REST)
	}
	config.CurrentContext = name
	return saveKubeconfig(path, config, owner)
}

// RemoveKubeconfig takes the cluster out of the kubeconfig at path; an empty one is
// deleted.
func (a *Access) RemoveKubeconfig(path string, owner Owner) error {
	config, err := loadKubeconfig(path)
	if err != nil {
		return err
	}
	a.removeFrom(config)
	if len(config.Contexts) == 0 && len(config.Clusters) == 0 && len(config.AuthInfos) == 0 {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("kubeconfig: %w", err)
		}
		return nil
	}
	if _, ok := config.Contexts[config.CurrentContext]; !ok {
		config.CurrentContext = ""
	}
	return saveKubeconfig(path, config, owner)
}

func (a *Access) removeFrom(config *clientcmdapi.Config) {
	mine := func(entry string) bool {
		return entry == a.Cluster.Name || strings.HasSuffix(entry, "@"+a.Cluster.Name)
	}
	for entry := range config.Clusters {
		if mine(entry) {
			delete(config.Clusters, entry)
		}
	}
	for entry := range config.Contexts {
		if mine(entry) {
			delete(config.Contexts, entry)
		}
	}
	delete(config.AuthInfos, a.Cluster.Name)
}

// doorTimeout bounds how long a REST door may take to accept a connection. A machine
// that is off answers nothing at all.
const doorTimeout = 700 * time.Millisecond

func open(address string) bool {
	dialer := net.Dialer{Timeout: doorTimeout}
	conn, err := dialer.DialContext(context.Background(), "tcp", address)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// LivingMaster returns the master whose REST door accepts a connection first.
func (a *Access) LivingMaster() (Master, bool) {
	type result struct {
		master Master
		open   bool
	}
	results := make(chan result, len(a.Cluster.Masters))
	for _, master := range a.Cluster.Masters {
		//nolint:forbidigo // bounded by the dial's timeout
		go func() { results <- result{master, open(master.REST)} }()
	}
	for range a.Cluster.Masters {
		if r := <-results; r.open {
			return r.master, true
		}
	}
	return Master{}, false
}

// RepairKubeconfig points the cluster's default context to a virtual address that answers, if
// there is one, or else to a living master when its present one is dead. Nothing happens while
// no master lives.
func (a *Access) RepairKubeconfig(path string, owner Owner) error {
	config, err := loadKubeconfig(path)
	if err != nil {
		return err
	}
	cluster, ok := config.Clusters[a.Cluster.Name]
	if !ok {
		return nil
	}
	present := strings.TrimPrefix(cluster.Server, "https://")
	for _, door := range a.Cluster.VIP {
		if open(door) {
			if door == present {
				return nil
			}
			cluster.Server = "https://" + door
			return saveKubeconfig(path, config, owner)
		}
	}
	if open(present) {
		return nil
	}
	master, ok := a.LivingMaster()
	if !ok {
		return nil
	}
	cluster.Server = "https://" + master.REST
	return saveKubeconfig(path, config, owner)
}

func loadKubeconfig(path string) (*clientcmdapi.Config, error) {
	config, err := clientcmd.LoadFromFile(path)
	if os.IsNotExist(err) {
		return clientcmdapi.NewConfig(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return config, nil
}

func saveKubeconfig(path string, config *clientcmdapi.Config, owner Owner) error {
	temporary := filepath.Join(filepath.Dir(path), ".kubeconfig.new")
	if err := clientcmd.WriteToFile(*config, temporary); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	if err := owner.Own(temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	return nil
}
