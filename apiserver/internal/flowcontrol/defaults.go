package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/pki"
)

// Levels of the built-in configuration.
const (
	levelExempt         = flowcontrolv1.PriorityLevelConfigurationNameExempt
	levelNodeHigh       = "node-high"
	levelSystem         = "system"
	levelLeaderElection = "leader-election"
	levelWorkloadHigh   = "workload-high"
	levelWorkloadLow    = "workload-low"
	levelGlobalDefault  = "global-default"
	levelCatchAll       = flowcontrolv1.PriorityLevelConfigurationNameCatchAll
)

// ofRoles are the groups of programs' certificates.
func ofRoles(components ...string) []flowcontrolv1.Subject {
	out := make([]flowcontrolv1.Subject, len(components))
	for i, component := range components {
		out[i] = group(pki.RolePrefix + component)
	}
	return out
}

// Defaults are Kubernetes' mandatory and suggested objects. The masters' programs, which must
// never wait for anybody, are exempt, and those of nodes share the nodes' level.
func Defaults() ([]*flowcontrolv1.FlowSchema, []*flowcontrolv1.PriorityLevelConfiguration) {
	const (
		byUser      = flowcontrolv1.FlowDistinguisherMethodByUserType
		byNamespace = flowcontrolv1.FlowDistinguisherMethodByNamespaceType
		coordinate  = "coordination.k8s.io"
	)
	all := []string{"*"}
	anything := rules{resources: []flowcontrolv1.ResourcePolicyRule{resourceRule(all, all, all, true, all)}, paths: []flowcontrolv1.NonResourcePolicyRule{{Verbs: all, NonResourceURLs: all}}}
	lock := []string{"get", "create", "update"}
	kubeSystem := []string{"kube-system"}
	locks := rules{resources: []flowcontrolv1.ResourcePolicyRule{
		resourceRule(lock, []string{""}, []string{"endpoints", "configmaps"}, false, kubeSystem),
		resourceRule(append([]string{"patch"}, lock...), []string{coordinate}, []string{"leases"}, false, all),
	}}
	everybody := []flowcontrolv1.Subject{group("system:authenticated"), group("system:unauthenticated")}
	schemas := []*flowcontrolv1.FlowSchema{
		flowSchema("exempt", levelExempt, 1, "", anything, group("system:masters")),
		flowSchema("kijabi-components", levelExempt, 2, "", anything, ofRoles(
			pki.ComponentAPIServer, pki.ComponentScheduler, pki.ComponentControllerManager, pki.ComponentCloudControllerManager, pki.ComponentCloudProvider)...),
		flowSchema("probes", levelExempt, 2, "", rules{paths: []flowcontrolv1.NonResourcePolicyRule{
			{Verbs: []string{"get"}, NonResourceURLs: []string{"/healthz", "/readyz", "/livez"}},
		}}, everybody...),
		flowSchema("system-leader-election", levelLeaderElection, 100, byUser, locks, user("system:kube-controller-manager"), user("system:kube-scheduler")),
		flowSchema("endpoint-controller", levelWorkloadHigh, 150, byUser, rules{resources: []flowcontrolv1.ResourcePolicyRule{
			resourceRule([]string{"get", "create", "update"}, []string{""}, []string{"endpoints"}, false, all),
		}}, user("system:kube-controller-manager")),
		flowSchema("workload-leader-election", levelLeaderElection, 200, byUser, locks, group("system:serviceaccounts:kube-system")),
		flowSchema("system-node-high", levelNodeHigh, 400, byUser, rules{resources: []flowcontrolv1.ResourcePolicyRule{
			resourceRule(all, []string{""}, []string{"nodes", "nodes/status"}, true, all),
			resourceRule(all, []string{coordinate}, []string{"leases"}, false, all),
		}}, group("system:nodes")),
		flowSchema("system-nodes", levelSystem, 500, byUser, anything, group("system:nodes")),
		flowSchema("kijabi-node-components", levelSystem, 500, byUser, anything, ofRoles(pki.ComponentKubeProxy, pki.ComponentNetworkAgent, pki.ComponentDNS)...),
		flowSchema("kube-controller-manager", levelWorkloadHigh, 800, byNamespace, anything, user("system:kube-controller-manager")),
		flowSchema("kube-scheduler", levelWorkloadHigh, 800, byNamespace, anything, user("system:kube-scheduler")),
		flowSchema("kube-system-service-accounts", levelWorkloadHigh, 900, byNamespace, anything, group("system:serviceaccounts:kube-system")),
		flowSchema("service-accounts", levelWorkloadLow, 9000, byUser, anything, group("system:serviceaccounts")),
		flowSchema("global-default", levelGlobalDefault, 9900, byUser, anything, everybody...),
		flowSchema(flowcontrolv1.FlowSchemaNameCatchAll, levelCatchAll, 10000, byUser, anything, everybody...),
	}
	levels := []*flowcontrolv1.PriorityLevelConfiguration{
		{
			ObjectMeta: metav1.ObjectMeta{Name: levelExempt},
			Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
				Type: flowcontrolv1.PriorityLevelEnablementExempt, Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{},
			},
		},
		queued(levelNodeHigh, 40, 25, 64, 6),
		queued(levelSystem, 30, 33, 64, 6),
		queued(levelLeaderElection, 10, 0, 16, 4),
		queued(levelWorkloadHigh, 40, 50, 128, 6),
		queued(levelWorkloadLow, 100, 90, 128, 6),
		queued(levelGlobalDefault, 20, 50, 128, 6),
		{
			ObjectMeta: metav1.ObjectMeta{Name: levelCatchAll},
			Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
				Type: flowcontrolv1.PriorityLevelEnablementLimited,
				Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
					NominalConcurrencyShares: new(int32(5)), LendablePercent: new(int32(0)),
					LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
				},
			},
		},
	}
	return schemas, levels
}

// rules are what the requests of a schema ask for.
type rules struct {
	resources []flowcontrolv1.ResourcePolicyRule
	paths     []flowcontrolv1.NonResourcePolicyRule
}

func resourceRule(verbs, groups, resources []string, cluster bool, namespaces []string) flowcontrolv1.ResourcePolicyRule {
	return flowcontrolv1.ResourcePolicyRule{Verbs: verbs, APIGroups: groups, Resources: resources, ClusterScope: cluster, Namespaces: namespaces}
}

func user(name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: name}}
}

func group(name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: name}}
}

func flowSchema(name, level string, precedence int32, by flowcontrolv1.FlowDistinguisherMethodType, r rules, subjects ...flowcontrolv1.Subject) *flowcontrolv1.FlowSchema {
	s := &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level}, MatchingPrecedence: precedence,
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{Subjects: subjects, ResourceRules: r.resources, NonResourceRules: r.paths}},
		},
	}
	if by != "" {
		s.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: by}
	}
	return s
}

func queued(name string, shares, lendable, queues, hand int32) *flowcontrolv1.PriorityLevelConfiguration {
	return &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: &shares, LendablePercent: &lendable,
				LimitResponse: flowcontrolv1.LimitResponse{
					Type:    flowcontrolv1.LimitResponseTypeQueue,
					Queuing: &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: hand, QueueLengthLimit: 50},
				},
			},
		},
	}
}
