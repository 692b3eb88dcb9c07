package kinds_test

func serviceGolden() golden {
	return golden{
		resource: "services",
		base: `
metadata: {name: web, namespace: default}
spec:
  selector: {app: web}
  ports: [{port: 80}]
`,
		defaults: []row{
			{"", "spec.type = ClusterIP & spec.sessionAffinity = None & spec.internalTrafficPolicy = Cluster & spec.ipFamilies = [IPv4] & spec.ipFamilyPolicy = SingleStack"},
			{"", "spec.ports = [{port: 80, protocol: TCP, targetPort: 80}]"},
			{"spec.ports[0].targetPort = http", "spec.ports[0].targetPort = http"},
			{"spec.type = NodePort", "spec.externalTrafficPolicy = Cluster"},
			{"spec.type = LoadBalancer", "spec.externalTrafficPolicy = Cluster & spec.allocateLoadBalancerNodePorts = true"},
			{"spec.sessionAffinity = ClientIP", "spec.sessionAffinityConfig.clientIP.timeoutSeconds = 10800"},
			{"spec.clusterIP = 10.96.0.5", "spec.clusterIPs = [10.96.0.5]"},
			{"spec.clusterIPs = [10.96.0.5]", "spec.clusterIP = 10.96.0.5"},
			{"spec.clusterIP = None", "spec.clusterIPs = [None] & spec.ipFamilies = [IPv4]"},
			{"spec.type = ExternalName & spec.externalName = a.example", "spec.ipFamilies = ~ & spec.internalTrafficPolicy = ~ & spec.clusterIPs = ~"},
			{"status.loadBalancer.ingress = [{ip: 1.2.3.4}]", "status.loadBalancer = {}"},
		},
		valid: []string{
			"spec.ports = [{name: a, port: 80}, {name: b, port: 80, protocol: UDP}]",
			"spec.clusterIP = None & spec.ports = []",
			"spec.type = NodePort & spec.ports[0].nodePort = 30080",
			"spec.type = ExternalName & spec.externalName = a.example. & spec.ports = []",
			"spec.externalIPs = [192.0.2.1]",
			"spec.type = LoadBalancer & spec.loadBalancerSourceRanges = [10.0.0.0/8]",
			"spec.ipFamilyPolicy = PreferDualStack",
			"spec.trafficDistribution = PreferClose",
		},
		invalid: []row{
			{"metadata.name = 1web", "metadata.name: FieldValueInvalid"},
			{"spec.ports = []", "spec.ports: FieldValueRequired"},
			{"spec.ports[0].port = 0", "spec.ports[0].port: FieldValueInvalid, spec.ports[0].targetPort: FieldValueInvalid"},
			{"spec.ports[0].protocol = tcp", "spec.ports[0].protocol: FieldValueNotSupported"},
			{"spec.ports[0].targetPort = a_b", "spec.ports[0].targetPort: FieldValueInvalid"},
			{"spec.ports[0].targetPort = 70000", "spec.ports[0].targetPort: FieldValueInvalid"},
			{"spec.ports[1] = {port: 81}", "spec.ports[0].name: FieldValueRequired, spec.ports[1].name: FieldValueRequired"},
			{"spec.ports = [{name: a, port: 80}, {name: a, port: 81}]", "spec.ports[1].name: FieldValueDuplicate"},
			{"spec.ports = [{name: a, port: 80}, {name: b, port: 80}]", "spec.ports[1]: FieldValueDuplicate"},
			{"spec.ports[0].nodePort = 30000", "spec.ports[0].nodePort: FieldValueForbidden"},
			{"spec.type = NodePort & spec.ports = [{name: a, port: 1, nodePort: 30000}, {name: b, port: 2, nodePort: 30000}]", "spec.ports[1].nodePort: FieldValueDuplicate"},
			{"spec.type = Odd", "spec.type: FieldValueNotSupported"},
			{"spec.type = NodePort & spec.clusterIP = None", "spec.clusterIPs[0]: FieldValueInvalid"},
			{"spec.type = ExternalName", "spec.externalName: FieldValueRequired"},
			{"spec.type = ExternalName & spec.externalName = A_", "spec.externalName: FieldValueInvalid"},
			{"spec.type = ExternalName & spec.externalName = a & spec.clusterIP = 10.96.0.1", "spec.clusterIP: FieldValueForbidden"},
			{"spec.clusterIP = x", "spec.clusterIPs[0]: FieldValueInvalid"},
			{"spec.clusterIP = 'fd00::1'", "spec.clusterIPs[0]: FieldValueInvalid"},
			{"spec.clusterIP = 10.96.0.1 & spec.clusterIPs = [10.96.0.2]", "spec.clusterIPs: FieldValueInvalid"},
			{"spec.clusterIPs = [10.96.0.1, 10.96.0.2]", "spec.clusterIPs: FieldValueInvalid"},
			{"spec.externalIPs = [127.0.0.1]", "spec.externalIPs[0]: FieldValueInvalid"},
			{"spec.externalIPs = [x]", "spec.externalIPs[0]: FieldValueInvalid"},
			{"spec.sessionAffinity = Odd", "spec.sessionAffinity: FieldValueNotSupported"},
			{"spec.sessionAffinity = ClientIP & spec.sessionAffinityConfig = {clientIP: {timeoutSeconds: 0}}", "spec.sessionAffinityConfig.clientIP.timeoutSeconds: FieldValueInvalid"},
			{"spec.externalTrafficPolicy = Local", "spec.externalTrafficPolicy: FieldValueInvalid"},
			{"spec.type = NodePort & spec.externalTrafficPolicy = Odd", "spec.externalTrafficPolicy: FieldValueNotSupported"},
			{"spec.internalTrafficPolicy = Odd", "spec.internalTrafficPolicy: FieldValueNotSupported"},
			{"spec.healthCheckNodePort = 30001", "spec.healthCheckNodePort: FieldValueInvalid"},
			{"spec.loadBalancerSourceRanges = [10.0.0.0/8]", "spec.loadBalancerSourceRanges: FieldValueForbidden"},
			{"spec.type = LoadBalancer & spec.loadBalancerSourceRanges = [x]", "spec.loadBalancerSourceRanges[0]: FieldValueInvalid"},
			{"spec.loadBalancerClass = a.example/b", "spec.loadBalancerClass: FieldValueForbidden"},
			{"spec.allocateLoadBalancerNodePorts = true", "spec.allocateLoadBalancerNodePorts: FieldValueForbidden"},
			{"spec.ipFamilies = [IPv6]", "spec.ipFamilies[0]: FieldValueInvalid"},
			{"spec.ipFamilies = [IPv5]", "spec.ipFamilies[0]: FieldValueNotSupported"},
			{"spec.ipFamilyPolicy = RequireDualStack", "spec.ipFamilyPolicy: FieldValueInvalid"},
			{"spec.selector = {'a b': c}", "spec.selector: FieldValueInvalid"},
			{"spec.trafficDistribution = Odd", "spec.trafficDistribution: FieldValueNotSupported"},
		},
		update: []row{
			{"spec.clusterIP = 10.96.0.5 => spec.clusterIP = 10.96.0.6 & spec.clusterIPs = [10.96.0.6]", "spec.clusterIPs: FieldValueInvalid"},
			{"spec.clusterIP = 10.96.0.5 => spec.clusterIP = ~ & spec.clusterIPs = ~", ""},
			{"spec.clusterIP = 10.96.0.5 => spec.type = NodePort", ""},
			{"spec.clusterIP = 10.96.0.5 => spec.type = ExternalName & spec.externalName = a.example", ""},
			{"spec.type = NodePort & spec.ports[0].nodePort = 30001 => spec.type = ClusterIP", ""},
			{"spec.type = LoadBalancer => spec.type = ClusterIP", ""},
			{"spec.type = LoadBalancer & spec.loadBalancerClass = a.example/b => spec.loadBalancerClass = a.example/c", "spec.loadBalancerClass: FieldValueInvalid"},
			{"spec.selector = {app: other}", ""},
		},
		status: []row{
			{"spec.type = LoadBalancer => status.loadBalancer.ingress = [{ip: 1.2.3.4, ipMode: VIP}]", ""},
			{"status.loadBalancer.ingress = [{ip: 1.2.3.4}]", "status.loadBalancer.ingress: FieldValueForbidden"},
			{"spec.type = LoadBalancer => status.loadBalancer.ingress = [{ip: x}]", "status.loadBalancer.ingress[0].ip: FieldValueInvalid"},
			{"spec.type = LoadBalancer => status.loadBalancer.ingress = [{hostname: 1.2.3.4}]", "status.loadBalancer.ingress[0].hostname: FieldValueInvalid"},
		},
	}
}

