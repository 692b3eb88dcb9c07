package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Cluster is a cluster of machines made of namespaces, and its user.
type Cluster struct {
	*User

	// Name and Subnet of the machines; the subnet lies outside the ranges of pods and services.
	Name, Subnet string

	masters, nodes int // that Up has made
}

// NewCluster names a cluster that is not started yet, and finds the programs.
func NewCluster(t testing.TB, name, subnet string) *Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests make machines out of namespaces and need root: run them by make, or `sudo -E go test`")
	}
	return &Cluster{User: NewUser(t), Name: name, Subnet: subnet}
}

// Up claims the name and starts the cluster. options are of `kijabi up`.
func (c *Cluster) Up(t testing.TB, masters, nodes int, options ...string) Outcome {
	t.Helper()
	c.Claim(t)
	c.masters, c.nodes = masters, nodes
	i := c.invocation(append([]string{
		"up", "--name", c.Name, "--subnet", c.Subnet, "--masters", fmt.Sprint(masters), "--nodes", fmt.Sprint(nodes),
	}, options...)...)
	i.Limit = 5 * time.Minute
	result := c.Must(t, i)
	t.Logf("Ready after %s", result.Took.Round(100*time.Millisecond))
	return result
}

// Down removes the cluster. A command that still changes it is waited for.
func (c *Cluster) Down(t testing.TB) {
	t.Helper()
	if err := await(time.Minute, func() error { return c.down(t) }); err != nil {
		t.Error(err)
	}
}

func (c *Cluster) down(t testing.TB) error {
	t.Helper()
	i := c.invocation("down", "--name", c.Name)
	i.Limit = 2 * time.Minute
	if result := c.Run(t, i); result.Code != 0 {
		return fmt.Errorf("%s", result)
	}
	return nil
}

// AwaitHealthy waits until all machines that Up has made are well.
func (c *Cluster) AwaitHealthy(t testing.TB, limit time.Duration) Status {
	t.Helper()
	return c.User.AwaitHealthy(t, limit, c.masters, c.masters+c.nodes)
}

// Machine is one entry of `kijabi machine list -o json`.
type Machine struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Address string `json:"address"`
	// PID is the host's number of its process 1.
	PID   int    `json:"pid"`
	Up    bool   `json:"up"`
	Units []Unit `json:"units"`
}

// Unit is a program that a machine's supervisor looks after.
type Unit struct {
	Name  string `json:"name"`
	State string `json:"state"`
	PID   int    `json:"pid"`
}

// Machines lists the machines by name.
func (c *Cluster) Machines(t testing.TB) map[string]Machine {
	t.Helper()
	var list []Machine
	text := c.Kijabi(t, "machine", "list", "--name", c.Name, "-o", "json")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	all := map[string]Machine{}
	for _, m := range list {
		all[m.Name] = m
	}
	return all
}

// Power kills, stops or starts machines; what a test leaves killed it starts again.
func (c *Cluster) Power(t testing.TB, verb string, names ...string) {
	t.Helper()
	c.Kijabi(t, append([]string{"machine", verb, "--name", c.Name}, names...)...)
}

// Dir is where kijabi keeps what belongs to the cluster.
func (c *Cluster) Dir() string { return filepath.Join(StateRoot, c.Name) }

// MachineDir is the part of it that belongs to a machine.
func (c *Cluster) MachineDir(machine string) string {
	return filepath.Join(c.Dir(), "machines", machine)
}
