package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kijabi.dev/cli/internal/machine"
)

const (
	// podCgroup is where the kubelet makes pods' cgroups, below each hierarchy's root.
	podCgroup = "kijabi"
	// routeProtocol marks the network agent's routes.
	routeProtocol netlink.RouteProtocol = 75
	// cniNetwork is the name of the pod network, which begins the names of what the CNI
	// library remembers of each pod.
	cniNetwork = "kijabi"
)

// removeLeftovers removes what containers leave in places that are not ours alone:
// each thing by its name, and the directories only when they are empty. It needs
// containerd's directory of running containers, which removeFiles takes away.
func removeLeftovers(layout Layout) error {
	errs := []error{removeRoutes(), machine.RemoveCgroup(podCgroup)}
	for _, path := range append(shimSockets(layout), networkResults()...) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove what a container left: %w", err))
		}
	}
	for _, dir := range []string{"/run/containerd/s", "/run/containerd", "/run/netns", "/var/lib/cni/results", "/var/lib/cni"} {
		_ = os.Remove(dir) // fails when somebody else uses it
	}
	return joinLine(errs)
}

// shimSockets returns the sockets of our containers' shims. Their directory is the same
// for every containerd of a machine, and their names are hashes; but each container's
// directory says which is its own.
func shimSockets(layout Layout) []string {
	pattern := filepath.Join(filepath.Dir(layout.containerdSocket()), "io.containerd.runtime.v2.task", "*", "*", "bootstrap.json")
	files, _ := filepath.Glob(pattern)
	var sockets []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // removed just now
		}
		var shim struct {
			Address string `json:"address"`
		}
		if json.Unmarshal(content, &shim) != nil {
			continue // torn when the machine lost power; it has no socket any more
		}
		if path, ok := strings.CutPrefix(shim.Address, "unix://"); ok {
			sockets = append(sockets, path)
		}
	}
	return sockets
}

// networkResults returns what the CNI library remembers of our pods.
func networkResults() []string {
	files, _ := filepath.Glob("/var/lib/cni/results/" + cniNetwork + "-*")
	return files
}

// removeRoutes removes the network agent's routes that do not end with a link of ours.
func removeRoutes() error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	for i := range routes {
		if err := netlink.RouteDel(&routes[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to %s: %w", routes[i].Dst, err))
		}
	}
	return joinLine(errs)
}