const workloadBase = `
metadata: {name: web, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: 'web:1'}]
`

func deploymentGolden() golden {
	return golden{
		resource: "deployments.apps",
		base:     workloadBase,
		defaults: []row{
			{"", "spec.replicas = 1 & spec.revisionHistoryLimit = 10 & spec.progressDeadlineSeconds = 600"},
			{"", "spec.strategy = {type: RollingUpdate, rollingUpdate: {maxUnavailable: 25%, maxSurge: 25%}}"},
			{"spec.strategy = {rollingUpdate: {maxSurge: 2}}", "spec.strategy = {type: RollingUpdate, rollingUpdate: {maxUnavailable: 25%, maxSurge: 2}}"},
			{"spec.strategy = {type: Recreate}", "spec.strategy = {type: Recreate}"},
			{"", "spec.template.spec.restartPolicy = Always & spec.template.spec.containers[0].imagePullPolicy = IfNotPresent & spec.template.spec.tolerations = ~ & spec.template.spec.serviceAccountName = ~ & spec.template.spec.enableServiceLinks = ~"},
			{"spec.replicas = 0", "spec.replicas = 0"},
			{"status.replicas = 3", "status.replicas = ~"},
		},
		valid: []string{
			"spec.selector = {matchExpressions: [{key: app, operator: In, values: [web, other]}]}",
			"spec.strategy = {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}",
			"spec.paused = true",
			"spec.minReadySeconds = 10",
		},
		invalid: []row{
			{"spec.selector = ~", "spec.selector: FieldValueRequired"},
			{"spec.selector = {}", "spec.selector: FieldValueInvalid"},
			{"spec.selector.matchLabels = {app: other}", "spec.template.metadata.labels: FieldValueInvalid"},
			{"spec.selector = {matchExpressions: [{key: app, operator: Odd}]}", "spec.selector.matchExpressions[0].operator: FieldValueInvalid"},
			{"spec.template.metadata.labels = ~", "spec.template.metadata.labels: FieldValueInvalid"},
			{"spec.template.metadata.labels.more = 'a b'", "spec.template.labels: FieldValueInvalid"},
			{"spec.template.metadata.annotations = {'a b': c}", "spec.template.annotations: FieldValueInvalid"},
			{"spec.replicas = -1", "spec.replicas: FieldValueInvalid"},
			{"spec.minReadySeconds = -1", "spec.minReadySeconds: FieldValueInvalid"},
			{"spec.minReadySeconds = 600", "spec.progressDeadlineSeconds: FieldValueInvalid"},
			{"spec.revisionHistoryLimit = -1", "spec.revisionHistoryLimit: FieldValueInvalid"},
			{"spec.strategy = {type: Odd}", "spec.strategy: FieldValueNotSupported"},
			{"spec.strategy = {type: Recreate, rollingUpdate: {maxSurge: 1}}", "spec.strategy.rollingUpdate: FieldValueForbidden"},
			{"spec.strategy = {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}", "spec.strategy.rollingUpdate.maxUnavailable: FieldValueInvalid"},
			{"spec.strategy = {rollingUpdate: {maxUnavailable: 101%}}", "spec.strategy.rollingUpdate.maxUnavailable: FieldValueInvalid"},
			{"spec.strategy = {rollingUpdate: {maxSurge: x}}", "spec.strategy.rollingUpdate.maxSurge: FieldValueInvalid"},
			{"spec.strategy = {rollingUpdate: {maxSurge: -1}}", "spec.strategy.rollingUpdate.maxSurge: FieldValueInvalid"},
			{"spec.template.spec.restartPolicy = Never", "spec.template.spec.restartPolicy: FieldValueNotSupported"},
			{"spec.template.spec.activeDeadlineSeconds = 3", "spec.template.spec.activeDeadlineSeconds: FieldValueForbidden"},
			{"spec.template.spec.containers = []", "spec.template.spec.containers: FieldValueRequired"},
			{"spec.template.spec.containers[0].image = '' & spec.template.spec.containers[0].name = ''", "spec.template.spec.containers[0].image: FieldValueRequired, spec.template.spec.containers[0].name: FieldValueRequired"},
			{"spec.template.spec.ephemeralContainers = [{name: e, image: e}]", "spec.template.spec.ephemeralContainers: FieldValueForbidden"},
		},
		update: []row{
			{"spec.replicas = 5 & spec.template.spec.containers[0].image = web:2", ""},
			{"spec.selector.matchLabels = {app: other} & spec.template.metadata.labels = {app: other}", "spec.selector: FieldValueInvalid"},
			{"status.replicas = 3", ""},
		},
		status: []row{
			{"status = {replicas: 2, readyReplicas: 1}", ""},
			{"status = {replicas: 2, readyReplicas: 3}", "status.readyReplicas: FieldValueInvalid"},
			{"status = {replicas: 2, availableReplicas: 1}", "status.availableReplicas: FieldValueInvalid"},
			{"status = {replicas: 1, unavailableReplicas: -1}", "status.unavailableReplicas: FieldValueInvalid"},
		},
	}
}

