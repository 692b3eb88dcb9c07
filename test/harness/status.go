package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Status is what `kijabi status -o json` prints, as far as tests look at it.
type Status struct {
	Leader string   `json:"leader"`
	Epoch  uint64   `json:"epoch"`
	Voters []string `json:"voters"`
	// VirtualAddresses of the masters and who holds them.
	VirtualAddresses []struct {
		Address string `json:"address"`
		Holder  string `json:"holder"`
	} `json:"virtualAddresses"`
	Masters []struct {
		Name   string `json:"name"`
		Role   string `json:"role"`
		Leader bool   `json:"leader"`
		Alive  bool   `json:"alive"`
	} `json:"masters"`
	Nodes []struct {
		Name   string `json:"name"`
		Ready  bool   `json:"ready"`
		Reason string `json:"reason"`
	} `json:"nodes"`
	Components []struct {
		Machine   string `json:"machine"`
		Component string `json:"component"`
		Healthy   bool   `json:"healthy"`
		Reason    string `json:"reason"`
	} `json:"components"`
}

// ReadStatus reads what `kijabi status -o json` has printed. An error is that it failed:
// no master leads.
func ReadStatus(result Outcome) (Status, error) {
	var s Status
	if err := json.Unmarshal([]byte(result.Stdout), &s); err != nil {
		return s, fmt.Errorf("%w in %s", err, result)
	}
	if result.Code != 0 {
		return s, fmt.Errorf("exit code %d, leader %q: %s", result.Code, s.Leader, result.Stderr)
	}
	return s, nil
}

// Status asks for the cluster's status. An error is that no master leads.
func (u *User) Status(t testing.TB) (Status, error) {
	t.Helper()
	i := u.invocation("status", "-o", "json")
	i.Limit = time.Minute
	return ReadStatus(u.Run(t, i))
}

// Healthy says what is not well in a cluster that should have so many masters, which all
// vote and of which one leads, and so many Ready nodes, masters included, and whose
// programs should all be healthy.
func (s Status) Healthy(masters, nodes int) error {
	var sick []string
	leaders := 0
	for _, master := range s.Masters {
		if master.Leader {
			leaders++
		}
		if !master.Alive || master.Role != "voter" {
			sick = append(sick, fmt.Sprintf("master %s: alive %t, %s", master.Name, master.Alive, master.Role))
		}
	}
	for _, node := range s.Nodes {
		if !node.Ready {
			sick = append(sick, fmt.Sprintf("node %s: %s", node.Name, node.Reason))
		}
	}
	for _, component := range s.Components {
		if !component.Healthy {
			sick = append(sick, fmt.Sprintf("%s on %s: %s", component.Component, component.Machine, component.Reason))
		}
	}
	if s.Leader == "" || leaders != 1 {
		sick = append(sick, fmt.Sprintf("leader %q, %d lead", s.Leader, leaders))
	}
	if len(s.Voters) != masters || len(s.Masters) != masters || len(s.Nodes) != nodes {
		sick = append(sick, fmt.Sprintf("voters %v, %d masters, %d nodes", s.Voters, len(s.Masters), len(s.Nodes)))
	}
	if len(sick) > 0 {
		return errors.New(strings.Join(sick, "; "))
	}
	return nil
}

// AwaitHealthy waits until the cluster is Healthy, and returns its status.
func (u *User) AwaitHealthy(t testing.TB, limit time.Duration, masters, nodes int) Status {
	t.Helper()
	var s Status
	Eventually(t, limit, fmt.Sprintf("%d voters, one leader, %d Ready nodes, all programs healthy", masters, nodes), func() error {
		var err error
		if s, err = u.Status(t); err != nil {
			return err
		}
		return s.Healthy(masters, nodes)
	})
	return s
}

// PodReady is the status of a pod's condition Ready, "" before it has one.
func PodReady(pod *corev1.Pod) corev1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status
		}
	}
	return ""
}

// NodeReady is the status of a node's condition Ready, "" before it has one.
func NodeReady(node *corev1.Node) corev1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}
