// Package pki makes, keeps and renews the certificates that name every part of a
// cluster. A certificate's subject says who its holder is: the common name is the
// user, the organizations are its groups, and "kijabi:role:<role>" among them are
// the roles that methods are open to.
package pki

import (
	"net"
	"slices"
	"strings"
	"time"
)

// Component is the name of a program that holds a certificate.
type Component = string

// Components.
const (
	ComponentAPIServer              Component = "apiserver"
	ComponentScheduler              Component = "scheduler"
	ComponentControllerManager      Component = "controller-manager"
	ComponentCloudControllerManager Component = "cloud-controller-manager"
	ComponentCloudProvider          Component = "cloud-provider"
	ComponentKubelet                Component = "kubelet"
	ComponentKubeProxy              Component = "kube-proxy"
	ComponentNetworkAgent           Component = "network-agent"
	ComponentDNS                    Component = "dns"
	// ComponentAdmin is the person who administers the cluster.
	ComponentAdmin Component = "admin"
)

// Names that identities are built from.
const (
	// RolePrefix begins an organization that gives its holder a role.
	RolePrefix = "kijabi:role:"
	// GroupMasters is the organization of administrators; it gives the role admin.
	GroupMasters = "system:masters"
	// RoleAdmin is the role of administrators.
	RoleAdmin = "admin"
	// RoleAPIServer is the role of an apiserver.
	RoleAPIServer = "apiserver"
	// RoleMaster is the role of a master machine.
	RoleMaster = "master"
	// RoleNode is the role of a node machine.
	RoleNode = "node"
	// APIServerName is the name that clients of any apiserver verify.
	APIServerName = "apiserver.kijabi"
	// domain ends the name of a component on a machine.
	domain = ".kijabi"
)

// Lives of certificates.
const (
	// CALife is the default life of a CA.
	CALife = 10 * 365 * 24 * time.Hour
	// LeafLife is the default life of a leaf certificate.
	LeafLife = 24 * time.Hour
	// backdate lets a certificate be valid for machines whose clock is behind.
	backdate = 5 * time.Minute
)

// LeafRequest describes a certificate to sign.
type LeafRequest struct {
	// CommonName is the user's name. Required.
	CommonName string
	// Organizations are the user's groups.
	Organizations []string
	// DNSNames and IPs the certificate's holder may serve under.
	DNSNames []string
	IPs      []net.IP
	// Life of the certificate; zero means LeafLife. It never outlives its CA.
	Life time.Duration
	// Server and Client say what the certificate may be used for.
	Server, Client bool
	// KeyEncipherment allows, besides signing, that keys are sent encrypted to an RSA key.
	KeyEncipherment bool
}

// Subject returns the identity of a component on a machine. It holds no
// addresses of the machine; whoever signs adds them to IPs for an apiserver. An
// unknown component gets the user name "kijabi:<component>:<machine>" and its own role.
func Subject(component, machine string) LeafRequest {
	req := LeafRequest{CommonName: commonName(component, machine), Server: true, Client: true}
	if component == ComponentAdmin {
		return LeafRequest{CommonName: "kubernetes-admin", Organizations: []string{GroupMasters}, Client: true}
	}
	switch component {
	case ComponentAPIServer:
		req.Organizations = []string{RolePrefix + RoleAPIServer, RolePrefix + RoleMaster}
	case ComponentKubelet:
		req.Organizations = []string{"system:nodes", RolePrefix + RoleNode}
	case ComponentKubeProxy:
		req.Organizations = []string{"system:node-proxier", RolePrefix + component}
	default:
		req.Organizations = []string{RolePrefix + component}
	}
	req.DNSNames = []string{machine, ServerName(component, machine)}
	if component == ComponentAPIServer {
		req.DNSNames = append(req.DNSNames, APIServerName, "localhost", "kubernetes", "kubernetes.default",
			"kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
		req.IPs = []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv4(10, 96, 0, 1).To4()}
	}
	return req
}

// ServerName is the name a client verifies to reach a component on one certain machine.
func ServerName(component, machine string) string { return component + "." + machine + domain }

func commonName(component, machine string) string {
	switch component {
	case ComponentScheduler:
		return "system:kube-scheduler"
	case ComponentKubeProxy:
		return "system:kube-proxy"
	case ComponentControllerManager:
		return "system:kube-controller-manager"
	case ComponentCloudControllerManager:
		return "system:cloud-controller-manager"
	case ComponentKubelet:
		return "system:node:" + machine
	case ComponentNetworkAgent, ComponentDNS:
		return "kijabi:" + component
	default:
		return "kijabi:" + component + ":" + machine
	}
}

// Program is what a component calls itself as a client, by the common name that Subject gave
// it: as its namesake in Kubernetes does. It is empty for users that are no component.
func Program(commonName string) string {
	if strings.HasPrefix(commonName, "system:node:") {
		return ComponentKubelet
	}
	if component, ok := strings.CutPrefix(commonName, "kijabi:"); ok {
		component, _, _ = strings.Cut(component, ":")
		return "kijabi-" + component
	}
	component, ok := strings.CutPrefix(commonName, "system:")
	if !ok {
		return ""
	}
	return component
}

// Roles are the roles that groups give: of each "kijabi:role:<role>" the role, and
// admin for system:masters. Sorted, without duplicates.
func Roles(groups []string) []string {
	var roles []string
	for _, group := range groups {
		if role, ok := strings.CutPrefix(group, RolePrefix); ok && role != "" {
			roles = append(roles, role)
		}
		if group == GroupMasters {
			roles = append(roles, RoleAdmin)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

// FollowsLeader tells whether groups are those of a component that writes only while its master
// leads, and says with each write under which leader's epoch.
func FollowsLeader(groups []string) bool {
	return slices.ContainsFunc(groups, func(group string) bool {
		switch group {
		case RolePrefix + ComponentScheduler, RolePrefix + ComponentControllerManager, RolePrefix + ComponentCloudControllerManager:
			return true
		}
		return false
	})
}

// Machine finds the machine in the DNS names of a certificate made by Subject;
// empty when there is none.
func Machine(dnsNames []string) string {
	for _, name := range dnsNames {
		rest, ok := strings.CutSuffix(name, domain)
		if !ok {
			continue
		}
		if _, machine, ok := strings.Cut(rest, "."); ok && slices.Contains(dnsNames, machine) {
			return machine
		}
	}
	return ""
}