func replicaSetGolden() golden {
	return golden{
		resource: "replicasets.apps",
		base:     workloadBase,
		defaults: []row{{"", "spec.replicas = 1 & spec.template.spec.dnsPolicy = ClusterFirst"}},
		invalid: []row{
			{"spec.selector = ~", "spec.selector: FieldValueRequired"},
			{"spec.selector = {}", "spec.selector: FieldValueInvalid"},
			{"spec.selector.matchLabels = {app: other}", "spec.template.metadata.labels: FieldValueInvalid"},
			{"spec.replicas = -1", "spec.replicas: FieldValueInvalid"},
			{"spec.template.spec.restartPolicy = OnFailure", "spec.template.spec.restartPolicy: FieldValueNotSupported"},
		},
		update: []row{
			{"spec.replicas = 5", ""},
			{"spec.selector.matchLabels = {app: other} & spec.template.metadata.labels = {app: other}", "spec.selector: FieldValueInvalid"},
		},
		status: []row{
			{"status = {replicas: 2, readyReplicas: 2, availableReplicas: 1, fullyLabeledReplicas: 2}", ""},
			{"status = {replicas: 2, fullyLabeledReplicas: 3}", "status.fullyLabeledReplicas: FieldValueInvalid"},
		},
	}
}

func configMapGolden() golden {
	return golden{
		resource: "configmaps",
		base:     "metadata: {name: c, namespace: default}\ndata: {a: b}",
		valid:    []string{"data = {..a: x} & data = {a.b-c_d: x}", "binaryData = {x: YQ==}", "data = ~", "metadata.generateName = c-"},
		invalid: []row{
			{"data = {'a b': x}", "data[a b]: FieldValueInvalid"},
			{"data = {'..': x}", "data[..]: FieldValueInvalid"},
			{"binaryData = {a: YQ==}", "data[a]: FieldValueInvalid"},
			{"metadata.name = C", "metadata.name: FieldValueInvalid"},
			{"metadata.ownerReferences = [{apiVersion: v1, kind: Pod, name: '', uid: x}]", "metadata.ownerReferences[0].name: FieldValueRequired"},
		},
		update: []row{
			{"data = {a: c}", ""},
			{"immutable = true", ""},
			{"immutable = true => data = {a: c}", "data: FieldValueForbidden"},
			{"immutable = true => immutable = false", "immutable: FieldValueForbidden"},
			{"immutable = true => binaryData = {b: YQ==}", "binaryData: FieldValueForbidden"},
			{"immutable = true => metadata.labels = {a: b}", ""},
			{"metadata.name = d", "metadata.name: FieldValueInvalid"},
		},
	}
}

