package kinds_test

func ingressGolden() golden {
	return golden{
		resource: "ingresses.networking.k8s.io",
		base: `
metadata: {name: web, namespace: default}
spec:
  ingressClassName: nginx
  rules:
  - host: www.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
`,
		defaults: []row{{"status.loadBalancer.ingress = [{ip: 1.2.3.4}]", "status.loadBalancer = {}"}},
		valid: []string{
			"spec.rules = ~ & spec.defaultBackend = {service: {name: web, port: {name: http}}}",
			"spec.rules[0].host = ''",
			"spec.rules[0].host = '*.example.com'",
			"spec.rules[0].http = ~",
			"spec.rules[0].http.paths[0] = {pathType: ImplementationSpecific, backend: {resource: {apiGroup: example.com, kind: Bucket, name: b}}}",
			"spec.tls = [{hosts: [www.example.com, '*.example.com'], secretName: cert}]",
			"spec.ingressClassName = ~ & metadata.annotations = {kubernetes.io/ingress.class: nginx}",
		},
		invalid: []row{
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"spec = {}", "spec: FieldValueInvalid"},
			{"spec.ingressClassName = A_", "spec.ingressClassName: FieldValueInvalid"},
			{"spec.ingressClassName = ''", "spec.ingressClassName: FieldValueInvalid"},
			{"metadata.annotations = {kubernetes.io/ingress.class: nginx}", "metadata.annotations.kubernetes.io/ingress.class: FieldValueInvalid"},
			{"spec.rules[0].host = 1.2.3.4", "spec.rules[0].host: FieldValueInvalid"},
			{"spec.rules[0].host = 'www.example.com:80'", "spec.rules[0].host: FieldValueInvalid"},
			{"spec.rules[0].host = 'a.*.com'", "spec.rules[0].host: FieldValueInvalid"},
			{"spec.rules[0].host = '*'", "spec.rules[0].host: FieldValueInvalid"},
			{"spec.rules[0].http = {paths: []}", "spec.rules[0].http.paths: FieldValueRequired"},
			{"spec.rules[0].http.paths[0].pathType = ~", "spec.rules[0].http.paths[0].pathType: FieldValueRequired"},
			{"spec.rules[0].http.paths[0].pathType = Odd", "spec.rules[0].http.paths[0].pathType: FieldValueNotSupported"},
			{"spec.rules[0].http.paths[0].path = ~", "spec.rules[0].http.paths[0].path: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].path = a", "spec.rules[0].http.paths[0].path: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].path = /a//b", "spec.rules[0].http.paths[0].path: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].path = /a/../b", "spec.rules[0].http.paths[0].path: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].path = /a%2Fb", "spec.rules[0].http.paths[0].path: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].path = /a/..", "spec.rules[0].http.paths[0].path: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].pathType = ImplementationSpecific & spec.rules[0].http.paths[0].path = a", "spec.rules[0].http.paths[0].path: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].backend = {}", "spec.rules[0].http.paths[0].backend: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].backend.resource = {kind: Bucket, name: b}", "spec.rules[0].http.paths[0].backend: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].backend.service = {name: '', port: {number: 80}}", "spec.rules[0].http.paths[0].backend.service.name: FieldValueRequired"},
			{"spec.rules[0].http.paths[0].backend.service.name = 1web", "spec.rules[0].http.paths[0].backend.service.name: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].backend.service.port = {}", "spec.rules[0].http.paths[0].backend: FieldValueRequired"},
			{"spec.rules[0].http.paths[0].backend.service.port = {name: http, number: 80}", "spec.rules[0].http.paths[0].backend: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].backend.service.port = {number: 70000}", "spec.rules[0].http.paths[0].backend.service.port.number: FieldValueInvalid"},
			{"spec.rules[0].http.paths[0].backend.service.port = {name: a_b}", "spec.rules[0].http.paths[0].backend.service.port.name: FieldValueInvalid"},
			{"spec.defaultBackend = {resource: {apiGroup: A_, kind: '', name: a/b}}", "spec.defaultBackend.resource.apiGroup: FieldValueInvalid, spec.defaultBackend.resource.kind: FieldValueRequired, spec.defaultBackend.resource.name: FieldValueInvalid"},
			{"spec.tls = [{hosts: ['a b'], secretName: A_}]", "spec.tls[0].hosts[0]: FieldValueInvalid, spec.tls[0].secretName: FieldValueInvalid"},
		},
		update: []row{
			{"spec.ingressClassName = other", ""},
			{"metadata.annotations = {kubernetes.io/ingress.class: nginx}", ""},
			{"spec = {}", "spec: FieldValueInvalid"},
			{"status.loadBalancer.ingress = [{ip: x}]", ""},
		},
		status: []row{
			{"status.loadBalancer.ingress = [{ip: 1.2.3.4}, {hostname: lb.example.com}]", ""},
			{"status.loadBalancer.ingress = [{ip: x}]", "status.loadBalancer.ingress[0].ip: FieldValueInvalid"},
			{"status.loadBalancer.ingress = [{hostname: 1.2.3.4}]", "status.loadBalancer.ingress[0].hostname: FieldValueInvalid"},
			{"status.loadBalancer.ingress = [{hostname: A_}]", "status.loadBalancer.ingress[0].hostname: FieldValueInvalid"},
		},
	}
}