func secretGolden() golden {
	return golden{
		resource: "secrets",
		base:     "metadata: {name: s, namespace: default}\ndata: {a: YQ==}",
		defaults: []row{
			{"", "type = Opaque"},
			{"stringData = {b: x}", "data = {a: YQ==, b: eA==} & stringData = ~"},
			{"stringData = {a: x}", "data = {a: eA==}"},
		},
		valid: []string{
			"type = kubernetes.io/tls & data = {tls.crt: YQ==, tls.key: YQ==}",
			"type = kubernetes.io/dockerconfigjson & data = {.dockerconfigjson: e30=}",
			"type = kubernetes.io/basic-auth & data = {password: YQ==}",
			"type = example.com/own",
		},
		invalid: []row{
			{"data = {'a b': YQ==}", "data[a b]: FieldValueInvalid"},
			{"type = kubernetes.io/tls", "data[tls.crt]: FieldValueRequired, data[tls.key]: FieldValueRequired"},
			{"type = kubernetes.io/dockerconfigjson", "data[.dockerconfigjson]: FieldValueRequired"},
			{"type = kubernetes.io/dockerconfigjson & data = {.dockerconfigjson: YQ==}", "data[.dockerconfigjson]: FieldValueInvalid"},
			{"type = kubernetes.io/basic-auth", "data[password]: FieldValueRequired, data[username]: FieldValueRequired"},
			{"type = kubernetes.io/ssh-auth", "data[ssh-privatekey]: FieldValueRequired"},
			{"type = kubernetes.io/service-account-token", "metadata.annotations[kubernetes.io/service-account.name]: FieldValueRequired"},
		},
		update: []row{
			{"data = {a: Yg==}", ""},
			{"type = example.com/other", "type: FieldValueInvalid"},
			{"immutable = true => data = {a: Yg==}", "data: FieldValueForbidden"},
			{"immutable = true => immutable = ~", "immutable: FieldValueForbidden"},
		},
	}
}

func namespaceGolden() golden {
	return golden{
		resource: "namespaces",
		base:     "metadata: {name: work}",
		defaults: []row{
			{"", "status.phase = Active & spec.finalizers = [kubernetes] & metadata.labels = {kubernetes.io/metadata.name: work}"},
			{"spec.finalizers = [example.com/own]", "spec.finalizers = [example.com/own, kubernetes]"},
		},
		invalid: []row{
			{"metadata.name = a.b", "metadata.name: FieldValueInvalid"},
			{"metadata.namespace = x", "metadata.namespace: FieldValueForbidden"},
			{"spec.finalizers = ['a b']", "spec.finalizers[0]: FieldValueInvalid"},
		},
		update: []row{
			{"metadata.labels.a = b", ""},
			{"spec.finalizers = []", ""},
		},
		status: []row{
			{"status.phase = Terminating", "status.phase: FieldValueInvalid"},
			{"status.conditions = [{type: NamespaceContentRemaining, status: 'True'}]", ""},
		},
	}
}

func nodeGolden() golden {
	return golden{
		resource: "nodes",
		base:     "metadata: {name: n1}\nstatus: {capacity: {cpu: 2, memory: 4Gi, pods: 110}}",
		defaults: []row{
			{"", "status.allocatable = {cpu: '2', memory: 4Gi, pods: '110'}"},
			{"spec.podCIDR = 10.244.1.0/24", "spec.podCIDRs = [10.244.1.0/24]"},
		},
		valid: []string{"spec.taints = [{key: a, effect: NoSchedule}, {key: a, value: b, effect: NoExecute}]"},
		invalid: []row{
			{"metadata.name = N1", "metadata.name: FieldValueInvalid"},
			{"spec.taints = [{key: a}]", "spec.taints[0].effect: FieldValueRequired"},
			{"spec.taints = [{key: a, effect: Odd}]", "spec.taints[0].effect: FieldValueNotSupported"},
			{"spec.taints = [{key: 'a b', effect: NoSchedule}]", "spec.taints[0].key: FieldValueInvalid"},
			{"spec.taints = [{key: a, effect: NoSchedule}, {key: a, effect: NoSchedule, value: b}]", "spec.taints[1]: FieldValueDuplicate"},
			{"spec.podCIDR = x", "spec.podCIDRs[0]: FieldValueInvalid"},
			{"spec.podCIDR = 10.0.0.0/24 & spec.podCIDRs = [10.1.0.0/24]", "spec.podCIDR: FieldValueInvalid"},
			{"status.capacity = {cpu: -1}", "status.allocatable[cpu]: FieldValueInvalid, status.capacity[cpu]: FieldValueInvalid"},
			{"status.addresses = [{type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: 10.0.0.1}]", "status.addresses[1]: FieldValueDuplicate"},
		},
		update: []row{
			{"spec.unschedulable = true", ""},
			{"spec.podCIDR = 10.244.1.0/24", ""},
			{"spec.podCIDR = 10.244.1.0/24 => spec.podCIDR = 10.244.2.0/24 & spec.podCIDRs = [10.244.2.0/24]", "spec.podCIDRs: FieldValueForbidden"},
			{"spec.providerID = 'a://1'", ""},
			{"spec.providerID = 'a://1' => spec.providerID = 'a://2'", "spec.providerID: FieldValueForbidden"},
		},
		status: []row{
			{"status.conditions = [{type: Ready, status: 'True'}]", ""},
			{"status.allocatable = {'a b': 1}", "status.allocatable[a b]: FieldValueInvalid"},
		},
	}
}