func ingressClassGolden() golden {
	return golden{
		resource: "ingressclasses.networking.k8s.io",
		base:     "metadata: {name: nginx}\nspec: {controller: example.com/ingress}",
		defaults: []row{{"spec.parameters = {kind: Setup, name: s, apiGroup: example.com}", "spec.parameters.scope = Cluster"}},
		valid:    []string{"spec.parameters = {kind: Setup, name: s, scope: Namespace, namespace: default}"},
		invalid: []row{
			{"spec.controller = ''", "spec.controller: FieldValueRequired"},
			{"spec.controller = ingress", "spec.controller: FieldValueInvalid"},
			{"spec.parameters = {kind: '', name: ''}", "spec.parameters.kind: FieldValueRequired, spec.parameters.name: FieldValueRequired"},
			{"spec.parameters = {kind: K, name: s, scope: Odd}", "spec.parameters.scope: FieldValueNotSupported"},
			{"spec.parameters = {kind: K, name: s, namespace: default}", "spec.parameters.namespace: FieldValueForbidden"},
			{"spec.parameters = {kind: K, name: s, scope: Namespace}", "spec.parameters.namespace: FieldValueRequired"},
			{"spec.parameters = {kind: K, name: s, scope: Namespace, namespace: A_}", "spec.parameters.namespace: FieldValueInvalid"},
		},
		update: []row{
			{"spec.parameters = {kind: Setup, name: s}", ""},
			{"spec.controller = example.com/other", "spec.controller: FieldValueInvalid"},
		},
	}
}