func leaseGolden() golden {
	return golden{
		resource: "leases.coordination.k8s.io",
		base:     "metadata: {name: l, namespace: default}\nspec: {holderIdentity: me, leaseDurationSeconds: 15}",
		valid:    []string{"spec = {}", "spec = {strategy: OldestEmulationVersion, preferredHolder: x}"},
		invalid: []row{
			{"spec.leaseDurationSeconds = 0", "spec.leaseDurationSeconds: FieldValueInvalid"},
			{"spec.leaseTransitions = -1", "spec.leaseTransitions: FieldValueInvalid"},
			{"spec.preferredHolder = x", "spec.preferredHolder: FieldValueForbidden"},
		},
		update: []row{{"spec.holderIdentity = you", ""}},
	}
}

func endpointSliceGolden() golden {
	return golden{
		resource: "endpointslices.discovery.k8s.io",
		base: `
metadata: {name: web-abc, namespace: default}
addressType: IPv4
endpoints: [{addresses: [10.244.1.2]}]
ports: [{port: 80}]
`,
		defaults: []row{{"", "ports = [{name: '', port: 80, protocol: TCP}]"}},
		valid:    []string{"addressType = FQDN & endpoints = [{addresses: [a.example]}]", "addressType = IPv6 & endpoints = [{addresses: ['fd00::1']}]", "endpoints = []"},
		invalid: []row{
			{"addressType = ~", "addressType: FieldValueRequired"},
			{"addressType = IP", "addressType: FieldValueNotSupported"},
			{"endpoints[0].addresses = []", "endpoints[0].addresses: FieldValueRequired"},
			{"endpoints[0].addresses = [x]", "endpoints[0].addresses[0]: FieldValueInvalid"},
			{"endpoints[0].addresses = ['fd00::1']", "endpoints[0].addresses[0]: FieldValueInvalid"},
			{"endpoints[0].addresses = [127.0.0.1]", "endpoints[0].addresses[0]: FieldValueInvalid"},
			{"endpoints[0].addresses = [0.0.0.0]", "endpoints[0].addresses[0]: FieldValueInvalid"},
			{"endpoints[0].nodeName = N_", "endpoints[0].nodeName: FieldValueInvalid"},
			{"endpoints[0].hostname = a.b", "endpoints[0].hostname: FieldValueInvalid"},
			{"ports[1] = {port: 81}", "ports[1].name: FieldValueDuplicate"},
			{"ports[0].port = 70000", "ports[0].port: FieldValueInvalid"},
			{"ports[0].protocol = x", "ports[0].protocol: FieldValueNotSupported"},
		},
		update: []row{
			{"endpoints = []", ""},
			{"addressType = FQDN & endpoints = []", "addressType: FieldValueInvalid"},
		},
	}
}

func eventGolden() golden {
	return golden{
		resource: "events",
		base:     "metadata: {name: e, namespace: default}\ninvolvedObject: {kind: Pod, name: p, namespace: default}\nreason: Started",
		valid:    []string{"involvedObject = {kind: Node, name: n1}"},
		invalid: []row{
			{"involvedObject.namespace = other", "involvedObject.namespace: FieldValueInvalid"},
			{"metadata.namespace = work & involvedObject = {kind: Node, name: n1}", "involvedObject.namespace: FieldValueInvalid"},
		},
	}
}

func newEventGolden() golden {
	return golden{
		resource: "events.events.k8s.io",
		base: `
metadata: {name: e, namespace: default}
regarding: {kind: Pod, name: p, namespace: default}
eventTime: "2026-01-01T00:00:00.000000Z"
reason: Started
action: Starting
type: Normal
reportingController: example.com/c
reportingInstance: c-1
`,
		valid: []string{"series = {count: 2, lastObservedTime: '2026-01-01T00:00:01.000000Z'}"},
		invalid: []row{
			{"eventTime = ~", "eventTime: FieldValueRequired"},
			{"reason = ~", "reason: FieldValueRequired"},
			{"action = ~", "action: FieldValueRequired"},
			{"type = Odd", "type: FieldValueInvalid"},
			{"reportingController = ~", "reportingController: FieldValueRequired"},
			{"reportingController = 'a b'", "reportingController: FieldValueInvalid"},
			{"reportingInstance = ~", "reportingInstance: FieldValueRequired"},
			{"series = {count: 1, lastObservedTime: '2026-01-01T00:00:01.000000Z'}", "series.count: FieldValueInvalid"},
			{"regarding.namespace = other", "regarding.namespace: FieldValueInvalid"},
		},
		update: []row{
			{"series = {count: 2, lastObservedTime: '2026-01-01T00:00:01.000000Z'}", ""},
			{"reason = Other", "reason: FieldValueInvalid"},
		},
	}
}

func serviceAccountGolden() golden {
	return golden{
		resource: "serviceaccounts",
		base:     "metadata: {name: default, namespace: default}",
		valid:    []string{"imagePullSecrets = [{name: s}]"},
		invalid:  []row{{"metadata.name = A_", "metadata.name: FieldValueInvalid"}},
	}
}