func networkPolicyGolden() golden {
	return golden{
		resource: "networkpolicies.networking.k8s.io",
		base: `
metadata: {name: deny, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: 80}], from: [{podSelector: {matchLabels: {app: front}}}]}]
`,
		defaults: []row{
			{"", "spec.policyTypes = [Ingress] & spec.ingress[0].ports[0].protocol = TCP"},
			{"spec.egress = [{ports: [{port: 53, protocol: UDP}, {}]}]", "spec.policyTypes = [Ingress, Egress] & spec.egress[0].ports = [{port: 53, protocol: UDP}, {protocol: TCP}]"},
			{"spec.policyTypes = [Egress]", "spec.policyTypes = [Egress]"},
			{"spec = {podSelector: {}}", "spec.policyTypes = [Ingress]"},
		},
		valid: []string{
			"spec.ingress[0].ports[0] = {port: http}",
			"spec.ingress[0].ports[0] = {port: 8000, endPort: 9000}",
			"spec.ingress[0].from = [{namespaceSelector: {}}, {podSelector: {}, namespaceSelector: {}}]",
			"spec.ingress[0].from = [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]",
			"spec.egress = [{to: [{ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8:1::/48']}}]}]",
			"spec.ingress = [{}]",
		},
		invalid: []row{
			{"spec.podSelector = {matchLabels: {a: 'b c'}}", "spec.podSelector.matchLabels: FieldValueInvalid"},
			{"spec.ingress[0].ports[0].protocol = ICMP", "spec.ingress[0].ports[0].protocol: FieldValueNotSupported"},
			{"spec.ingress[0].ports[0].port = 0", "spec.ingress[0].ports[0].port: FieldValueInvalid"},
			{"spec.ingress[0].ports[0].port = a_b", "spec.ingress[0].ports[0].port: FieldValueInvalid"},
			{"spec.ingress[0].ports[0] = {port: 90, endPort: 80}", "spec.ingress[0].ports[0].endPort: FieldValueInvalid"},
			{"spec.ingress[0].ports[0] = {port: 90, endPort: 70000}", "spec.ingress[0].ports[0].endPort: FieldValueInvalid"},
			{"spec.ingress[0].ports[0] = {port: http, endPort: 80}", "spec.ingress[0].ports[0].endPort: FieldValueInvalid"},
			{"spec.ingress[0].ports[0] = {endPort: 80}", "spec.ingress[0].ports[0].endPort: FieldValueInvalid"},
			{"spec.ingress[0].from = [{}]", "spec.ingress[0].from[0]: FieldValueRequired"},
			{"spec.ingress[0].from = [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]", "spec.ingress[0].from[0]: FieldValueForbidden"},
			{"spec.ingress[0].from = [{podSelector: {matchExpressions: [{key: a, operator: Odd}]}}]", "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator: FieldValueInvalid"},
			{"spec.ingress[0].from = [{ipBlock: {cidr: ''}}]", "spec.ingress[0].from[0].ipBlock.cidr: FieldValueRequired"},
			{"spec.ingress[0].from = [{ipBlock: {cidr: 10.0.0.0}}]", "spec.ingress[0].from[0].ipBlock.cidr: FieldValueInvalid"},
			{"spec.ingress[0].from = [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]", "spec.ingress[0].from[0].ipBlock.except[0]: FieldValueInvalid"},
			{"spec.ingress[0].from = [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]", "spec.ingress[0].from[0].ipBlock.except[0]: FieldValueInvalid"},
			{"spec.ingress[0].from = [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]", "spec.ingress[0].from[0].ipBlock.except[0]: FieldValueInvalid"},
			{"spec.egress = [{to: [{}]}]", "spec.egress[0].to[0]: FieldValueRequired"},
			{"spec.policyTypes = [Sideways]", "spec.policyTypes[0]: FieldValueNotSupported"},
			{"spec.policyTypes = [Ingress, Egress, Ingress]", "spec.policyTypes: FieldValueInvalid"},
		},
		update: []row{
			{"spec.podSelector = {}", ""},
			{"spec.ingress[0].from = [{}]", "spec.ingress[0].from[0]: FieldValueRequired"},
		},
	}
}

func ipAddressGolden() golden {
	return golden{
		resource: "ipaddresses.networking.k8s.io",
		base:     "metadata: {name: 10.96.0.5}\nspec: {parentRef: {resource: services, namespace: default, name: web}}",
		valid:    []string{"metadata.name = '2001:db8::1'", "spec.parentRef = {group: example.com, resource: widgets, name: w}"},
		invalid: []row{
			{"metadata.name = web", "metadata.name: FieldValueInvalid"},
			{"metadata.name = 10.01.2.3", "metadata.name: FieldValueInvalid"},
			{"metadata.name = '2001:db8:0:0:0::1'", "metadata.name: FieldValueInvalid"},
			{"spec = {}", "spec.parentRef: FieldValueRequired"},
			{"spec.parentRef = {}", "spec.parentRef.name: FieldValueRequired, spec.parentRef.resource: FieldValueRequired"},
			{"spec.parentRef.group = A_", "spec.parentRef.group: FieldValueInvalid"},
			{"spec.parentRef.name = a/b", "spec.parentRef.name: FieldValueInvalid"},
		},
		update: []row{
			{"metadata.labels = {a: b}", ""},
			{"spec.parentRef.name = other", "spec.parentRef: FieldValueInvalid"},
		},
	}
}

func serviceCIDRGolden() golden {
	return golden{
		resource: "servicecidrs.networking.k8s.io",
		base:     "metadata: {name: more}\nspec: {cidrs: [10.200.0.0/16]}",
		defaults: []row{{"status.conditions = [{type: Ready, status: 'True', reason: R, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]", "status = {}"}},
		valid:    []string{"spec.cidrs = [10.200.0.0/16, 'fd00:1::/112']"},
		invalid: []row{
			{"spec.cidrs = []", "spec.cidrs: FieldValueRequired"},
			{"spec.cidrs = [x]", "spec.cidrs[0]: FieldValueInvalid"},
			{"spec.cidrs = [10.200.0.5/16]", "spec.cidrs[0]: FieldValueInvalid"},
			{"spec.cidrs = [10.200.0.0/16, 10.201.0.0/16]", "spec.cidrs: FieldValueInvalid"},
			{"spec.cidrs = [10.200.0.0/16, 'fd00:1::/112', 'fd00:2::/112']", "spec.cidrs: FieldValueInvalid"},
		},
		update: []row{
			{"spec.cidrs = [10.201.0.0/16]", "spec.cidrs[0]: FieldValueInvalid"},
			{"spec.cidrs = [10.200.0.0/16, 'fd00:1::/112']", ""},
			{"spec.cidrs = [10.200.0.0/16, 'fd00:1::/112'] => spec.cidrs = [10.200.0.0/16]", "spec.cidrs: FieldValueInvalid"},
		},
		status: []row{
			{"status.conditions = [{type: Ready, status: 'True', reason: Fine, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]", ""},
			{"status.conditions = [{type: Ready, status: Odd, reason: Fine, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]", "status.conditions[0].status: FieldValueNotSupported"},
		},
	}
}

func endpointsGolden() golden {
	return golden{
		resource: "endpoints",
		base:     "metadata: {name: web, namespace: default}\nsubsets: [{addresses: [{ip: 10.244.1.2}], ports: [{port: 80}]}]",
		defaults: []row{{"", "subsets[0].ports[0].protocol = TCP"}},
		valid: []string{
			"subsets = ~",
			"subsets[0].addresses = ~ & subsets[0].notReadyAddresses = [{ip: 10.244.1.3, hostname: a, nodeName: n1}]",
			"subsets[0].ports = [{name: a, port: 80}, {name: b, port: 81, protocol: UDP, appProtocol: kubernetes.io/h2c}]",
		},
		invalid: []row{
			{"subsets[0].addresses = []", "subsets[0]: FieldValueRequired"},
			{"subsets[0].addresses[0].ip = x", "subsets[0].addresses[0].ip: FieldValueInvalid"},
			{"subsets[0].addresses[0].ip = 127.0.0.1", "subsets[0].addresses[0].ip: FieldValueInvalid"},
			{"subsets[0].addresses[0].ip = 169.254.1.1", "subsets[0].addresses[0].ip: FieldValueInvalid"},
			{"subsets[0].addresses[0].hostname = a.b", "subsets[0].addresses[0].hostname: FieldValueInvalid"},
			{"subsets[0].addresses[0].nodeName = N_", "subsets[0].addresses[0].nodeName: FieldValueInvalid"},
			{"subsets[0].notReadyAddresses = [{ip: z}]", "subsets[0].notReadyAddresses[0].ip: FieldValueInvalid"},
			{"subsets[0].ports = [{port: 80}, {name: b, port: 81}]", "subsets[0].ports[0].name: FieldValueRequired"},
			{"subsets[0].ports[0].name = a.b", "subsets[0].ports[0].name: FieldValueInvalid"},
			{"subsets[0].ports[0].port = 0", "subsets[0].ports[0].port: FieldValueInvalid"},
			{"subsets[0].ports[0].protocol = x", "subsets[0].ports[0].protocol: FieldValueNotSupported"},
			{"subsets[0].ports[0].appProtocol = 'a b'", "subsets[0].ports[0].appProtocol: FieldValueInvalid"},
		},
		update: []row{{"subsets = []", ""}, {"subsets[0].addresses[0].ip = 0.0.0.0", "subsets[0].addresses[0].ip: FieldValueInvalid"}},
	}
}
